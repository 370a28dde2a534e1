"""Integerize: what it must leave in float, and sums whose parts are not known."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler import fixed_point
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.invariants import float_ops
from qcompiler.ops import Concat, Dequantize, Div, GreaterEqual, MatMul, Quantize
from qcompiler.passes import Integerize
from qcompiler.passes.spec import Reads
from qcompiler.types import Quantization, TensorType

Q = Quantization.per_tensor("uint8", 0.1, 100)


def real(name: str, *shape: int, q: Quantization = Q) -> Dequantize:
    return Dequantize(Input(TensorType(str(q.bounds.dtype), shape, q), name=name))


def graph(y: Op, *inputs: Dequantize) -> Graph:
    return Graph(tuple(x.x for x in inputs), {"y": y})


def feeds(of: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {str(x.name): rng.integers(0, 256, x.type.shape).astype(np.uint8) for x in of.inputs}


def test_a_computed_bias_is_not_lost() -> None:
    x, bias = real("x", 4, 8), real("bias", 3)
    weight = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    meaning = fixed_point.weight_quantization(weight, "int8", 1)
    w = Constant(fixed_point.quantize(weight, meaning), TensorType("int8", (8, 3), meaning))
    out = Quantization.per_tensor("int16", 0.01)
    before = graph(Quantize(MatMul(x, Dequantize(w), bias), out), x, bias)
    after = Integerize()(before)
    found, exact = (evaluate(g, feeds(before))["y"].astype(int) for g in (after, before))
    assert np.abs(found - exact).max() <= 1


@pytest.mark.parametrize("exponent", [-60, -41, -40, -1, 0, 7, 27, 28, 29, 60])
def test_quotients_of_scales_of_any_ratio(exponent: int) -> None:
    a = real("a", 256, 1, q=Quantization.per_tensor("uint8", 1.5 * 2.0 ** max(exponent, 0)))
    b = real("b", 256, q=Quantization.per_tensor("uint8", 2.0 ** max(-exponent, 0)))
    q = Quantization.per_tensor("int16", 1.0)
    after = Integerize()(graph(Quantize(Div(a, b), q), a, b))
    assert not list(float_ops(after))
    codes = np.arange(256)
    feed = {"a": codes.astype(np.uint8)[:, None], "b": codes.astype(np.uint8)}
    exact = 1.5 * 2.0**exponent * codes[:, None] / np.maximum(codes, 1)
    found = evaluate(after, feed)["y"]
    assert np.abs(found - np.clip(exact, -32768, 32767)).max() <= 0.5 * (1 + 2.0**-10)


def test_a_bias_of_any_size_is_kept() -> None:
    """What no int32 beside the products holds goes to the offset of the requantization."""
    x = real("x", 4, 8)
    weight = np.ones((8, 2), np.float32)
    meaning = fixed_point.weight_quantization(weight, "int8", 1)
    w = Constant(fixed_point.quantize(weight, meaning), TensorType("int8", (8, 2), meaning))
    for size in (1.0, 1e5, 3e5, 1e6, 1e9):
        bias = np.array([size, -size], np.float32)
        out = Quantization.per_tensor("int16", size / 30000)
        before = graph(Quantize(MatMul(x, Dequantize(w), Constant(bias)), out), x)
        after = Integerize()(before)
        assert not list(float_ops(after))
        found, exact = (evaluate(g, feeds(before))["y"].astype(int) for g in (after, before))
        assert np.abs(found - exact).max() <= 1


@pytest.mark.parametrize("scale", [0.1, 0.3])
def test_codes_of_other_meanings_are_not_compared_nor_joined(scale: float) -> None:
    other = Quantization.per_tensor("uint8", scale, 100)
    a, b = real("a", 4, 8), real("b", 4, 8, q=other)
    joined, compared = Quantize(Concat((a, b), 0), Q), GreaterEqual(a, b)
    before = Graph((a.x, b.x), {"joined": joined, "compared": compared})
    after = Integerize()(before)
    found, exact = (evaluate(g, feeds(before)) for g in (after, before))
    assert (found["joined"] == exact["joined"]).all()
    assert (found["compared"] == exact["compared"]).all()
    on_codes = [x for x in after.ops if isinstance(x, GreaterEqual) and x.a.type.is_integer]
    assert bool(on_codes) == (scale == 0.1)


@pytest.mark.parametrize("axis", [None, 2])
def test_products_with_a_known_weight_per_head(axis: int | None) -> None:
    x, rng = real("x", 2, 4, 8), np.random.default_rng(0)
    scales = (0.02,) if axis is None else (0.02, 0.01, 0.03)
    meaning = Quantization("int8", scales, (0,) * len(scales), axis)
    w = Constant(
        rng.integers(-127, 128, (2, 8, 3), np.int8), TensorType("int8", (2, 8, 3), meaning)
    )
    before = graph(Quantize(MatMul(x, Dequantize(w)), Quantization.per_tensor("int16", 0.01)), x)
    after = Integerize()(before)
    assert not list(float_ops(after))
    found, exact = (evaluate(g, feeds(before))["y"].astype(int) for g in (after, before))
    assert np.abs(found - exact).max() <= 1


def test_the_nearest_meaning_covers_all_reals_of_the_codes() -> None:
    q = Quantization.per_tensor("uint8", 0.1, 200)  # −20 … 5.5
    assert Reads(bits=8).nearest(q) == fixed_point.affine_quantization(-20.0, 5.5, "int8")
