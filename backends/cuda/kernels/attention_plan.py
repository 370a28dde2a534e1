"""How attention is cut."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from qcompiler.backends.tvm.layout import AttentionShape

from .generation import Generation
from .plan import CHUNK, MMA_DEPTH, STATIC_SHARED

TABLE = 256
"""Entries of the table of exponentials."""

_BLOCKS = 216  # enough for two on each multiprocessor of a large card


class Places(NamedTuple):
    """Byte offsets in shared memory: what begins where, and where all ends."""

    queries: int
    keys: int
    values: int
    codes: int
    table: int
    end: int


@dataclass(frozen=True)
class AttentionPlan:
    """How the work is cut.

    Attributes:
        rows: Queries of a block, a multiple of 16.
        depth: Bytes of a query or key in shared memory, a multiple of 32.
        keys: Keys in shared memory, a multiple of 16.
        codes: Bytes of a row of codes, a multiple of 32.
        columns: Elements of an average, in shared memory, a multiple of 16.
        vector: Bytes of one copy of queries and keys.
        apart: Whether values have a place of their own instead of that of the keys, so that nobody
            waits for one after the other; more memory, fewer blocks at once.
    """

    rows: int
    depth: int
    keys: int
    codes: int
    columns: int
    vector: int
    apart: bool

    @property
    def code_stride(self) -> int:
        """Bytes from a row of codes to the next: an odd number of chunks avoids conflicts."""
        return self.codes + CHUNK

    @property
    def _keys(self) -> int:
        return self.keys * self.depth

    @property
    def _values(self) -> int:
        return self.columns * self.code_stride

    @property
    def shared_bytes(self) -> int:
        """Shared memory, reciprocals included."""
        return self.places.end + 8 * self.rows

    @property
    def places(self) -> Places:
        """Where things lie in shared memory."""
        keys = self.rows * self.depth
        values = keys + self._keys if self.apart else keys
        codes = values + self._values if self.apart else keys + max(self._keys, self._values)
        table = codes + self.rows * self.code_stride
        return Places(0, keys, values, codes, table, table + TABLE)


def attention_plan(problem: AttentionShape, generation: Generation) -> AttentionPlan | None:
    """Cut a problem; None if it does not fit shared memory, or lies in memory at odd places.

    What is above 48 KiB costs other blocks their place, so it is taken only where nothing else
    fits.
    """
    m, n, d, e = problem.extents
    depth = ceil(d, MMA_DEPTH) * MMA_DEPTH
    steps = [d, CHUNK]
    for layout, row in ((problem.query, -2), (problem.key, -1)):
        steps += [layout.stride(axis) for axis in range(len(layout.shape) - 2)] + [
            layout.stride(row)
        ]
    vector = math.gcd(*steps)
    values = [problem.value.stride(axis) for axis in range(len(problem.value.shape) - 1)]
    contiguous = (problem.query.stride(-1), problem.key.stride(-2), problem.value.stride(-1))
    if contiguous != (1, 1, 1) or vector < 4 or math.gcd(e, *values) % 4 or depth > 128:
        return None
    if depth == 96:
        depth = 128
    heads = math.prod(problem.leading)
    for limit in (STATIC_SHARED, generation.most_shared):
        fitting: list[AttentionPlan] = []
        for rows in (64, 32, 16):
            busy = heads * ceil(m, rows) >= _BLOCKS
            for apart in (False,) if busy else (True, False):
                plan = AttentionPlan(
                    rows, depth, ceil(n, 16) * 16, ceil(n, 32) * 32, ceil(e, 16) * 16, vector, apart
                )
                if plan.shared_bytes <= limit and busy:
                    return plan
                if plan.shared_bytes <= limit:
                    fitting.append(plan)
        if fitting:
            return next(p for p in fitting if p.rows == fitting[-1].rows)
    return None


def ceil(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
