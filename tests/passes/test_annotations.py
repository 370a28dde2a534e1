"""Annotations: what a quantized model says of its values is what becomes of them."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.fixed_point import dequantize
from qcompiler.graph import Constant, Graph, Input, Op, toposort
from qcompiler.interpret import evaluate
from qcompiler.ops import (
    Add,
    Codes,
    Concat,
    Conv,
    Dequantize,
    FakeQuantize,
    MatMul,
    MaxPool,
    Mul,
    Quantize,
    Relu,
    Reshape,
    Sigmoid,
    Transpose,
    Window,
)
from qcompiler.passes import Canonicalize, CollapseUnary, InsertQdq
from qcompiler.passes.annotations import annotated, signed, weight_codes
from qcompiler.passes.evidence import FixedRanges
from qcompiler.types import FLOAT, Quantization, TensorType

A = Quantization.per_tensor("uint8", 0.05, 90)
B = Quantization.per_tensor("int8", 0.02, -3)
WIDE = Quantization.per_tensor("uint16", 0.0005, 30000)
POOL = Window((2, 2), (1, 1), (0, 0, 0, 0))


def given(*shape: int) -> Input:
    return Input(TensorType(FLOAT, shape), name="x")


def graph(y: Op) -> Graph:
    return Graph(tuple(x for x in toposort([y]) if isinstance(x, Input)), {"y": y})


def meanings(of: Graph) -> list[Quantization]:
    return [node.quantization for node in of.ops if isinstance(node, Quantize)]


def test_codes_are_those_of_the_model_and_nothing_is_observed() -> None:
    w = FakeQuantize(Constant(np.eye(4, dtype=FLOAT)), Quantization.per_tensor("int8", 1 / 64))
    total = Add(MatMul(FakeQuantize(given(2, 4), A), w), Constant(np.ones(4, FLOAT)))
    real = graph(FakeQuantize(Relu(total), B))
    assert InsertQdq().observed(real) == {}
    assert meanings(InsertQdq().run(real)) == [A, B]


def test_a_value_used_otherwise_as_well_is_observed() -> None:
    x = given(2, 4)
    real = graph(Add(FakeQuantize(x, A), x))
    wanted = InsertQdq().observed(real)
    assert set(wanted) == {"x", "add"}
    ranges = FixedRanges(dict.fromkeys(wanted, (-1.0, 1.0)))
    assert A in meanings(InsertQdq(ranges).run(real))


def test_a_value_in_two_sorts_of_codes_reaches_as_far_as_both() -> None:
    x = given(2, 4)
    real = graph(Add(FakeQuantize(x, A), FakeQuantize(x, B)))
    assert InsertQdq().observed(real) == {}
    assert annotated(real).ranges[real.inputs[0]] == pytest.approx((-4.5, 8.25))


def test_what_follows_from_annotations_is_not_observed() -> None:
    pooled = MaxPool(FakeQuantize(given(1, 2, 4, 4), A), POOL)
    assert InsertQdq().observed(graph(Add(Relu(pooled), Reshape(pooled, pooled.type.shape)))) == {}


@pytest.mark.parametrize("pad", [0, 1])
def test_bounds_of_a_product_that_is_returned(pad: int) -> None:
    rng = np.random.default_rng(0)
    w, bias = rng.standard_normal((3, 2, 3, 3), np.float32), rng.standard_normal(3, np.float32)
    window = Window((3, 3), (1, 1), (pad,) * 4)
    x = FakeQuantize(given(1, 2, 6, 6), A)
    real = graph(Relu(Conv(x, Constant(w), Constant(bias), window)))
    assert InsertQdq().observed(real) == {}
    found = annotated(real)
    low, high = found.bounds[found.graph.outputs["y"].operands[0]]
    extremes = np.where(w[1] > 0, 8.25, -4.5).astype(FLOAT)
    feed = {"x": np.tile(extremes, (1, 1, 2, 2))}
    (y,) = evaluate(graph(Conv(x, Constant(w), Constant(bias), window)), feed).values()
    assert low <= y.min() <= y.max() <= high * (1 + 1e-6)
    assert y.max() > 0.9 * (np.maximum(w[1] * 8.25, w[1] * -4.5).sum() + bias[1])


def test_one_value_for_many_annotations() -> None:
    x = given(2, 4)
    real = graph(Add(FakeQuantize(x, A), FakeQuantize(x, A)))
    assert len(meanings(InsertQdq().run(real))) == 2  # of x and of the sum


def test_wider_codes_than_a_product_takes_become_narrower() -> None:
    w = Constant(np.eye(4, dtype=FLOAT))
    real = graph(FakeQuantize(MatMul(FakeQuantize(given(2, 4), WIDE), w), WIDE))
    assert InsertQdq().observed(real) == {}
    first, *_, last = meanings(InsertQdq().run(real))
    assert (first.storage, last) == ("uint8", WIDE)


def test_codes_as_integers_have_the_meaning_that_they_are_asked_in() -> None:
    x = given(2, 4)
    real = graph(Codes(Add(x, x), A))
    assert set(InsertQdq().observed(real)) == {"x"}
    ranges = FixedRanges({"x": (-4.0, 4.0)})
    assert A in meanings(InsertQdq(ranges).run(real))


@pytest.mark.parametrize("zero_point", [0, 5, 128, 255])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weights_keep_their_reals(zero_point: int, axis: int | None) -> None:
    rng = np.random.default_rng(zero_point)
    count = 1 if axis is None else (5, 7)[axis]
    q = Quantization("uint8", tuple(0.1 + 0.1 * np.arange(count)), (zero_point,) * count, axis)
    codes = rng.integers(0, 256, (5, 7), np.uint8)
    found, meaning = weight_codes(dequantize(codes, q).astype(FLOAT), q)
    assert (dequantize(found, meaning) == dequantize(codes, q)).all()
    assert meaning.storage == "int8"


def test_weights_that_fit_have_no_zero_points() -> None:
    q = Quantization.per_tensor("uint4", 0.1, 8)
    codes = np.arange(16, dtype=np.uint8).reshape(4, 4)
    found, meaning = weight_codes(dequantize(codes, q).astype(FLOAT), q)
    assert meaning.zero_point == (0,)
    assert (found == codes.astype(np.int8) - 8).all()


def test_signed_codes_mean_the_same() -> None:
    codes = np.arange(256, dtype=np.uint8)
    moved = (codes.astype(np.int16) - 128).astype(np.int8)
    assert (dequantize(moved, signed(A)) == dequantize(codes, A)).all()
    assert signed(B) is B


def test_weights_are_moved_into_place() -> None:
    q = Quantization.per_channel("int8", np.array([0.1, 0.2, 0.3]), 0)
    c = Constant(np.arange(12, dtype=FLOAT).reshape(3, 4) * np.float32(0.1))
    real = graph(MatMul(given(2, 4), Transpose(FakeQuantize(c, q), (1, 0))))
    match Canonicalize()(real).outputs["y"]:
        case MatMul(_, FakeQuantize(Constant(array=array), meaning)):
            assert meaning.axis == 1
            assert (array == c.array.T).all()
        case y:
            pytest.fail(repr(y))


def test_scales_that_leave_their_axis_are_given_up() -> None:
    q = Quantization.per_channel("int8", np.array([0.1, 0.2, 0.3]), 0)
    w = Reshape(FakeQuantize(Constant(np.ones((3, 4), FLOAT)), q), (4, 3))
    real = graph(MatMul(given(2, 4), w))
    assert isinstance(Canonicalize()(real).outputs["y"].operands[1], Constant)


def test_only_weights_stay_annotated() -> None:
    c = FakeQuantize(Constant(np.ones(4, FLOAT)), B)
    y = Canonicalize()(graph(Add(given(2, 4), c))).outputs["y"]
    assert not any(isinstance(x, FakeQuantize) for x in y.operands)


def test_weights_along_another_axis_are_quantized_anew() -> None:
    q = Quantization.per_channel("int8", np.array([0.1, 0.2, 0.3, 0.4]), 0)
    w = FakeQuantize(Constant(np.eye(4, dtype=FLOAT)), q)
    real = graph(FakeQuantize(MatMul(FakeQuantize(given(2, 4), A), w), B))
    assert any(q.axis == 1 for q in meanings(InsertQdq().run(real)))


def test_names_of_observed_values_are_those_of_the_model() -> None:
    x = given(2, 4)
    inner = FakeQuantize(Relu(x, name="relu"), A, name="relu_q")
    real = graph(Add(MatMul(inner, Constant(np.eye(4, dtype=FLOAT)), name="product"), x, name="s"))
    wanted = InsertQdq().observed(real)
    assert set(wanted) == {"x", "s"}
    assert set(wanted) <= set(real.names.values())


def test_annotated_values_evaluate_as_before() -> None:
    x = given(1, 2, 4, 4)
    w = FakeQuantize(Constant(np.full((2, 2, 1, 1), 0.25, FLOAT)), B)
    y = Conv(FakeQuantize(x, A), w, None, Window((1, 1), (1, 1), (0, 0, 0, 0)))
    before = graph(FakeQuantize(y, B))
    after = InsertQdq().run(before)
    feed = {"x": np.random.default_rng(0).uniform(-3, 3, (1, 2, 4, 4)).astype(FLOAT)}
    assert (evaluate(before, feed)["y"] == evaluate(after, feed)["y"]).all()
    assert isinstance(after.outputs["y"], Dequantize)


def test_graphs_without_annotations_are_left_alone() -> None:
    x = given(2, 4)
    real = graph(Relu(x))
    found = annotated(real)
    assert found.graph is real
    assert not found.kept
    assert not found.ranges


def test_bounds_of_a_matrix_product_are_reached() -> None:
    x = FakeQuantize(given(2, 4), A)  # −4.5 … 8.25
    w, bias = np.array([[1, -2], [0, 3], [-1, 0], [2, 2]], FLOAT), np.array([0.5, -1], FLOAT)
    found = annotated(graph(Relu(MatMul(x, Constant(w), Constant(bias)))))
    terms = np.stack([-4.5 * w, 8.25 * w])
    low, high = ((sums + bias) for sums in (terms.min(0).sum(0), terms.max(0).sum(0)))
    bounds = found.bounds[found.graph.outputs["y"].operands[0]]
    assert bounds == pytest.approx((low.min(), high.max()))


def test_the_range_of_a_function_is_that_of_its_values() -> None:
    x = FakeQuantize(given(2, 4), A)
    found = annotated(CollapseUnary()(graph(Relu(Mul(Sigmoid(x), Constant(np.array(0.3, FLOAT)))))))
    low, high = found.ranges[found.graph.outputs["y"]]
    assert (low, high) == pytest.approx((0.0, 0.3 / (1 + np.exp(-8.25))), rel=1e-3)


def test_constants_that_are_joined_keep_their_values() -> None:
    x = given(2, 4)
    rows = (FakeQuantize(Constant(np.full((1, 4), v, FLOAT)), A) for v in (1.0, 2.0))
    before = graph(Add(x, Concat(tuple(rows), 0)))
    feed = {"x": np.zeros((2, 4), FLOAT)}
    found, exact = (evaluate(g, feed)["y"] for g in (Canonicalize()(before), before))
    assert (found == exact).all()
