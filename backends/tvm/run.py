"""Running a compiled library."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tvm  # noqa: F401  # the library's symbols are TVM's runtime
import tvm_ffi

from qcompiler.backends.tvm import machine
from qcompiler.backends.tvm.program import ENTRY
from qcompiler.errors import FileError, TargetError, UsageError

if TYPE_CHECKING:
    from qcompiler.artifact import Metadata

_SHARE_ALL_CORES = -3
"""Threads float over the given cores; TVM's other modes pin the caller's thread to one."""

_pool = threading.local()
"""Each calling thread has a pool of its own in TVM's runtime; `threads` is what it is set to."""


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
        self.threads = min(threads or machine.cores(), machine.cores())
        self._outputs = [(v.type.shape, np.dtype(v.type.dtype)) for v in metadata.outputs]
        self._module = _open(path)
        self._function = self._module.get_function(ENTRY)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Feed checked arrays; those that are contiguous and writable are not copied."""
        outputs = [np.empty(shape, dtype) for shape, dtype in self._outputs]
        if getattr(_pool, "threads", None) != self.threads:
            _configure(self.threads)
            _pool.threads = self.threads
        self._function(*(_tensor(x) for x in inputs), *map(tvm_ffi.from_dlpack, outputs))
        return outputs


def check_machine(path: Path, metadata: Metadata) -> None:
    """Refuse code that this machine cannot run.

    Raises:
        TargetError: it has another architecture or lacks CPU features.
    """
    here = machine.architecture()
    if metadata.architecture != here:
        raise TargetError(
            f"{path}: compiled for {metadata.architecture}, this machine is {here}: "
            "compile for a target of this machine"
        )
    has = machine.host_features()
    if lacking := [f for f in metadata.features if not has.get(f, False)]:
        raise TargetError(
            f"{path}: compiled for {metadata.target}, this CPU lacks {', '.join(lacking)}: "
            "compile with --target cpu on this machine, or for an older CPU"
        )


def _tensor(x: np.ndarray) -> tvm_ffi.Tensor:
    if not x.flags.c_contiguous or not x.flags.writeable:  # DLPack cannot say "read-only"
        x = np.array(x, order="C", copy=True)
    return tvm_ffi.from_dlpack(x)


def _open(path: Path) -> tvm_ffi.Module:
    """Load under a name that was never used before.

    The dynamic linker would take a library of the same path for the one it has already loaded, even
    if the file was replaced since.
    """
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        link = Path(folder) / "model.so"
        link.symlink_to(path.resolve())
        try:
            return tvm_ffi.load_module(str(link))
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FileError(f"{path}: cannot be loaded ({reason})") from error


def _configure(threads: int) -> None:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    configure = tvm_ffi.get_global_func("runtime.config_threadpool")
    configure(_SHARE_ALL_CORES, threads, [str(core) for core in cores])
