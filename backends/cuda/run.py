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
from qcompiler.backends.cuda.dlpack import ALIGNMENT, DeviceArray, Result, on_gpu
from qcompiler.dispatch import in_parts
from qcompiler.errors import FileError, TargetError, UsageError
from qcompiler.files import fresh_link

if TYPE_CHECKING:
    from qcompiler.metadata import Batch, Metadata, Part, Value
    from qcompiler.types import TensorType

_ADDRESS, _INT = ctypes.c_void_p, ctypes.c_int

_DLPACK = {"i": 0, "u": 1, "f": 2, "b": 6}
"""Kind of a numpy dtype → DLDataTypeCode."""

_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "qc_error": (ctypes.c_char_p,),
    "qc_open": (_ADDRESS, _INT),
    "qc_close": (None, _ADDRESS),
    "qc_run": (_INT, _ADDRESS, _INT, _ADDRESS, _ADDRESS, _ADDRESS),
    "qc_run_host": (_INT, _ADDRESS, _INT, _ADDRESS, _ADDRESS),
    "qc_new": (_ADDRESS, _ADDRESS, _INT, _ADDRESS, _INT, _INT, _ADDRESS),
    "qc_copy": (_INT, _ADDRESS, _ADDRESS, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64),
    "qc_follow": (_INT, _ADDRESS, _ADDRESS, _ADDRESS),
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
        self._metadata = metadata
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
            arrays = [x for x in inputs if isinstance(x, np.ndarray)]
            return in_parts(self._metadata, arrays, self._model(0).run_host)
        tensors = [x for x in inputs if isinstance(x, DeviceArray)]
        results = self._model(place).run(self._metadata, tensors)
        return [_native(y, tensors[0].owner) for y in results]

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
        self, program: int, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
    ) -> None:
        """Run a program on contiguous arrays of the host.

        Raises:
            TargetError: the driver refuses.
        """
        sources = _addresses([x.ctypes.data for x in inputs])
        targets = _addresses([y.ctypes.data for y in outputs])
        if self._library.qc_run_host(self._handle, program, sources, targets):
            raise self._failed()

    def run(self, metadata: Metadata, inputs: Sequence[DeviceArray]) -> list[Result]:
        """Enqueue what a call needs on the stream of its inputs.

        Raises:
            TargetError: the driver refuses.
            UsageError: samples lie along an axis that only the host can cut.
        """
        stream, batch = inputs[0].stream, metadata.batch
        if metadata.lengths is not None:
            raise UsageError("inputs: sequences are padded on the host: feed numpy arrays")
        sources = [x.address for x in inputs]
        if batch is None:
            results = [self._new(v.type, stream) for v in metadata.outputs]
            self._enqueue(0, stream, sources, [y.address for y in results])
            return results
        if any(batch.inputs) or any(batch.outputs):
            raise UsageError("inputs: samples lie along other axes than the first: feed arrays")
        samples = batch.samples(inputs)
        assert samples is not None
        ends = zip(metadata.outputs, batch.outputs, strict=True)
        results = [self._new(batch.resized(v.type, axis, samples), stream) for v, axis in ends]
        for part in batch.parts(samples):
            self._run_part(metadata, batch, part, stream, sources, [y.address for y in results])
        return results

    def _run_part(
        self,
        metadata: Metadata,
        batch: Batch,
        part: Part,
        stream: int,
        sources: Sequence[int],
        targets: Sequence[int],
    ) -> None:
        """Run a program where the samples are, or on copies where kernels could not work there."""
        program, size = metadata.programs[part.program], batch.sizes[part.program]

        def place(start: int, value: Value, axis: int | None) -> tuple[int, int, Result | None]:
            """Address and bytes of the samples, and memory for a copy if there has to be one."""
            each = value.type.nbytes // size
            if axis is None:
                return start, value.type.nbytes, None
            address, nbytes = start + part.first * each, part.count * each
            fits = part.count == size and address % ALIGNMENT == 0
            return address, nbytes, None if fits else self._new(value.type, stream)

        fed, written = (
            [place(*end) for end in zip(starts, values, axes, strict=True)]
            for starts, values, axes in (
                (sources, program.inputs, batch.inputs),
                (targets, program.outputs, batch.outputs),
            )
        )
        for address, nbytes, copy in fed:
            if copy is not None:
                self._copy(stream, copy.address, address, nbytes)
        direct = (
            [address if copy is None else copy.address for address, _, copy in ends]
            for ends in (fed, written)
        )
        self._enqueue(part.program, stream, *direct)
        for address, nbytes, copy in written:
            if copy is not None:
                self._copy(stream, address, copy.address, nbytes)

    def _enqueue(
        self, program: int, stream: int, sources: Sequence[int], targets: Sequence[int]
    ) -> None:
        ends = _addresses(sources), _addresses(targets)
        if self._library.qc_run(self._handle, program, stream, *ends):
            raise self._failed()

    def _copy(self, stream: int, to: int, source: int, nbytes: int) -> None:
        if self._library.qc_copy(self._handle, stream, to, source, nbytes):
            raise self._failed()

    def follow(self, stream: int, earlier: int) -> None:
        """Let work on `stream` wait for what `earlier` holds now.

        Raises:
            TargetError: the driver refuses.
        """
        if self._library.qc_follow(self._handle, stream, earlier):
            raise self._failed()

    def _new(self, kind: TensorType, stream: int) -> Result:
        shape = (ctypes.c_int64 * max(kind.rank, 1))(*kind.shape)
        dtype = np.dtype(kind.dtype)
        of_dlpack = _DLPACK[dtype.kind], 8 * dtype.itemsize
        tensor = self._library.qc_new(self._handle, kind.rank, shape, *of_dlpack, stream)
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
