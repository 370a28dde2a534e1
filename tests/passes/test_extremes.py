"""Values that are zero, tiny or huge in calibration, beside others: integers all the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import qcompiler
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.invariants import float_ops
from qcompiler.ops import (
    Add,
    MatMul,
    Maximum,
    Mul,
    Normalize,
    Pad,
    ReduceMean,
    Relu,
    Softmax,
    Sub,
    Tanh,
)
from qcompiler.types import TensorType

RNG = np.random.default_rng(0)


def known(*shape: int, scale: float = 1.0) -> Constant:
    return Constant((RNG.standard_normal(shape) * scale).astype(np.float32))


def dead(x: Op) -> Op:
    """Zero in all samples, whatever is computed from it."""
    return Relu(Sub(Mul(x, Constant(np.float32(0))), Constant(np.float32(1e-3))))


def one_dead_channel() -> Constant:
    weight = RNG.standard_normal((8, 6)).astype(np.float32)
    weight[:, 2] = 0
    return Constant(weight)


BODIES: dict[str, Callable[[Op], Op]] = {
    "a sum of zeros and x": lambda x: Add(dead(x), x),
    "a product of zeros": lambda x: MatMul(dead(x), known(8, 6), known(6)),
    "zeros, then their mean": lambda x: ReduceMean(dead(x), (1,)),
    "zeros, normalized": lambda x: Normalize(dead(x), (1,), 1e-5),
    "softmax of zeros": lambda x: Softmax(dead(x), 1),
    "zeros times x": lambda x: Mul(dead(x), x),
    "zero weights": lambda x: MatMul(x, known(8, 6, scale=0.0), known(6)),
    "zero weights without bias": lambda x: MatMul(x, known(8, 6, scale=0.0), None),
    "an output channel of zero weights": lambda x: MatMul(x, one_dead_channel(), known(6)),
    "tiny weights": lambda x: MatMul(x, known(8, 6, scale=1e-35), known(6)),
    "a constant beside x": lambda x: Add(x, known(8)),
    "a tiny constant beside x": lambda x: Add(x, known(8, scale=1e-30)),
    "a tiny factor": lambda x: Add(Mul(x, Constant(np.float32(1e-30))), x),
    "normalized": lambda x: Normalize(x, (1,), 1e-5),
    "squared": lambda x: Mul(x, x),
    "zeros, padded by something else": lambda x: Pad(dead(x), (0, 1), (2, 0), -3.0),
    "padded by what is far outside": lambda x: Pad(x, (0, 1), (2, 0), -70.0),
    "softmax": lambda x: Softmax(x, 1),
}


@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-15, 1.0, 1e12])
@pytest.mark.parametrize("body", BODIES)
def test_integers_hold_what_calibration_shows(body: str, scale: float) -> None:
    x = Input(TensorType("float32", (2, 8)), name="x")
    graph = Graph((x,), {"y": BODIES[body](x)})
    samples = (RNG.standard_normal((4, 2, 8)) * scale).astype(np.float32)
    integer = qcompiler.quantize(graph, [{"x": sample} for sample in samples])
    assert not list(float_ops(integer))
    if (body, scale) == ("normalized", 1e-15):
        return  # so far below ε, codes of normalized values are 0
    for sample in samples:
        exact = qcompiler.evaluate(graph, {"x": sample})["y"]
        found = qcompiler.evaluate(integer, {"x": sample})["y"]
        largest = max(float(np.abs(exact).max()), 1e-25)  # below, scales end
        np.testing.assert_allclose(found, exact, rtol=0, atol=0.06 * largest)


@pytest.mark.parametrize("center", [True, False])
def test_normalization_over_one_element(center: bool) -> None:
    x = Input(TensorType("float32", (8, 1)), name="x")
    body = Add(Mul(Normalize(x, (1,), 1e-2, center), known(1)), known(1))
    graph = Graph((x,), {"y": body})
    samples = RNG.standard_normal((4, 8, 1)).astype(np.float32)
    integer = qcompiler.quantize(graph, [{"x": sample} for sample in samples])
    assert not list(float_ops(integer))
    assert len(integer.ops) < 6
    exact, found = (qcompiler.evaluate(g, {"x": samples[0]})["y"] for g in (graph, integer))
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("axes", [1, 2])
def test_constants_of_one_element_and_many_axes(axes: int) -> None:
    x = Input(TensorType("float32", (2, 8)), name="x")
    half = Constant(np.full((1,) * axes, 0.5, np.float32))
    graph = Graph((x,), {"y": Maximum(Mul(Tanh(x), half), half)})
    samples = RNG.standard_normal((4, 2, 8)).astype(np.float32)
    integer = qcompiler.quantize(graph, [{"x": sample} for sample in samples])
    assert not list(float_ops(integer))
    found = qcompiler.evaluate(integer, {"x": samples[0]})["y"]
    np.testing.assert_allclose(found, np.maximum(np.tanh(samples[0]) / 2, 0.5), atol=0.01)
