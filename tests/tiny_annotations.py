"""Small graphs of models that are quantized already, in part or as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from example import Example, Values

from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.ops import (
    Add,
    Cast,
    Codes,
    Concat,
    Conv,
    FakeQuantize,
    MatMul,
    MaxPool,
    Mul,
    Relu,
    Reshape,
    Sigmoid,
    Softmax,
    Transpose,
    Window,
    scalar,
)
from qcompiler.types import FLOAT, Quantization, TensorType

SEED = 3


def kept(x: Op, storage: str = "uint8", step: float = 0.03, zero_point: int = 120) -> Op:
    """A value in codes."""
    return FakeQuantize(x, Quantization.per_tensor(storage, step, zero_point))


def weight(storage: str, zero_points: tuple[int, ...], axis: int | None, *shape: int) -> Op:
    """Random codes of all sizes as real numbers."""
    info = Quantization.per_tensor(storage, 1.0).bounds
    scales = tuple(0.002 * (i + 1) for i in range(len(zero_points)))
    q = Quantization(storage, scales, zero_points, axis)
    rng = np.random.default_rng((SEED, *shape))
    codes = rng.integers(info.low, info.high, shape, endpoint=True)
    reals = (codes - q.zero_points(len(shape))) * q.scales(len(shape))
    return FakeQuantize(Constant(reals.astype(FLOAT)), q)


def _window(size: int) -> Window:
    return Window((size, size), (1, 1), (size // 2,) * 4)


def _asymmetric(x: Op) -> Op:
    """Zero points wherever there can be one: activations, per tensor and per channel weights."""
    y = Relu(Conv(kept(x), weight("uint8", (90,), None, 4, 3, 3, 3), None, _window(3)))
    y = kept(y, "int8", 0.02, -100)
    y = Conv(y, weight("uint8", (120, 3, 255, 128), 0, 4, 2, 1, 1), None, _window(1), 2)
    y = kept(y, "int8", 0.03, 9)
    rows = Transpose(Reshape(y, (1, 4, 16)), (0, 2, 1))
    return kept(MatMul(rows, weight("uint8", (100, 0, 30), 1, 4, 3)), "uint8", 0.04, 77)


def _attention(x: Op) -> Op:
    """Products of two values, both with zero points."""
    rows = Reshape(kept(x), (1, 3, 16))
    scores = MatMul(rows, Transpose(kept(Relu(rows), "uint8", 0.02, 0), (0, 2, 1)))
    shares = kept(Softmax(kept(scores, "uint8", 0.3, 40), 2), "uint8", 1 / 256, 0)
    return kept(MatMul(shares, rows), "int8", 0.03, -7)


def _residual(x: Op) -> Op:
    """A value that is used in codes and without; a sum that is clamped before it is rounded."""
    y = Conv(kept(x), weight("int8", (0, 0, 0), 0, 3, 3, 3, 3), None, _window(3))
    total = kept(Relu(Add(kept(y, zero_point=99), kept(x))))
    pooled = MaxPool(total, Window((2, 2), (2, 2), (0, 0, 0, 0)))
    return Concat((kept(pooled, step=0.05), kept(Mul(pooled, Sigmoid(pooled)))), 1)


def _weights_only(x: Op) -> Op:
    """Weights in 4 bits, one of them transposed, and values without codes."""
    w = Transpose(weight("uint4", (8, 0, 15, 8), 0, 4, 48), (1, 0))
    y = Relu(MatMul(Reshape(x, (1, 48)), w))
    return MatMul(y, weight("int4", (1,), None, 4, 2))


def _codes_as_integers(x: Op) -> Op:
    """Codes that another operator takes as integers, and that come as such."""
    q = Quantization.per_tensor("uint8", 0.03, 120)
    codes = Cast(Codes(x, q), FLOAT)
    back = Mul(Add(codes, scalar(-120, FLOAT)), scalar(0.03, FLOAT))
    return kept(Add(kept(back), kept(x)), "int8", 0.04, 0)


_GRAPHS = (_asymmetric, _attention, _residual, _weights_only, _codes_as_integers)


def annotated_graphs() -> Iterator[Example]:
    """Graphs of one real input [1, 3, 4, 4]."""
    for build in _GRAPHS:
        x = Input(TensorType(FLOAT, (1, 3, 4, 4)), name="x")
        name = f"annotated{build.__name__}"
        yield Example(name, Graph((x,), {"y": build(x)}, name), (Values(-2.0, 2.0),))
