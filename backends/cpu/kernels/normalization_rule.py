"""The rule for normalization with the requantization behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.target import Target
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.table import Match
from qcompiler.backends.tvm.te import Expr, const, element
from qcompiler.graph import Constant, Input, Op, toposort
from qcompiler.ops import NormalizeInteger, Requantize, Skeleton
from qcompiler.types import TensorType

from .normalization import (
    LANES,
    Normalization,
    build_normalization,
    pack_normalization,
)

_HIGH_HALF = 32
"""Least shift that the kernel takes: it keeps the upper halves of 64-bit sums."""


@dataclass(frozen=True)
class Normalizations:
    """`NormalizeInteger` with mean, along the last axis, and a `Requantize` of its result."""

    name: str = "cpu normalization"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel where deviations fit an int32 and need not be rounded."""
        match found.root:
            case Requantize(
                (NormalizeInteger() as node,), (Constant() as m,), Constant() as c
            ) as r:
                pass
            case _:
                return None
        numbers = [x.array for x in (m, c)]
        per_element = all(x.size in (1, node.count) for x in numbers)
        fits = node.center and node.lift >= 0 and node.deviation().type.dtype == "int32"
        last = (node.type.rank - 1,)
        if not fits or not per_element or node.axes != last or node.count < LANES:
            return None
        if r.shift < _HIGH_HALF or r.type.shape != node.type.shape:
            return None
        problem = Normalization(
            node.type.shape,
            node.x.type.dtype,
            *r.limits,
            r.type.dtype,
        )
        scalars = [np.asarray(x, np.int64) for x in (r.shift, *node.numbers)]
        return Match(
            problem,
            lambda: build_normalization(problem, lambda *rows: _factors(node, *rows)),
            (*found.node.operands, *pack_normalization(problem, *numbers), *scalars),
        )


def _factors(node: NormalizeInteger, squares: Expr, numbers: list[Expr]) -> tuple[Expr, Expr]:
    """Compute `NormalizeInteger.factors` of some rows, each op on all of them at once."""
    inputs = [Input(TensorType("int64", ()), name=f"x{i}", sources=()) for i in range(4)]
    results = node.factors(*inputs)
    rows = int(squares.shape[0])
    buffers: dict[Op, Expr] = {inputs[0]: squares}

    def at(x: Op, r: Expr) -> Expr:
        if x in inputs[1:]:
            return numbers[inputs.index(x) - 1]
        return const(int(x.array), x.type.dtype) if isinstance(x, Constant) else buffers[x][r]

    for x in toposort(results):
        if x not in inputs and not isinstance(x, Constant):
            buffers[x] = T.alloc_buffer((rows,), x.type.dtype, layout=None)
            with T.vectorized(rows) as r:
                T.buffer_store(buffers[x], element(x, [at(y, r) for y in x.operands]), [r])
    factor, root = results
    return buffers[factor], buffers[root]
