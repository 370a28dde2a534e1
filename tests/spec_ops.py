"""Each op of the real language that integers compute, as functions of a value to build upon."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.ops import (
    Add,
    ArgMax,
    ArgMin,
    AveragePool,
    Cast,
    Clip,
    Codes,
    Concat,
    Conv,
    Div,
    Equal,
    Expand,
    FakeQuantize,
    Floor,
    Gather,
    GreaterEqual,
    Map,
    MatMul,
    Maximum,
    MaxPool,
    Minimum,
    Mul,
    Normalize,
    Not,
    Pad,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    Relu,
    Reshape,
    Scatter,
    Select,
    Sigmoid,
    Slice,
    Softmax,
    Sub,
    Tanh,
    TopK,
    Transpose,
    Window,
    scalar,
)
from qcompiler.types import FLOAT, Quantization, TensorType

SHAPE = (1, 4, 4, 4)
X = Input(TensorType(FLOAT, SHAPE), name="x")
COUNT = Input(TensorType("int64", (1, 4, 1, 1)), name="count")

Build = Callable[[Op], Op]


def numbers(*shape: int) -> Constant:
    """Constants that differ from channel to channel."""
    return Constant(np.random.default_rng(5).uniform(0.2, 1.5, shape).astype(FLOAT))


def function(x: Op, build: Build) -> Map:
    """As `CollapseUnary` makes it."""
    variable = Input(x.type, name="x")
    return Map(x, Graph((variable,), {"y": build(variable)}, "map"))


def _attention(x: Op, v: Op, axis: int = 3) -> Op:
    return MatMul(Softmax(x, axis), v)


def _where(condition: Op, x: Op) -> Op:
    return Select(condition, x, scalar(0.5, FLOAT))


WINDOW = Window((3, 3), pads=(1, 1, 1, 1))
CODES = Quantization.per_tensor("uint8", 0.02, 100)

OPS: dict[str, Build] = {
    "conv": lambda x: Conv(x, numbers(4, 4, 3, 3), numbers(4), WINDOW),
    "depthwise": lambda x: Conv(x, numbers(4, 1, 3, 3), None, WINDOW, 4),
    "matmul": lambda x: MatMul(x, numbers(4, 4), numbers(4)),
    "matmul of many weights": lambda x: MatMul(x, numbers(1, 4, 4, 4)),
    "matmul from the left": lambda x: MatMul(numbers(1, 1, 4, 4), x),
    "matmul of values": lambda x: MatMul(x, Transpose(X, (0, 1, 3, 2))),
    "matmul with itself": lambda x: MatMul(x, x),
    "matmul by the value": lambda x: MatMul(X, x),
    "attention": lambda x: _attention(x, X),
    "attention to the value": lambda x: _attention(X, x),
    "attention along another axis": lambda x: _attention(x, X, 2),
    "softmax": lambda x: Softmax(x, 3),
    "masked softmax": lambda x: Softmax(x, 3, Constant(np.tril(np.ones((4, 4), bool)))),
    "average pool": lambda x: AveragePool(x, WINDOW),
    "max pool": lambda x: MaxPool(x, WINDOW),
    "mean": lambda x: Expand(ReduceMean(x, (2, 3)), SHAPE),
    "normalize": lambda x: Normalize(x, (3,), 1e-5),
    "normalize by the mean square": lambda x: Normalize(x, (3,), 1e-5, False),
    "add a number": lambda x: Add(x, scalar(0.3, FLOAT)),
    "add numbers": lambda x: Add(x, numbers(4, 1, 1)),
    "add": lambda x: Add(x, X),
    "add to itself": lambda x: Add(x, x),
    "add products": lambda x: Add(MatMul(x, numbers(4, 4)), MatMul(X, numbers(4, 4))),
    "subtract": lambda x: Sub(X, x),
    "subtract from a number": lambda x: Sub(scalar(1, FLOAT), x),
    "subtract numbers": lambda x: Sub(x, numbers(4, 1, 1)),
    "times a number": lambda x: Mul(x, scalar(-0.7, FLOAT)),
    "times numbers": lambda x: Mul(x, numbers(4, 1, 1)),
    "times": lambda x: Mul(x, X),
    "square": lambda x: Mul(x, x),
    "divide": lambda x: Div(X, x),
    "divide by": lambda x: Div(x, X),
    "relu": Relu,
    "clip": lambda x: Clip(x, -0.5, 0.75),
    "clip below": lambda x: Clip(x, low=-0.5),
    "tanh": lambda x: function(x, Tanh),
    "gelu": lambda x: function(x, lambda v: Mul(v, Sigmoid(Mul(v, scalar(1.702, FLOAT))))),
    "reciprocal": lambda x: function(x, lambda v: Div(scalar(1, FLOAT), v)),
    "tanh times numbers": lambda x: Mul(function(x, Tanh), numbers(4, 1, 1)),
    "tanh plus a number": lambda x: Add(function(x, Tanh), scalar(1, FLOAT)),
    "tanh, a factor, a term": lambda x: Add(
        Mul(function(x, Tanh), numbers(4, 1, 1)), numbers(4, 1, 1)
    ),
    "tanh plus": lambda x: Add(function(x, Tanh), X),
    "swish by hand": lambda x: Mul(x, function(x, Sigmoid)),
    "where a function is true": lambda x: _where(
        function(x, lambda v: Not(GreaterEqual(v, scalar(0.1, FLOAT)))), x
    ),
    "floor as integers": lambda x: Cast(
        Mul(function(x, lambda v: Cast(Floor(v), "int64")), scalar(3, "int64")), FLOAT
    ),
    "where larger": lambda x: _where(GreaterEqual(x, X), x),
    "where larger than a number": lambda x: _where(GreaterEqual(x, scalar(0.1, FLOAT)), X),
    "where equal": lambda x: _where(Equal(x, X), x),
    "choose": lambda x: Select(Constant(np.tril(np.ones((4, 4), bool))), x, X),
    "maximum": lambda x: Maximum(x, X),
    "minimum with numbers": lambda x: Minimum(x, numbers(4, 1, 1)),
    "largest": lambda x: Expand(ReduceMax(x, (1,)), SHAPE),
    "smallest": lambda x: Expand(ReduceMin(x, (1,)), SHAPE),
    "place of the largest": lambda x: Cast(Expand(ArgMax(x, 3), SHAPE), FLOAT),
    "place of the smallest": lambda x: Cast(Expand(ArgMin(x, 3), SHAPE), FLOAT),
    "places in order": lambda x: Cast(TopK(x, 3, 4), FLOAT),
    "transpose": lambda x: Transpose(x, (0, 1, 3, 2)),
    "reshape": lambda x: Reshape(Reshape(x, (4, 16)), SHAPE),
    "slices": lambda x: Concat(
        (Slice(x, (0, 2, 0, 0), SHAPE, (1,) * 4), Slice(x, (0, 0, 0, 0), (1, 2, 4, 4), (1,) * 4)), 1
    ),
    "concat": lambda x: Slice(Concat((x, X), 1), (0, 2, 0, 0), (1, 6, 4, 4), (1,) * 4),
    "concat numbers": lambda x: Slice(
        Concat((numbers(1, 1, 4, 4), x), 1), (0, 0, 0, 0), SHAPE, (1,) * 4
    ),
    "gather": lambda x: Gather(x, Constant(np.array([3, 1, 0, 2])), 1),
    "scatter": lambda x: Scatter(x, Constant(np.array([0])), X),
    "pad": lambda x: Slice(Pad(x, (0, 0, 1, 1), (0, 0, 0, 0), 0.5), (0, 0, 0, 0), SHAPE, (1,) * 4),
    "count": lambda x: Add(x, Cast(COUNT, FLOAT)),
    "times a count": lambda x: Mul(x, Cast(COUNT, FLOAT)),
    "annotated": lambda x: FakeQuantize(x, CODES),
    "its codes": lambda x: Cast(Codes(x, CODES), FLOAT),
}
