"""How attention is cut: rows of a block, and vectors of columns per tile of both products."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from qcompiler.backends.tvm.layout import AttentionShape

from .isa import Isa
from .lookup import BYTES

_DOTS_PER_CYCLE = 2
_LOAD_CYCLES = 0.3  # beside the dot products
_DOT_LATENCY = 4
_SOFTMAX_CYCLES = 6  # per vector of scores
_TILE_CYCLES = 20  # of filling and storing the accumulators, what does not overlap


@dataclass(frozen=True)
class AttentionPlan:
    """How the work is cut: rows of a block, and vectors of columns per tile of both products."""

    problem: AttentionShape
    isa: Isa
    rows: int
    key_vectors: int
    value_vectors: int
    cycles: float

    @property
    def columns(self) -> int:
        """Keys, padded to whole vectors of codes and of accumulators."""
        unit = math.lcm(BYTES, self.isa.lanes)
        return ceil_div(self.problem.extents[1], unit) * unit

    @property
    def steps(self) -> tuple[int, int]:
        """Dot instructions per score, and per average."""
        _, n, d, _ = self.problem.extents
        return ceil_div(d, self.isa.group), ceil_div(n, self.isa.group)

    @property
    def vectors(self) -> tuple[int, int]:
        """Vectors of keys, and of a value's elements."""
        _, n, _, e = self.problem.extents
        return ceil_div(n, self.isa.lanes), ceil_div(e, self.isa.lanes)

    @property
    def blocks(self) -> int:
        """Blocks of rows of one head."""
        return ceil_div(self.problem.extents[0], self.rows)


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def cut(total: int, most: int) -> list[tuple[int, int]]:
    """Parts (first, count) as equal as possible, of at most `most`."""
    parts = ceil_div(total, most)
    bounds = [total * i // parts for i in range(parts + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(bounds)]


def attention_plan(problem: AttentionShape, isa: Isa) -> AttentionPlan:
    """The quickest cut by a count of instructions."""
    m = problem.extents[0]

    def cycles(plan: AttentionPlan) -> float:
        total = 0.0
        for steps, vectors, most in zip(
            plan.steps, plan.vectors, (plan.key_vectors, plan.value_vectors), strict=True
        ):
            for _, count in cut(vectors, most):
                dots = max(plan.rows * count / _DOTS_PER_CYCLE, _DOT_LATENCY)
                total += steps * (dots + (plan.rows + count) * _LOAD_CYCLES) + _TILE_CYCLES
        total += plan.rows * plan.vectors[0] * _SOFTMAX_CYCLES
        return total * plan.blocks * problem.heads

    choices = [
        AttentionPlan(problem, isa, rows, keys, values, 0.0)
        for rows in range(1, min(m, isa.registers) + 1)
        for keys in range(1, 5)
        for values in range(1, 5)
        if all(rows * v + v + 1 <= isa.registers for v in (keys, values))
    ]
    best = min(choices, key=cycles)
    return AttentionPlan(
        problem, isa, best.rows, best.key_vectors, best.value_vectors, cycles(best)
    )
