"""Tensors on a GPU, to and from other libraries, through DLPack.

The structures are those of DLPack 0.8 (`DLManagedTensor`, `DLTensor`), which every library speaks.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from qcompiler.errors import UsageError

CUDA = 2
"""kDLCUDA."""

ALIGNMENT = 16
"""Of tensors, in bytes: kernels copy vectors of that size."""

_NAME = b"dltensor"
_USED = b"used_dltensor"
_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}


class Tensor(ctypes.Structure):
    """DLManagedTensor; the DLTensor that it begins with is spelled out."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    )


_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = (
    ctypes.py_object,
    (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p),
)
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def on_gpu(x: Any) -> bool:
    """Whether an object with DLPack lies on a GPU."""
    return int(x.__dlpack_device__()[0]) == CUDA


class DeviceArray:
    """A caller's tensor on a GPU, borrowed for one call.

    Attributes:
        owner: What the caller gave.
        stream: On which it can be read from now on.
        device: Number of the GPU.
        address: Of its first element.
        dtype: In numpy's words, such as "float32".
        shape: Its dimensions.
    """

    def __init__(self, name: str, x: Any, stream: int) -> None:
        """Borrow.

        Args:
            name: Of the input, for errors.
            x: A tensor on a GPU.
            stream: Of CUDA; the tensor's library makes it wait for what computes the tensor.

        Raises:
            UsageError: its elements are not dense in C order, or not aligned.
        """
        self.owner = x
        self.stream = stream
        # 1 stands for the legacy default stream in the protocol, where 0 is ambiguous.
        self._capsule = x.__dlpack__(stream=stream or 1)
        tensor = Tensor.from_address(_pointer(self._capsule, _NAME))
        self.device = int(tensor.device)
        self.address = (tensor.data or 0) + tensor.offset
        self.shape = tuple(tensor.shape[: tensor.rank])
        kind = _KINDS.get(tensor.code, f"kind{tensor.code}_")
        self.dtype = kind if kind == "bool" else f"{kind}{tensor.bits}"
        if tensor.strides and not _dense(self.shape, tensor.strides[: tensor.rank]):
            raise UsageError(
                f"input {name!r}: expected elements in C order without gaps: call .contiguous()"
            )
        if self.address % ALIGNMENT:
            raise UsageError(
                f"input {name!r}: expected memory at a multiple of {ALIGNMENT} bytes, as a new "
                "tensor has it: call .clone()"
            )


def _dense(shape: tuple[int, ...], strides: list[int]) -> bool:
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


class Result:
    """A tensor on a GPU that a model returned: whoever takes it through DLPack owns it then.

    Attributes:
        shape: Its dimensions.
        dtype: numpy's.
    """

    def __init__(self, tensor: int, library: Any, model: Any, stream: int) -> None:
        """Own a new tensor.

        Args:
            tensor: Address of the DLManagedTensor.
            library: The compiled library.
            model: Its model.
            stream: What computes the tensor runs there.
        """
        self._tensor: int | None = tensor
        self._library = library
        self._model = model
        self._stream = stream
        fields = Tensor.from_address(tensor)
        self.address = int(fields.data or 0)
        self.shape = tuple(fields.shape[: fields.rank])
        kind = _KINDS[fields.code]
        self.dtype = np.dtype(kind if kind == "bool" else f"{kind}{fields.bits}")
        self._device = int(fields.device)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Kind and number of the device."""
        return CUDA, self._device

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """Hand the tensor over, once.

        Args:
            stream: Of the consumer; it waits there for what computes the tensor.  -1: it need not.

        Raises:
            BufferError: it was handed over before.
        """
        if self._tensor is None:
            raise BufferError("the tensor was already handed over: keep what took it")
        consumer = 0 if stream in (None, 0, 1) else stream
        if stream != -1 and consumer != self._stream:
            self._model.follow(consumer, self._stream)
        tensor, self._tensor = self._tensor, None
        return _new(tensor, _NAME, _FREE)

    def __del__(self) -> None:
        if self._tensor is not None:
            Tensor.from_address(self._tensor).deleter(self._tensor)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _free_capsule(capsule: int) -> None:
    """Free the tensor of a capsule that nobody took."""
    is_valid = ctypes.pythonapi.PyCapsule_IsValid
    is_valid.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
    if is_valid(capsule, _NAME):
        get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
            ("PyCapsule_GetPointer", ctypes.pythonapi)
        )
        tensor = get(capsule, _NAME)
        Tensor.from_address(tensor).deleter(tensor)


_FREE = ctypes.cast(_free_capsule, ctypes.c_void_p)
