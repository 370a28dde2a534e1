"""Attention as one kernel sees it, and how it is cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qcompiler.backends.tvm.kernels.cpu.layout import Layout

from .elements import Shaped
from .instructions import Expr
from .plan import CHUNK, MMA_DEPTH, STATIC_SHARED

TABLE = 256
"""Entries of the table of exponentials."""

_BLOCKS = 216  # enough for two on each multiprocessor of a large card


@dataclass(frozen=True)
class Attention:
    """What one kernel computes; see `qcompiler.ops.attention`.

    Attributes:
        query: [..., m, d].
        key: [..., d, n].
        value: [..., n, e].
        result: [..., m, e].
        query_dtype: uint8 or int8; keys and values are int8.
        codes_dtype: uint8 or int8.
        dtype: Of the result.
        mask: Shape of the mask, which broadcasts to [..., m, n]; None for none.
        operands: Shape and dtype of the buffers that codes and averages are computed with.
    """

    query: Layout
    key: Layout
    value: Layout
    result: Layout
    query_dtype: str
    codes_dtype: str
    dtype: str
    mask: tuple[int, ...] | None
    operands: tuple[tuple[tuple[tuple[int, ...], str], ...], ...]

    @property
    def leading(self) -> tuple[int, ...]:
        """Batch and heads."""
        return self.query.shape[:-2]

    @property
    def extents(self) -> tuple[int, int, int, int]:
        """m, n, d and e."""
        (m, d), (n, e) = self.query.shape[-2:], self.value.shape[-2:]
        return m, n, d, e


@dataclass(frozen=True)
class Scalars:
    """What happens to single elements.

    Attributes:
        code: From a score to its code, with buffers, at an index of the scores.
        reciprocal: From a row's total of exponentials to its int64 reciprocal.
        average: From a weighted sum and the reciprocal to the result, with buffers, at an index.
    """

    code: Callable[[Expr, Sequence[Shaped], tuple[Expr, ...]], Expr]
    reciprocal: Callable[[Expr], Expr]
    average: Callable[[Expr, Expr, Sequence[Shaped], tuple[Expr, ...]], Expr]


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
    """

    rows: int
    depth: int
    keys: int
    codes: int
    columns: int
    vector: int

    @property
    def code_stride(self) -> int:
        """Bytes from a row of codes to the next: an odd number of chunks avoids conflicts."""
        return self.codes + CHUNK

    @property
    def places(self) -> tuple[int, int, int, int, int]:
        """Where queries, keys (later values), codes and the table begin, and where all ends."""
        queries = self.rows * self.depth
        staged = max(self.keys * self.depth, self.columns * self.code_stride)
        codes = queries + staged
        table = codes + self.rows * self.code_stride
        return 0, queries, codes, table, table + TABLE


def attention_plan(problem: Attention) -> AttentionPlan | None:
    """Cut a problem; None if it does not fit shared memory, or lies in memory at odd places."""
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
    plans = [
        AttentionPlan(rows, depth, ceil(n, 16) * 16, ceil(n, 32) * 32, ceil(e, 16) * 16, vector)
        for rows in (64, 32, 16)
    ]
    fitting = [p for p in plans if p.places[-1] + 8 * p.rows <= STATIC_SHARED]
    heads = math.prod(problem.leading)
    busy = [p for p in fitting if heads * ceil(m, p.rows) >= _BLOCKS]
    return busy[0] if busy else fitting[-1] if fitting else None


def ceil(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
