"""Shared by all tests: the helpers beside this file are importable by their plain names."""

import sys
from pathlib import Path

from hypothesis import settings

# Appended and not inserted: the folder has subfolders named like packages elsewhere.
sys.path.append(str(Path(__file__).parent))

settings.register_profile("qcompiler", deadline=None)  # machines may be busy
settings.load_profile("qcompiler")
