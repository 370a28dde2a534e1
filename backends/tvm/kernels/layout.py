"""Arrays that lie in memory with their axes in another order."""

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
