"""What tuning found on this machine, kept in a file so that the next compilation is quick."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from qcompiler.errors import OutputError
from qcompiler.files import atomic_path

VARIABLE = "QCOMPILER_TUNING"
"""Environment variable: another file than the default one."""

FORMAT = 1


class TuningCacheWarning(UserWarning):
    """The file of tuning results cannot be used: tuning works, and takes its time again."""


def default_path() -> Path:
    """The file that `VARIABLE` names, else one in the user's cache folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "qcompiler" / "tuning.json"


class TuningCache:
    """Key → result, both of which JSON can hold.

    Args:
        path: The file; a missing one is an empty one, a damaged one is ignored with a warning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = self._read()

    def get(self, key: str) -> dict[str, Any] | None:
        """The result under a key."""
        return self._entries.get(key)

    def put(self, key: str, result: dict[str, Any]) -> None:
        """Store a result, along with what other processes have stored since."""
        self._entries = {**self._read(), **self._entries, key: result}
        text = json.dumps({"format": FORMAT, "entries": self._entries}, indent=1, sort_keys=True)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._path) as path:
                path.write_text(text, "utf-8")
        except (OSError, OutputError) as error:
            self._warn(f"cannot be written ({error})")

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(self._path.read_text("utf-8"))
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']}")
            entries = found["entries"]
            if not all(isinstance(entry, dict) for entry in entries.values()):
                raise ValueError("entries of another kind")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._warn(f"ignored, since it cannot be read ({error})")
            return {}
        return entries

    def _warn(self, what: str) -> None:
        message = f"{self._path}: tuning results {what}: delete it, or name another in ${VARIABLE}"
        warnings.warn(message, TuningCacheWarning, stacklevel=2)
