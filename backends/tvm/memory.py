"""Where values live while the program runs, a static plan that reuses memory, and constants."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ALIGNMENT = 64
"""Of every value in the workspace and of every constant: one cache line, one vector register."""


@dataclass(frozen=True)
class Lifetime:
    """A value and the steps between which it must be kept, both included."""

    first: int
    last: int
    nbytes: int


def aligned(nbytes: int) -> int:
    """nbytes rounded up to the alignment."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def plan(values: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets at which no two values overlap in memory while both live, and the total size.

    Greedy by size (Pisarchyk & Lee 2020, "Efficient Memory Management for Deep Neural Net
    Inference", §5.2): the largest value first, each into the smallest gap that holds it.
    """
    order = sorted(range(len(values)), key=lambda i: (-values[i].nbytes, values[i].first))
    offsets = [0] * len(values)
    placed: list[int] = []  # in the order of their offsets
    total = 0
    for i in order:
        value = values[i]
        best, best_gap, end = -1, None, 0
        for j in placed:
            other = values[j]
            if other.last < value.first or value.last < other.first:
                continue
            gap = offsets[j] - end
            if gap >= value.nbytes and (best_gap is None or gap < best_gap):
                best, best_gap = end, gap
            end = max(end, offsets[j] + aligned(other.nbytes))
        offsets[i] = end if best_gap is None else best
        total = max(total, offsets[i] + aligned(value.nbytes))
        placed.append(i)
        placed.sort(key=lambda j: offsets[j])
    return offsets, total


class Constants:
    """Constants behind one another, equal ones once."""

    def __init__(self) -> None:
        self.arrays: list[tuple[int, np.ndarray]] = []
        self.nbytes = 0
        self._known: dict[tuple[str, bytes], int] = {}

    def offset(self, array: np.ndarray) -> int:
        """The place of an array, which is stored unless it already is."""
        contents = np.ascontiguousarray(array)
        key = (str(array.dtype), hashlib.sha256(contents.data).digest())
        if key not in self._known:
            self._known[key] = self.nbytes
            self.arrays.append((self.nbytes, contents))
            self.nbytes += aligned(contents.nbytes)
        return self._known[key]
