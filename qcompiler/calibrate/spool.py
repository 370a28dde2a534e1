"""Feeds that come only once, kept in a temporary file to be walked again."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterator
from typing import IO

import numpy as np

from qcompiler.calibrate.feeds import Feed
from qcompiler.errors import CalibrationError, OutputError
from qcompiler.types import raw


class Spool:
    """The feeds of an iterator, for any number of walks; memory holds one of them.

    The iterator is read as far as the longest walk so far.  The file goes with the object, and
    where the system allows it has no name, so that nothing is left of it whatever happens.
    """

    def __init__(self, feeds: Iterator[Feed]) -> None:
        """Read nothing yet.

        Args:
            feeds: All of the same names, shapes and dtypes.
        """
        self._feeds = feeds
        self._file: IO[bytes] | None = None
        self._first: Feed = {}
        self._stored = 0
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Feed]:
        """Each feed in an array of its own.

        Raises:
            CalibrationError: feeds that differ in names, shapes or dtypes.
            OutputError: the temporary file cannot be written.
        """
        number = 0
        while number < self._stored or self._take():
            yield self._read(number)
            number += 1

    def _take(self) -> bool:
        """Store one more feed, if there is one."""
        if self._error is not None:  # what is stored is not all
            raise self._error
        try:
            feed = next(self._feeds, None)
            if feed is not None:
                self._write(feed)
        except Exception as error:
            self._error = error
            raise
        return feed is not None

    def _write(self, feed: Feed) -> None:
        self._first = self._first or feed
        if _layout(feed) != _layout(self._first):
            raise CalibrationError(
                f"sample {self._stored} of an iterator has {_layout(feed)}, the first had "
                f"{_layout(self._first)}: expected samples that are alike"
            )
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="qcompiler-")  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            self._file.seek(self._stored * _size(feed))
            for array in feed.values():
                self._file.write(raw(array))
        except OSError as error:
            raise OutputError(
                f"cannot keep the samples of an iterator in {tempfile.gettempdir()} "
                f"({error.strerror}): make room there, set TMPDIR, or give the samples as a file"
            ) from error
        self._stored += 1

    def _read(self, number: int) -> Feed:
        assert self._file is not None
        self._file.seek(number * _size(self._first))
        feed = {name: np.empty_like(array, order="C") for name, array in self._first.items()}
        for array in feed.values():
            self._file.readinto(raw(array))  # type: ignore[attr-defined]  # a BufferedRandom
        return feed


def _layout(feed: Feed) -> str:
    return ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in feed.items())


def _size(feed: Feed) -> int:
    return sum(array.nbytes for array in feed.values())
