"""A small recurrent network with a state of its own, as a real graph: a gated unit and a head."""

from __future__ import annotations

import numpy as np

from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.ops import Add, Concat, MatMul, Mul, Sigmoid, Sub, Tanh
from qcompiler.types import FLOAT, TensorType

FEATURES, UNITS = 8, 16


def recurrent(seed: int = 0, states: bool = True) -> Graph:
    """h' = n + z·(h − n) with z = σ(…) and n = tanh(…); y = h'·w."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> Op:
        return Constant((rng.standard_normal(shape) * shape[0] ** -0.5).astype(FLOAT))

    x = Input(TensorType(FLOAT, (1, FEATURES)), name="x")
    h = Input(TensorType(FLOAT, (1, UNITS)), name="h")
    gate = Sigmoid(MatMul(Concat((x, h), 1), weight(FEATURES + UNITS, UNITS)))
    fresh = Tanh(
        Add(MatMul(x, weight(FEATURES, UNITS)), Mul(gate, MatMul(h, weight(UNITS, UNITS))))
    )
    after = Add(fresh, Mul(gate, Sub(h, fresh)), name="after")
    outputs = {"y": MatMul(after, weight(UNITS, 4)), "after": after}
    return Graph((x, h), outputs, "recurrent", {}, {"h": "after"} if states else {})


def sequence(steps: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((steps, FEATURES)).astype(FLOAT)
