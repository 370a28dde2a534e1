"""Type-check the package as it installs: checkers do not follow the folders' mapping.

python tools/typecheck.py
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAPPING = {"qcompiler": "qcompiler", "passes": "qcompiler/passes", "backends": "qcompiler/backends"}


def main() -> int:
    """Lay the folders out in a temporary directory and run mypy there."""
    with tempfile.TemporaryDirectory() as folder:
        for source, place in MAPPING.items():
            shutil.copytree(
                ROOT / source, Path(folder, place), ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(ROOT / "pyproject.toml", folder)
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--cache-dir",
            str(ROOT / ".mypy_cache"),
            "qcompiler",
        ]
        return subprocess.run(command, cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main())
