"""Normalization that exporters spell out becomes `Normalize`; what only looks like it stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import (
    Add,
    Clip,
    Div,
    Expand,
    Mul,
    Normalize,
    ReduceMean,
    Reshape,
    Sqrt,
    Sub,
    scalar,
)
from qcompiler.passes import Canonicalize, RecognizeNormalization
from qcompiler.types import FLOAT, TensorType

RNG = np.random.default_rng(0)
X = Input(TensorType(FLOAT, (2, 4, 6)), name="x")
EPSILON = 0.01


def f(value: float) -> Constant:
    return scalar(value, FLOAT)


def parameter(*shape: int) -> Constant:
    return Constant(RNG.standard_normal(shape, np.float32))


def graph_of(y: Op, x: Input = X) -> Graph:
    return Canonicalize()(Graph((x,), {"y": y}))


def recognized(y: Op, x: Input = X) -> Op:
    """The result after the pass, which computes what the graph before it does."""
    graph = graph_of(y, x)
    new = RecognizeNormalization()(graph)
    feeds = {"x": RNG.standard_normal(x.type.shape, np.float32)}
    before, after = (evaluate(g, feeds)["y"] for g in (graph, new))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert RecognizeNormalization()(new) is new
    return new.outputs["y"]


def deviation(axes: tuple[int, ...] = (2,)) -> Op:
    return Sub(X, ReduceMean(X, axes))


def variance(d: Op, axes: tuple[int, ...] = (2,)) -> Op:
    return Add(ReduceMean(Mul(d, d), axes), f(EPSILON))


def _quotient() -> Op:
    return Div(d := deviation(), Sqrt(variance(d)))


def _mean_computed_twice() -> Op:
    return Div(deviation(), Sqrt(variance(deviation())))


def _product_with_the_reciprocal() -> Op:
    return Mul(d := deviation(), Div(f(1), Sqrt(variance(d))))


def _reciprocal_first() -> Op:
    return Mul(Div(f(1), Sqrt(variance(d := deviation()))), d)


def _dropped_axes() -> Op:
    """Reductions without keepdims, an axis put back only behind the root."""
    mean = Reshape(Reshape(ReduceMean(X, (2,)), (2, 4)), (2, 4, 1))
    d = Sub(X, mean)
    flat = Add(Reshape(ReduceMean(Mul(d, d), (2,)), (2, 4)), f(EPSILON))
    return Div(d, Expand(Reshape(Sqrt(flat), (2, 4, 1)), (2, 4, 6)))


@pytest.mark.parametrize(
    "layer_norm",
    [
        _quotient,
        _mean_computed_twice,
        _product_with_the_reciprocal,
        _reciprocal_first,
        _dropped_axes,
    ],
)
def test_layer_norm(layer_norm: Callable[[], Op]) -> None:
    match recognized(layer_norm()):
        case Normalize(x, axes, epsilon, center):
            assert x is X
            assert (axes, center) == ((2,), True)
            assert epsilon == pytest.approx(EPSILON)
        case other:
            pytest.fail(str(other))


def test_factors_and_terms_stay_behind() -> None:
    scaled = Mul(_quotient(), parameter(6))
    match recognized(Add(scaled, parameter(6))):
        case Add(Mul(Normalize(), Constant()), Constant()):
            pass
        case other:
            pytest.fail(str(other))


def test_rms_norm() -> None:
    match recognized(Mul(X, Div(f(1), Sqrt(variance(X))))):
        case Normalize(_, (2,), _, False):
            pass
        case other:
            pytest.fail(str(other))


def test_rms_norm_of_what_another_mean_was_taken_from() -> None:
    d = deviation((1,))
    match recognized(Div(d, Sqrt(variance(d)))):
        case Normalize(Sub(), (2,), _, False):
            pass
        case other:
            pytest.fail(str(other))


def test_unit_vectors() -> None:
    """x / max(‖x‖, 1e-6), where the norm is the root of a sum: six times the mean."""
    norm = Sqrt(Mul(ReduceMean(Mul(X, X), (2,)), f(6)))
    bounded = Expand(Clip(norm, 1e-6, None), (2, 4, 6))
    match recognized(Div(X, bounded)):
        case Mul(Normalize(_, (2,), epsilon, False), Constant(array=factor)):
            assert factor == pytest.approx(6**-0.5)
            assert epsilon == pytest.approx(1e-12 / 6)
        case other:
            pytest.fail(str(other))


@pytest.mark.parametrize("square", [3.0, 0.25])
def test_a_factor_on_both(square: float) -> None:
    """d / √(3·(variance + ε)) = normalize(d; ε) / √3."""
    d = deviation()
    match recognized(Div(d, Sqrt(Mul(variance(d), f(square))))):
        case Mul(Normalize(_, _, epsilon, True), Constant(array=factor)):
            assert epsilon == pytest.approx(EPSILON)
            assert factor == pytest.approx(square**-0.5)
        case other:
            pytest.fail(str(other))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups(groups: int) -> None:
    """As exporters write group normalization: instances of [n, groups, rest]."""
    x = Input(TensorType(FLOAT, (2, 4, 3, 3)), name="x")
    flat = Reshape(x, (2, groups, 36 // groups))
    back = Reshape(Normalize(flat, (2,), EPSILON), (2, 4, 3, 3))
    found = recognized(Add(Mul(back, parameter(4, 1, 1)), parameter(1, 4, 1, 1)), x)
    match groups, found:
        case 2, Reshape(Add(Mul(Normalize(Reshape(_, shape), axes), Constant()), Constant())):
            assert (shape, axes) == ((2, 2, 2, 3, 3), (2, 3, 4))
        case 1 | 4, Add(Mul(Normalize(y, axes), Constant()), Constant()):
            assert y is x
            assert axes == ((1, 2, 3) if groups == 1 else (2, 3))
        case other:
            pytest.fail(str(other))


def test_what_stays() -> None:
    d = deviation()
    for y in (
        Div(X, Sqrt(variance(d))),  # another dividend
        Div(d, variance(d)),  # no root
        Div(d, Sqrt(Sub(ReduceMean(Mul(d, d), (2,)), f(0.5)))),  # not positive
        Div(d, Sqrt(Add(ReduceMean(Mul(d, X), (2,)), f(5)))),  # no square
        Div(d, Sqrt(Add(ReduceMean(Mul(d, d), (2,)), parameter(4, 1)))),  # many ε
        Div(f(1), Sqrt(variance(d))),
        Mul(Reshape(Normalize(X, (2,), EPSILON), (8, 6)), parameter(6)),
        Reshape(Normalize(Reshape(X, (2, 3, 8)), (2,), EPSILON), (2, 4, 6)),  # 3 groups of 4
    ):
        graph = graph_of(y)
        assert RecognizeNormalization()(graph) is graph, graph
