"""Arrays that lie in memory with their axes in another order, and attention on such arrays."""

import math
from dataclasses import dataclass

from qcompiler.backends.tvm.te import Expr


@dataclass(frozen=True)
class Layout:
    """An array seen through a transpose.

    Attributes:
        memory: Its shape as it lies in memory, row-major.
        permutation: Axis i of the array is axis permutation[i] in memory.
    """

    memory: tuple[int, ...]
    permutation: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return tuple(self.memory[i] for i in self.permutation)

    def stride(self, axis: int) -> int:
        """Elements in memory from one element to the next along an axis of the array."""
        return math.prod(self.memory[self.permutation[axis] + 1 :])

    def index(self, place: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """Where an element of the array lies, one expression per axis in memory."""
        return tuple(place[self.permutation.index(i)] for i in range(len(place)))

    def offset(self, place: tuple[Expr, ...]) -> Expr:
        """Where an element of the array lies, counted in elements."""
        return sum(i * self.stride(axis) for axis, i in enumerate(place))


@dataclass(frozen=True)
class AttentionShape:
    """What is computed where; see `qcompiler.ops.attention`.

    Attributes:
        query: [..., m, d].
        key: [..., d, n].
        value: [..., n, e].
        result: [..., m, e].
        query_dtype: uint8 or int8; keys and values are int8.
        codes_dtype: uint8 or int8, of the scores.
        dtype: Of the result.
        mask: Shape of the mask, which broadcasts to [..., m, n]; None for none.
    """

    query: Layout
    key: Layout
    value: Layout
    result: Layout
    query_dtype: str
    codes_dtype: str
    dtype: str
    mask: tuple[int, ...] | None

    @property
    def leading(self) -> tuple[int, ...]:
        """Batch and heads."""
        return self.query.shape[:-2]

    @property
    def heads(self) -> int:
        """Their product."""
        return math.prod(self.leading)

    @property
    def extents(self) -> tuple[int, int, int, int]:
        """m, n, d and e."""
        (m, d), (n, e) = self.query.shape[-2:], self.value.shape[-2:]
        return m, n, d, e
