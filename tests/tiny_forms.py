"""Small graphs of computations that no layer names: quotients, choices, comparisons, tables."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from example import Example, Values

from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.ops import (
    Abs,
    Add,
    Cast,
    Div,
    Exp,
    Gather,
    GreaterEqual,
    MatMul,
    Maximum,
    Minimum,
    Mul,
    ReduceMean,
    Relu,
    Select,
    Sqrt,
    Sub,
    Transpose,
    scalar,
)
from qcompiler.types import FLOAT, TensorType


def _real(value: float) -> Constant:
    return scalar(value, FLOAT)


def _numbers(*shape: int) -> Constant:
    return Constant(np.random.default_rng(7).standard_normal(shape).astype(FLOAT))


def _quotient(x: Op, y: Op, m: Op) -> Op:
    """x over what may be of either sign, but not 0."""
    return Div(x, Select(GreaterEqual(y, _real(0)), Add(y, _real(0.3)), Sub(y, _real(0.3))))


def _response_normalization(x: Op, y: Op, m: Op) -> Op:
    """ConvNeXt V2's: x·g / mean(g) for g = ‖x‖."""
    norm = Sqrt(ReduceMean(Mul(x, x), (0,)))
    return Add(Mul(x, Div(norm, Add(ReduceMean(norm, (1,)), _real(1e-6)))), x)


def _reciprocal(x: Op, y: Op, m: Op) -> Op:
    """A function that 8 bits would not do for."""
    return Mul(x, Div(_numbers(8), Add(Abs(y), _real(0.02))))


def _choice(x: Op, y: Op, m: Op) -> Op:
    """The larger of two values in some places, a constant in others."""
    return Select(GreaterEqual(x, y), Maximum(x, Minimum(y, _numbers(8))), _real(-1.5))


def _slope(x: Op, y: Op, m: Op) -> Op:
    """A function with a comparison inside, and a clamp by a constant of rank 2."""
    kept = Select(GreaterEqual(x, _real(0)), x, Mul(x, _real(0.1)))
    return Maximum(kept, Constant(np.full((1, 1), -0.1, FLOAT)))


def _mean_by_mask(x: Op, y: Op, m: Op) -> Op:
    """The mean of the rows that a mask keeps."""
    mask = Cast(GreaterEqual(m, scalar(20, "int64")), FLOAT)
    total = ReduceMean(Mul(x, mask), (0,))
    return Div(total, Maximum(ReduceMean(mask, (0,)), _real(1e-3)))


def _positions(x: Op, y: Op, m: Op) -> Op:
    """Whole numbers as real ones, times constants, exponentially."""
    return Add(x, Exp(Mul(Cast(m, FLOAT), Constant(np.linspace(-0.2, 0, 8, dtype=FLOAT)))))


def _products(x: Op, y: Op, m: Op) -> Op:
    """Products with constants on the left and of rank 3, and of values with zero points."""
    left = MatMul(_numbers(3, 4), Relu(x))
    batched = MatMul(Relu(left), _numbers(2, 8, 5))
    return MatMul(Transpose(batched, (0, 2, 1)), MatMul(_numbers(2, 3, 4), Relu(y)))


def _reversed_rows(x: Op, y: Op, m: Op) -> Op:
    """Rows in another order, and rows of a table that the model holds."""
    rows = Gather(x, Constant(np.array([7, 6, 5, 4, 3, 2, 1, 0], np.int64)), 1)
    return Add(rows, Gather(_numbers(50, 8), m))


_GRAPHS = (
    _quotient, _response_normalization, _reciprocal, _choice, _slope, _mean_by_mask, _positions,
    _products, _reversed_rows,
)  # fmt: skip


def form_graphs() -> Iterator[Example]:
    """Graphs of two real inputs [4, 8] and an integer one [4, 1], or [4] where it is an index."""
    for build in _GRAPHS:
        x, y = (Input(TensorType(FLOAT, (4, 8)), name=name) for name in "ab")
        shape = (4,) if build is _reversed_rows else (4, 1)
        m = Input(TensorType("int64", shape), name="m")
        name = build.__name__.lstrip("_")
        graph = Graph((x, y, m), {"y": build(x, y, m)}, name)
        yield Example(name, graph, (Values(-2.0, 2.0), Values(-2.0, 2.0), Values(0, 49, (20, 30))))
