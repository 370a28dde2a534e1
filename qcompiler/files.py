"""Writing files so that nobody ever sees half of one, and loading libraries as they are now."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qcompiler.errors import OutputError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write in place of `path`, which takes its place when the block succeeds.

    The temporary file lies in the same folder and keeps the suffix (linkers look at it).  When the
    block fails or is interrupted it is removed, and what `path` held before is still there.

    Args:
        path: The file to write; a symbolic link is followed.

    Yields:
        The path to write to: an empty file.

    Raises:
        OutputError: the file cannot be written, whether that shows before, in or after the block.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OutputError(f"{path}: not a regular file: name a file to write")
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        temporary.touch(exist_ok=False)
        try:
            yield temporary
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}): name a file in a folder that "
            "exists, is writable and has space left"
        ) from error


@contextmanager
def fresh_link(library: Path) -> Iterator[Path]:
    """A name for a shared library that was never used before.

    The dynamic linker would take a library of the same path for the one it has already loaded, even
    if the file was replaced since.

    Yields:
        A link, which is gone behind the block.
    """
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        link = Path(folder) / "model.so"
        link.symlink_to(library.resolve())
        yield link
