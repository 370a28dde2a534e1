"""Sums that int32 does not hold: several of them where factors are known, else float by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import qcompiler
from qcompiler.config import QuantizationConfig
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.invariants import float_ops
from qcompiler.ops import MatMul, MatMulInteger, Normalize, Softmax
from qcompiler.types import TensorType

RNG = np.random.default_rng(0)


def quantized(
    shape: tuple[int, ...], body: Callable[[Op], Op], **config: str
) -> tuple[Graph, list[np.ndarray]]:
    x = Input(TensorType("float32", shape), name="x")
    graph = Graph((x,), {"y": body(x)})
    feed = {"x": RNG.uniform(0, 1, shape).astype(np.float32)}
    options = qcompiler.Options(config=QuantizationConfig(**config))
    integer = qcompiler.quantize(graph, [feed], options=options)
    return integer, [qcompiler.evaluate(g, feed)["y"] for g in (graph, integer)]


def test_products_of_many_terms_are_several_sums() -> None:
    weight = Constant(np.ones((140_000, 2), np.float32) * np.float32([1, -1]))
    bias = Constant(np.array([3, -5], np.float32))
    graph, (exact, found) = quantized((1, 140_000), lambda x: MatMul(x, weight, bias))
    assert not list(float_ops(graph))
    assert sum(isinstance(node, MatMulInteger) for node in graph.ops) == 4
    np.testing.assert_allclose(found, exact, rtol=1e-3)


def test_rows_too_long_for_shifts_stay_in_float() -> None:
    graph, (exact, found) = quantized((1, 40_000), lambda x: Softmax(x, 1), softmax="shift")
    assert [type(node) for node in float_ops(graph)] == [Softmax]
    np.testing.assert_allclose(found, exact, atol=0.02 * np.abs(exact).max())


@pytest.mark.parametrize(
    "body", [lambda x: Softmax(x, 1), lambda x: Normalize(x, (1,), 1e-5)], ids=["softmax", "norm"]
)
def test_what_cannot_be_cut_stays_in_float(body: Callable[[Op], Op]) -> None:
    graph, (exact, found) = quantized((1, (1 << 20) + 1), body)
    assert [type(node) for node in float_ops(graph)] == [type(body(graph.inputs[0]))]
    np.testing.assert_allclose(found, exact, atol=0.02 * np.abs(exact).max())
