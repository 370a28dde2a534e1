"""The tools import each other by their plain names, as scripts of one folder do."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tools"))
