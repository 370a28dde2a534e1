"""Calibration samples from a function in the user's Python file."""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qcompiler.errors import CalibrationError, FileError

_MODULE = "qcompiler_calibration_script"


def load(path: Path, name: str) -> Callable[[], Any]:
    """Import the file and return the function, which tells errors in the script as such.

    The script's folder is importable while the file is imported.

    Raises:
        FileError: There is no such file.
        CalibrationError: Importing it fails, or it has no such function.
    """
    if not path.is_file():
        raise FileError(f"no script {path}: give an existing file as script.py:function")
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None:
        raise FileError(f"{path} is no Python file: give script.py:function")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.modules[_MODULE] = module  # dataclasses and the like look their module up there
    sys.path.insert(0, folder)
    try:
        with blamed(path):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    function = getattr(module, name, None)
    if callable(function):
        return function
    known = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == _MODULE
    ]
    raise CalibrationError(
        f"script {path} has no function '{name}'; it has {', '.join(known) or 'none'}: "
        "give script.py:function"
    )


@contextmanager
def blamed(path: Path) -> Iterator[None]:
    """Turn what the script raises into a `CalibrationError` with the script's line."""
    try:
        yield
    except CalibrationError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == path.resolve()]
        line = lines[-1] if lines else getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else str(path)
        message = (str(error).splitlines() or [""])[0]
        raise CalibrationError(
            f"calibration script {where} raised {type(error).__name__}: {message}: mend the script"
        ) from error


def blaming(items: Iterable[Any], path: Path) -> Iterator[Any]:
    """The items, with what their iterator raises blamed on the script."""
    with blamed(path):
        iterator = iter(items)
    while True:
        with blamed(path):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
