"""Tensor types: element type, shape and, for codes, what the codes mean."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache, cached_property

import ml_dtypes  # noqa: F401  # teaches numpy the name bfloat16
import numpy as np

from qcompiler.errors import TypingError
from qcompiler.interval import Interval

FLOAT = "float32"
FLOATS = frozenset([FLOAT, "float16", "bfloat16", "float64"])
"""float32 is what real numbers are computed in; the others occur at the ends of a graph only."""
DTYPES = FLOATS | {"bool"} | {f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)}


@dataclass(frozen=True)
class Storage:
    """The integers that a code may take: `Storage("uint4")` is 0…15, kept in a uint8.

    Raises:
        TypingError: the name is not `int` or `uint` followed by 2…32 bits.
    """

    name: str

    def __post_init__(self) -> None:
        if not (match := re.fullmatch(r"(u?)int(\d+)", self.name)) or not 2 <= int(match[2]) <= 32:
            raise TypingError(f"storage {self.name!r}: expected int2…int32 or uint2…uint32")

    @cached_property
    def bits(self) -> int:
        """Number of bits of a code."""
        return int(self.name.rpartition("int")[2])

    @property
    def signed(self) -> bool:
        """Whether codes may be negative."""
        return not self.name.startswith("u")

    @cached_property
    def low(self) -> int:
        """The smallest code."""
        return -(1 << self.bits - 1) if self.signed else 0

    @cached_property
    def high(self) -> int:
        """The largest code."""
        return (1 << self.bits - self.signed) - 1

    @property
    def dtype(self) -> str:
        """The machine type that holds one code."""
        width = next(w for w in (8, 16, 32) if w >= self.bits)
        return f"{'' if self.signed else 'u'}int{width}"


@dataclass(frozen=True)
class Quantization:
    """real = scale · (code − zero_point), per tensor, or per index of `axis`.

    Attributes:
        storage: Name of the `Storage` of the codes, such as "uint8" or "int16".
        scale: Real size of one step; one value, or one per index of `axis`.
        zero_point: The code of real 0; as many as scales.
        axis: The axis along which scales differ; None per tensor, which an axis of one scale is.

    Raises:
        TypingError: a scale that is not positive and finite, a zero point outside the storage,
            or counts that contradict each other.
    """

    storage: str
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None

    def __post_init__(self) -> None:
        bounds = self.bounds
        if len(self.scale) != len(self.zero_point) or (self.axis is None and len(self.scale) != 1):
            raise TypingError(
                f"quantization: expected one scale and zero point (or one per index of an axis), "
                f"found {len(self.scale)} and {len(self.zero_point)} with axis {self.axis}"
            )
        if len(self.scale) == 1:
            object.__setattr__(self, "axis", None)
        if not all(0 < s < float("inf") for s in self.scale):
            raise TypingError(f"quantization: expected positive finite scales, found {self.scale}")
        if not all(bounds.low <= z <= bounds.high for z in set(self.zero_point)):
            raise TypingError(f"quantization: a zero point of {self.zero_point} outside {bounds}")

    @classmethod
    def per_tensor(cls, storage: str, scale: float, zero_point: int = 0) -> Quantization:
        """One scale for the whole tensor."""
        return cls(storage, (float(scale),), (int(zero_point),))

    @classmethod
    def per_channel(cls, storage: str, scale: np.ndarray, axis: int) -> Quantization:
        """One scale per index of `axis`, zero point 0 (weights)."""
        return cls(storage, tuple(map(float, scale)), (0,) * len(scale), axis)

    @cached_property
    def bounds(self) -> Storage:
        """The integers that a code may take."""
        return Storage(self.storage)

    def scales(self, rank: int) -> np.ndarray:
        """The scales as float64, broadcastable to a tensor of `rank` dimensions."""
        return self._broadcastable(np.array(self.scale, np.float64), rank)

    def zero_points(self, rank: int) -> np.ndarray:
        """The zero points as int64, broadcastable to a tensor of `rank` dimensions."""
        return self._broadcastable(np.array(self.zero_point, np.int64), rank)

    def _broadcastable(self, values: np.ndarray, rank: int) -> np.ndarray:
        if self.axis is None:
            return values[0]
        return values.reshape([-1 if i == self.axis else 1 for i in range(rank)])

    def transposed(self, permutation: tuple[int, ...]) -> Quantization:
        """The quantization of the same codes with their axes permuted (numpy's convention)."""
        if self.axis is None:
            return self
        return replace(self, axis=permutation.index(self.axis))

    def __str__(self) -> str:
        if self.axis is None:
            zero_point = f":{self.zero_point[0]}" if self.zero_point[0] else ""
            step = f"{self.scale[0]:.6g}{zero_point}"
        else:
            step = f"{min(self.scale):.6g}…{max(self.scale):.6g}/{self.axis}"
        narrow = "" if self.storage == self.bounds.dtype else f"{self.storage}:"
        return f"@{narrow}{step}"


@dataclass(frozen=True)
class TensorType:
    """Element type and static shape, and the meaning of the codes where there is one.

    Prints as `uint8[1x3x32x32]@0.0235:128` (scale 0.0235, zero point 128); per channel as
    `int8[16x3x3x3]@0.01…0.02/0` (smallest and largest scale, axis 0).

    Raises:
        TypingError: an unknown dtype, a dimension that is not a non-negative integer, or a
            quantization that does not fit.
    """

    dtype: str
    shape: tuple[int, ...]
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise TypingError(f"dtype {self.dtype!r}: expected one of {', '.join(sorted(DTYPES))}")
        if not all(isinstance(d, int) and d >= 0 for d in self.shape):
            raise TypingError(f"shape {self.shape}: expected non-negative integers")
        if (q := self.quantization) is None:
            return
        if q.bounds.dtype != self.dtype:
            raise TypingError(
                f"codes of {q.storage}: expected {q.bounds.dtype}, found {self.dtype}"
            )
        if q.axis is not None and (
            not 0 <= q.axis < self.rank or self.shape[q.axis] != len(q.scale)
        ):
            raise TypingError(
                f"{len(q.scale)} scales on axis {q.axis}: found the shape {self.shape}"
            )

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the dense tensor."""
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def is_float(self) -> bool:
        """Whether elements are floating-point numbers."""
        return self.dtype in FLOATS

    @property
    def is_integer(self) -> bool:
        """Whether elements are integers (bool is neither)."""
        return "int" in self.dtype

    def with_shape(self, shape: tuple[int, ...]) -> TensorType:
        """The same elements in another shape; a quantization per channel is refused."""
        return replace(self, shape=tuple(int(d) for d in shape))

    @property
    def limits(self) -> Interval | None:
        """The integers that an element may be: its codes', or all of its dtype; None of others."""
        if (q := self.quantization) is not None:
            return Interval(q.bounds.low, q.bounds.high)
        return machine_limits(self.dtype) if self.is_integer else None

    def magnitude(self) -> int:
        """The largest absolute value that an integer element can take."""
        assert self.limits is not None
        return self.limits.magnitude

    def __str__(self) -> str:
        return f"{self.dtype}[{'x'.join(map(str, self.shape))}]{self.quantization or ''}"


@cache
def machine_limits(dtype: str) -> Interval:
    """All integers that a dtype holds."""
    info = np.iinfo(dtype)
    return Interval(int(info.min), int(info.max))


def raw(array: np.ndarray) -> memoryview:
    """The bytes of an array in C order; its own where it lies so."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def broadcast(*types: TensorType) -> tuple[int, ...]:
    """The shape that numpy's broadcasting gives.

    Raises:
        TypingError: the shapes do not broadcast.
    """
    try:
        return tuple(int(d) for d in np.broadcast_shapes(*(t.shape for t in types)))
    except ValueError:
        raise TypingError(
            f"expected shapes that broadcast, found {' and '.join(map(str, types))}"
        ) from None


def common_quantization(*types: TensorType) -> Quantization | None:
    """The quantization per tensor that all types share; None where they do not."""
    first = types[0].quantization
    shared = all(t.quantization == first for t in types)
    return first if shared and first is not None and first.axis is None else None
