"""Intervals of integers, without a width of their own: what overflow is proved with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Interval:
    """All integers from `low` to `high`.

    Operators between two give the interval of all results (interval arithmetic, Moore 1966), `|`
    the least interval around both, `&` their intersection; `<=` says whether one lies in the other.

    >>> Interval(-128, 127) * Interval(0, 255)
    Interval(low=-32640, high=32385)
    """

    low: int
    high: int

    @classmethod
    def of(cls, array: np.ndarray) -> Interval:
        """The interval of the elements of an integer array; of an empty one that of 0."""
        return cls(int(array.min()), int(array.max())) if array.size else cls(0, 0)

    @classmethod
    def symmetric(cls, bound: int) -> Interval:
        """−bound…bound."""
        return cls(-bound, bound)

    @property
    def magnitude(self) -> int:
        """The largest absolute value."""
        return max(-self.low, self.high)

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.high + other.high)

    def __sub__(self, other: Interval) -> Interval:
        return Interval(self.low - other.high, self.high - other.low)

    def __mul__(self, other: Interval) -> Interval:
        return _around(a * b for a in self._ends for b in other._ends)

    def __floordiv__(self, other: Interval) -> Interval:
        """Of a divisor above 0."""
        return _around(a // b for a in self._ends for b in other._ends)

    def __rshift__(self, other: Interval) -> Interval:
        """By 0 bits or more."""
        return _around(a >> b for a in self._ends for b in other._ends)

    def __or__(self, other: Interval) -> Interval:
        return Interval(min(self.low, other.low), max(self.high, other.high))

    def __and__(self, other: Interval) -> Interval:
        return Interval(max(self.low, other.low), min(self.high, other.high))

    def __le__(self, other: Interval) -> bool:
        return other.low <= self.low and self.high <= other.high

    def total(self, count: int) -> Interval:
        """Of the sum of `count` elements."""
        return Interval(count * self.low, count * self.high)

    @property
    def _ends(self) -> tuple[int, int]:
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.low}…{self.high}"


def _around(values: Iterable[int]) -> Interval:
    found = list(values)
    return Interval(min(found), max(found))
