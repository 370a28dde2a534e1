"""Running a compiled library on a GPU; imports neither TVM nor torch."""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler import host
from qcompiler.artifact import host_array
from qcompiler.backends.cuda.dlpack import DeviceArray, Result, on_gpu
from qcompiler.errors import FileError, TargetError, UsageError
from qcompiler.files import fresh_link

if TYPE_CHECKING:
    from qcompiler.artifact import Metadata

_ADDRESS = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "qc_error": (ctypes.c_char_p,),
    "qc_open": (_ADDRESS, ctypes.c_int),
    "qc_close": (None, _ADDRESS),
    "qc_run": (ctypes.c_int, _ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS),
    "qc_run_host": (ctypes.c_int, _ADDRESS, _ADDRESS, _ADDRESS),
    "qc_new": (_ADDRESS, _ADDRESS, ctypes.c_int, _ADDRESS),
    "qc_follow": (ctypes.c_int, _ADDRESS, _ADDRESS, _ADDRESS),
}
"""Functions of the runtime (runtime.h): result and parameters."""


class Runner:
    """A library and its models, one for each GPU that is used.

    Args:
        path: The library.
        metadata: What it says about itself.
        threads: Not used: GPUs do not count threads.

    Raises:
        TargetError: there is no GPU that it has code for, or no driver.
        FileError: the dynamic linker refuses it.
        UsageError: `threads` is less than 1.
    """

    def __init__(self, path: Path, metadata: Metadata, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"threads: expected at least 1, found {threads}")
        if metadata.architecture != (here := host.architecture()):
            raise TargetError(
                f"{path}: compiled on {metadata.architecture}, this machine is {here}: "
                "compile on a machine of this kind"
            )
        self._path = path
        self._library = _open(path)
        self._outputs = [(v.type.shape, np.dtype(v.type.dtype)) for v in metadata.outputs]
        self._models: dict[int, _Model] = {}
        self._lock = threading.Lock()
        self._model(0)  # what cannot run is refused here, not at the first call

    def accept(self, name: str, x: Any, stream: Any) -> np.ndarray | DeviceArray:
        """An input as an array that the GPU reads, or that is copied there.

        Raises:
            UsageError: it is no array, or no dense and aligned tensor.
        """
        if hasattr(x, "__dlpack_device__") and not isinstance(x, np.ndarray) and on_gpu(x):
            number = _current_stream(x) if stream is None else _stream_number(stream)
            return DeviceArray(name, x, number)
        if stream is not None:
            raise UsageError(f"input {name!r}: expected a tensor on the GPU, as there is a stream")
        return host_array(name, x)

    def run(self, inputs: Sequence[np.ndarray | DeviceArray]) -> list[Any]:
        """Feed checked arrays: all on the host, or all on one GPU.

        Raises:
            UsageError: they lie in several places.
            TargetError: the driver refuses, or there is no code for that GPU.
        """
        places = {x.device if isinstance(x, DeviceArray) else None for x in inputs}
        if len(places) > 1:
            raise UsageError("inputs: expected all of them on the host, or all on one GPU")
        place = places.pop() if places else None
        if place is None:
            return self._model(0).run_host(inputs, self._outputs)
        return self._model(place).run(inputs, len(self._outputs))

    def _model(self, device: int) -> _Model:
        with self._lock:
            if device not in self._models:
                self._models[device] = _Model(self._path, self._library, device)
            return self._models[device]


class _Model:
    """A model on one GPU."""

    def __init__(self, path: Path, library: Any, device: int) -> None:
        self._path = path
        self._library = library
        self._handle = library.qc_open(device)
        if not self._handle:
            raise self._failed()
        weakref.finalize(self, library.qc_close, self._handle).atexit = False

    def run_host(
        self, inputs: Sequence[Any], outputs: Sequence[tuple[tuple[int, ...], np.dtype]]
    ) -> list[np.ndarray]:
        arrays = [np.ascontiguousarray(x) for x in inputs]
        results = [np.empty(shape, dtype) for shape, dtype in outputs]
        sources = _addresses([x.ctypes.data for x in arrays])
        targets = _addresses([y.ctypes.data for y in results])
        if self._library.qc_run_host(self._handle, sources, targets):
            raise self._failed()
        return results

    def run(self, inputs: Sequence[Any], outputs: int) -> list[Any]:
        stream = inputs[0].stream
        results = [self._new(i, stream) for i in range(outputs)]
        sources = _addresses([x.address for x in inputs])
        targets = _addresses([y.address for y in results])
        if self._library.qc_run(self._handle, stream, sources, targets):
            raise self._failed()
        return [_native(y, inputs[0].owner) for y in results]

    def follow(self, stream: int, earlier: int) -> None:
        """Let work on `stream` wait for what `earlier` holds now.

        Raises:
            TargetError: the driver refuses.
        """
        if self._library.qc_follow(self._handle, stream, earlier):
            raise self._failed()

    def _new(self, output: int, stream: int) -> Result:
        tensor = self._library.qc_new(self._handle, output, stream)
        if not tensor:
            raise self._failed()
        return Result(tensor, self._library, self, stream)

    def _failed(self) -> TargetError:
        return TargetError(f"{self._path}: {self._library.qc_error().decode(errors='replace')}")


def _open(path: Path) -> Any:
    try:
        with fresh_link(path) as link:
            library = ctypes.CDLL(str(link))
        for name, (result, *parameters) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, parameters
    except (OSError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileError(f"{path}: cannot be loaded ({reason})") from error
    return library


def _addresses(values: Sequence[int]) -> ctypes.Array[ctypes.c_uint64]:
    return (ctypes.c_uint64 * max(len(values), 1))(*values)


def _current_stream(x: Any) -> int:
    """The stream on which torch works with the tensor and will use its memory again; else the
    default stream: DLPack does not tell.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(x, torch.Tensor):
        return 0
    return int(torch.cuda.current_stream(x.device).cuda_stream)


def _stream_number(stream: Any) -> int:
    """The CUstream of a stream of torch (`cuda_stream`), of CuPy (`ptr`), or of `__cuda_stream__`.

    Raises:
        UsageError: it is none of these.
    """
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for attribute in ("cuda_stream", "ptr"):
        if hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    if isinstance(stream, int):
        return stream
    raise UsageError(f"stream: expected a number or a stream of CUDA, found {stream!r}")


def _native(result: Result, like: Any) -> Any:
    """The tensor in the library of the caller's tensors, where that takes DLPack."""
    package = sys.modules.get(type(like).__module__.partition(".")[0])
    take = getattr(package, "from_dlpack", None)
    return result if take is None else take(result)
