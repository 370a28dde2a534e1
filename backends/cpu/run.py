"""Running a compiled library, without TVM: the library is all that it needs."""

from __future__ import annotations

import _ctypes
import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler import host
from qcompiler.artifact import host_array
from qcompiler.backends.cpu import machine
from qcompiler.dispatch import in_parts
from qcompiler.errors import FileError, TargetError, UsageError
from qcompiler.files import fresh_link

if TYPE_CHECKING:
    from qcompiler.metadata import Metadata


class Library:
    """A loaded library; it is unloaded when nobody has it any more.

    Attributes:
        functions: Its C functions; see `runtime.c`.

    Args:
        path: The file.

    Raises:
        FileError: the dynamic linker refuses it.
    """

    def __init__(self, path: Path) -> None:
        self.functions = _open(path)
        weakref.finalize(self, _close, self.functions).atexit = False

    def run(
        self,
        program: int,
        arrays: Sequence[np.ndarray],
        threads: int,
        clock: np.ndarray | None = None,
    ) -> None:
        """Call a program on contiguous inputs and outputs.

        Args:
            program: Its index in the metadata.
            arrays: Inputs and outputs.
            threads: How many take part.
            clock: int64 [calls + 1]; gets the time in nanoseconds before the first kernel and
                behind each call of one.

        Raises:
            MemoryError: the workspace does not fit into memory.
        """
        addresses = (ctypes.c_void_p * len(arrays))(*(x.ctypes.data for x in arrays))
        times = None if clock is None else ctypes.c_void_p(clock.ctypes.data)
        if self.functions.qc_run(program, addresses, threads, times):
            raise MemoryError("no memory for the values of the network")


class Runner:
    """Calls a library's program.

    Args:
        path: The library.
        metadata: What it says about itself.
        threads: See `qcompiler.artifact.load`.

    Raises:
        TargetError: this machine cannot run its code.
        FileError: the dynamic linker refuses it.
        UsageError: `threads` is less than 1.
    """

    def __init__(self, path: Path, metadata: Metadata, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"threads: expected at least 1, found {threads}")
        check_machine(path, metadata)
        wanted = threads or metadata.threads or host.cores()
        self.threads = min(wanted, host.cores())
        self._metadata = metadata
        self._library = Library(path)

    def accept(self, name: str, x: Any, stream: Any) -> np.ndarray:
        """An input as a numpy array.

        Raises:
            UsageError: it is no array, or not on the CPU; or there is a stream.
        """
        if stream is not None:
            raise UsageError("stream: the model was compiled for the CPU: leave it out")
        return host_array(name, x)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Feed checked arrays; those that are contiguous are not copied.

        Raises:
            MemoryError: the workspace does not fit into memory.
        """

        def run(program: int, x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> None:
            self._library.run(program, [*x, *y], self.threads)

        return in_parts(self._metadata, inputs, run)

    def kernel_times(self, program: int, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Run a program once on its inputs: nanoseconds of each kernel call, int64 [calls]."""
        found = self._metadata.programs[program]
        clock = np.zeros(len(found.calls) + 1, np.int64)
        outputs = [np.empty(v.type.shape, v.type.dtype) for v in found.outputs]
        self._library.run(program, [*inputs, *outputs], self.threads, clock)
        return np.diff(clock)


def check_machine(path: Path, metadata: Metadata) -> None:
    """Refuse code that this machine cannot run.

    Raises:
        TargetError: it has another architecture or lacks CPU features.
    """
    here = host.architecture()
    if metadata.architecture != here:
        raise TargetError(
            f"{path}: compiled for {metadata.architecture}, this machine is {here}: "
            "compile for a target of this machine"
        )
    if lacking := machine.lacking(metadata.features):
        raise TargetError(
            f"{path}: compiled for {metadata.target}, this CPU lacks {', '.join(lacking)}: "
            "compile with --target cpu on this machine, or for an older CPU"
        )


def _open(path: Path) -> ctypes.CDLL:
    try:
        with fresh_link(path) as link:
            library = ctypes.CDLL(str(link))
        library.qc_open()
        library.qc_run.argtypes = (
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_void_p,
        )
    except (OSError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileError(f"{path}: cannot be loaded ({reason})") from error
    return library


def _close(library: ctypes.CDLL) -> None:
    """End the library's threads and unload it."""
    library.qc_close()
    _ctypes.dlclose(library._handle)
