"""Random graphs of extreme scales, with sums of up to 2^20 terms: proved, or left in float by name.

What is integer has the same bits in ONNX Runtime, for the largest codes everywhere too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from runtime import run

import qcompiler
from qcompiler.backends.onnx import to_model
from qcompiler.config import QuantizationConfig
from qcompiler.errors import CalibrationError
from qcompiler.graph import Constant, Graph, Input, Op, origin
from qcompiler.invariants import float_ops, no_overflow
from qcompiler.ops import (
    Add,
    Concat,
    Conv,
    Div,
    MatMul,
    Mul,
    Normalize,
    ReduceMean,
    Relu,
    Reshape,
    Softmax,
    Sub,
    Tanh,
    Transpose,
    Window,
)
from qcompiler.passes import LOWERING, PassManager
from qcompiler.types import TensorType

TERMS = (1, 7, 300, 65_793, 70_000, 140_000, 2**20, 2**20 + 1)
SCALES = (1e-30, 1e-15, 1e-3, 1.0, 1.0, 1e3, 1e15, 1e30)
RANGES = ((-1, 1), (0, 1), (-1, 0), (-1e-6, 1), (0.9, 1))
POINT = Window((1, 1))


@dataclass(frozen=True)
class Draw:
    """What a graph is drawn with: numbers from the seed."""

    rng: np.random.Generator

    @cached_property
    def terms(self) -> int:
        return int(self.rng.choice(TERMS))

    @cached_property
    def scale(self) -> float:
        return float(self.rng.choice(SCALES))

    def known(self, *shape: int) -> Constant:
        """Parameters of one sign, or of both, or that differ by many orders of magnitude."""
        kinds = (
            np.ones(shape),
            -np.ones(shape),
            self.rng.uniform(0, 1, shape),
            self.rng.standard_normal(shape),
            self.rng.standard_normal(shape) * 10.0 ** self.rng.uniform(-20, 0, shape[-1:]),
        )
        return Constant((kinds[self.rng.integers(len(kinds))] * self.scale).astype(np.float32))


def grouped(x: Op, d: Draw) -> Op:
    image = Reshape(Concat((x, x), 1), (1, 2 * d.terms, 1, 1))
    return Conv(image, d.known(4, d.terms, 1, 1), d.known(4), POINT, 2)


SUMS: dict[str, Callable[[Op, Draw], Op]] = {
    "product": lambda x, d: MatMul(x, d.known(d.terms, 2), d.known(2)),
    "products": lambda x, d: Add(
        MatMul(Relu(x), d.known(d.terms, 2)), MatMul(x, d.known(d.terms, 2))
    ),
    "convolution": lambda x, d: Relu(
        Conv(Reshape(x, (1, d.terms, 1, 1)), d.known(2, d.terms, 1, 1), d.known(2), POINT)
    ),
    "groups": grouped,
    "mean": lambda x, d: ReduceMean(x, (1,)),
    "mean of products": lambda x, d: ReduceMean(Mul(x, x), (1,)),
    "residual": lambda x, d: Add(Add(x, Mul(x, d.known())), d.known(d.terms)),
    "sum of four": lambda x, d: Add(
        Add(Mul(x, d.known(d.terms)), MatMul(x, d.known(d.terms, 1))),
        Add(Mul(x, d.known()), d.known(d.terms)),
    ),
}
OTHERS: dict[str, Callable[[Op, Draw], Op]] = {
    "normalization": lambda x, d: Add(Mul(Normalize(x, (1,), 1e-5), d.known(d.terms)), d.known()),
    "root mean square": lambda x, d: Normalize(x, (1,), 1e-5, center=False),
    "softmax": lambda x, d: Softmax(Sub(x, ReduceMean(x, (1,))), 1),
    "attention": lambda x, d: MatMul(Softmax(x, 1), Transpose(Concat((x, x), 0), (1, 0))),
    "classifier": lambda x, d: Softmax(MatMul(Tanh(x), d.known(d.terms, 3)), 1),
    "quotient": lambda x, d: Div(x, Add(Mul(x, x), d.known())),
}
BODIES = {**SUMS, **OTHERS}


@pytest.mark.parametrize("seed", range(28))
def test_sums_are_proved_or_left_in_float_by_name(seed: int) -> None:
    body = list(BODIES)[seed % len(BODIES)]
    rng = np.random.default_rng(seed)
    d, (low, high), scale = Draw(rng), RANGES[rng.integers(5)], float(rng.choice(SCALES))
    x = Input(TensorType("float32", (1, d.terms)), name="x")
    with origin((body,)):
        graph = Graph((x,), {"y": BODIES[body](x, d)})
    samples = [rng.uniform(low, high, (1, d.terms)), np.full((1, d.terms), low)]
    samples.append(np.full((1, d.terms), high))
    feeds = [{"x": (sample * scale).astype(np.float32)} for sample in samples]
    activations = ("uint8", "int8", "int16")[rng.integers(3)]
    options = qcompiler.Options(config=QuantizationConfig(activations=activations))
    try:
        integer = qcompiler.quantize(graph, feeds, options=options)
    except CalibrationError:  # the real numbers overflow
        assert any(not np.isfinite(qcompiler.evaluate(graph, feed)["y"]).all() for feed in feeds)
        return
    assert not list(no_overflow(PassManager(LOWERING)(integer)))
    left = list(float_ops(integer))
    assert all(body in node.sources for node in left)
    exact = [qcompiler.evaluate(graph, feed)["y"].astype(np.float64) for feed in feeds]
    largest = max(np.abs(y).max() for y in exact)
    for feed, y in zip(feeds, exact, strict=True):
        found = qcompiler.evaluate(integer, feed)["y"]
        if not left:
            np.testing.assert_array_equal(run(to_model(integer), feed)["y"], found)
        if body in SUMS and min(scale, d.scale) > 1e-20:  # below, scales end
            np.testing.assert_allclose(found, y, rtol=0, atol=0.06 * largest)
