"""Stored samples of one input: read in ascending order, a batch at a time."""

import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from qcompiler.calibrate.feeds import Input
from qcompiler.errors import FileError

# What reading a damaged, encrypted or foreign file ends in.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,  # numpy tokenizes headers that Python 2 may have written
    zipfile.BadZipFile,
    zlib.error,
)

# Bytes read at once of what is skipped.
_SKIP = 1 << 20


class Column(Protocol):
    """Samples of one input in random access, with a known number of rows."""

    @property
    def length(self) -> int:
        """How many samples there are."""

    def batches(self, groups: Iterable[NDArray[np.intp]]) -> Iterator[NDArray]:
        """The rows of each group of indices, which ascend from the first group to the last."""


@dataclass(frozen=True, eq=False)
class ArrayColumn:
    """Samples in memory.

    Attributes:
        array: [N, …].
        wanted: The input they are for.
        origin: Where they are from, for messages.
    """

    array: NDArray
    wanted: Input
    origin: str

    @property
    def length(self) -> int:
        """See `Column`."""
        return len(self.array)

    def batches(self, groups: Iterable[NDArray[np.intp]]) -> Iterator[NDArray]:
        """See `Column`."""
        for group in groups:
            yield self.wanted.cast(self.array[group], self.origin)


@dataclass(frozen=True)
class FileColumn:
    """Samples in an .npy file or in a member of an .npz file, read as a stream.

    A member is decompressed once per walk and only a batch of it is in memory.

    Attributes:
        path: The file.
        member: Name within the archive, or None for a plain .npy file.
        wanted: The input they are for.
        origin: Where they are from, for messages.
        dtype: Stored dtype.
        shape: Stored shape, with the sample dimension in front.
    """

    path: Path
    member: str | None
    wanted: Input
    origin: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """See `Column`."""
        return self.shape[0]

    def batches(self, groups: Iterable[NDArray[np.intp]]) -> Iterator[NDArray]:
        """See `Column`.

        Raises:
            FileError: The file ends early or is damaged.
        """
        size = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        with _stream(self.path, self.member) as stream:
            _read_header(stream, self.member)
            position = 0
            for group in groups:
                batch = np.empty((len(group), *self.shape[1:]), self.dtype)
                for slot, row in enumerate(group):
                    self._read(stream, (int(row) - position) * size, keep=False)
                    data = self._read(stream, size, keep=True)
                    batch[slot] = np.frombuffer(data, self.dtype).reshape(self.shape[1:])
                    position = int(row) + 1
                yield self.wanted.cast(batch, self.origin)

    def _read(self, stream: IO[bytes], size: int, *, keep: bool) -> bytes:
        data = b""
        while size:
            try:
                part = stream.read(size if keep else min(size, _SKIP))
            except _UNREADABLE as error:
                raise FileError(f"{self.origin} is damaged ({error}): store it again") from error
            if not part:
                raise FileError(f"{self.origin} ends before its last sample: store it again")
            size -= len(part)
            data += part if keep else b""
        return data


@dataclass(frozen=True)
class Header:
    """What the header of one stored array says.

    Attributes:
        member: Name within the archive, or None for a plain .npy file.
        dtype: Stored dtype.
        shape: Stored shape.
        fortran: Whether the first dimension varies fastest.
    """

    member: str | None
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool


def headers(path: Path) -> dict[str, Header]:
    """The arrays of an .npz file by name, or that of an .npy file as 'x', from the headers alone.

    Raises:
        FileError: The file is missing, unreadable or of another kind.
    """
    members: dict[str, str | None] = {"x": None}
    found = {}
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(".npy")]
            members = {name.removesuffix(".npy"): name for name in names}
        for name, member in members.items():
            with _stream(path, member) as stream:
                found[name] = _read_header(stream, member)
    except zipfile.BadZipFile as error:
        raise FileError(
            f"{path} is no npz archive: write it with numpy.savez (pickles are refused)"
        ) from error
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise FileError(
            f"cannot read {path} ({reason}): expected arrays stored with numpy.save or numpy.savez"
        ) from error
    return found


def file_column(path: Path, header: Header, wanted: Input, origin: str) -> Column:
    """The column of one array, checked against the input it is for.

    Raises:
        CalibrationError: Its shape or dtype does not fit.
        FileError: It is damaged.
    """
    wanted.check_dtype(header.dtype, origin)
    shape = wanted.rows_shape(header.shape, origin)
    if not header.fortran:
        return FileColumn(path, header.member, wanted, origin, header.dtype, shape)
    try:
        # Its samples are interleaved, so that there is no reading it one by one.
        with _stream(path, header.member) as stream:
            _read_header(stream, header.member)
            array = np.frombuffer(stream.read(), header.dtype)  # of what is there, not of a claim
        array = array.reshape(header.shape, order="F")
    except _UNREADABLE as error:
        raise FileError(f"{origin} is damaged ({error}): store it again") from error
    return ArrayColumn(array.reshape(shape), wanted, origin)


def _read_header(stream: IO[bytes], member: str | None) -> Header:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"unknown npy version {version}")
    if min(shape, default=0) < 0:
        raise ValueError(f"sizes {shape}")
    return Header(member, dtype, shape, fortran)


@contextmanager
def _stream(path: Path, member: str | None) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        if member is None:
            yield stack.enter_context(path.open("rb"))
            return
        archive = stack.enter_context(zipfile.ZipFile(path))
        yield stack.enter_context(archive.open(member))
