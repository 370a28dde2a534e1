"""Very negative terms in front of a softmax become masks; everything else stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qcompiler.graph import Constant, Graph, Input, Op, toposort
from qcompiler.interpret import evaluate
from qcompiler.ops import (
    Add,
    Cast,
    Div,
    Equal,
    Expand,
    Mul,
    Not,
    Reshape,
    Select,
    Softmax,
    Sub,
    Transpose,
    scalar,
)
from qcompiler.passes import Canonicalize, RecognizeMask
from qcompiler.types import FLOAT, TensorType

RNG = np.random.default_rng(0)
X = Input(TensorType(FLOAT, (2, 3, 4)), name="x")
KEPT = Input(TensorType("bool", (2, 1, 4)), name="kept")
TOKENS = Input(TensorType("int64", (2, 4)), name="tokens")
FEEDS = {
    "x": RNG.standard_normal((2, 3, 4), np.float32),
    "kept": np.array([1, 1, 0, 1, 0, 0, 1, 0]).reshape(2, 1, 4) > 0,
    "tokens": np.array([[1, 1, 0, 1], [0, 0, 1, 0]]),
}
LOWEST = float(np.finfo(np.float32).min)


def f(value: float) -> Constant:
    return scalar(value, FLOAT)


def graph_of(y: Op) -> Graph:
    return Canonicalize()(Graph((X, KEPT, TOKENS), {"y": y}))


def recognized(y: Op, tolerance: float = 1e-5) -> Softmax:
    """The softmax after the pass, which computes what the graph before it does."""
    graph = graph_of(y)
    new = RecognizeMask()(graph)
    before, after = (evaluate(g, FEEDS)["y"] for g in (graph, new))
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, rtol=tolerance, atol=tolerance)
    assert RecognizeMask()(new) is new
    (result,) = new.outputs.values()
    assert isinstance(result, Softmax)
    return result


def mask_of(node: Softmax) -> np.ndarray:
    graph = Graph((X, KEPT, TOKENS), {"mask": node.mask or Constant(np.array(True))})
    return evaluate(graph, FEEDS)["mask"]


@pytest.mark.parametrize("low", [-100.0, -1e4, LOWEST, -np.inf])
def test_a_constant_keeps_its_position_biases(low: float) -> None:
    seen = np.array([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1]]) > 0
    bias = RNG.standard_normal((2, 3, 4), np.float32)
    found = recognized(Softmax(Add(X, Constant(np.where(seen, bias, np.float32(low)))), 2))
    match found:
        case Softmax(Add(x, Constant(array=rest)), 2, Constant(array=kept)):
            assert x is X
            np.testing.assert_array_equal(rest, np.where(seen, bias, 0))
            np.testing.assert_array_equal(kept, seen[None])  # one for both
        case _:
            pytest.fail(str(found))


def test_a_constant_that_is_only_a_mask_disappears() -> None:
    causal = np.triu(np.full((3, 4), LOWEST, np.float32), 1)
    found = recognized(Softmax(Add(X, Constant(causal)), 2))
    assert found.x is X
    np.testing.assert_array_equal(mask_of(found), causal == 0)


def test_a_row_of_nothing_but_low_terms_keeps_its_scores() -> None:
    """Softmax does not see −10⁴ on a whole row, of which codes for all rows would be made."""
    rows = np.array([[0, 0, -1e4, 0], [-1e4, -1e4, -1e4, -1e4], [1, 0, 0, -1e4]], np.float32)
    low = np.array([[0], [-1e4 - 1], [0]])
    expected = np.array([[1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 0]]) > 0
    found = recognized(Softmax(Add(X, Constant(rows)), 2), 2e-3)  # float32 resolves so much
    match found.x:
        case Add(x, Constant(array=rest)):
            assert x is X
            np.testing.assert_array_equal(rest, np.where(expected, rows - low, 0))
        case _:
            pytest.fail(str(found.x))
    np.testing.assert_array_equal(mask_of(found), expected)


@pytest.mark.parametrize("columns", [1, 4])
def test_a_low_row_alone_needs_no_mask(columns: int) -> None:
    rows = Constant(np.repeat(np.array([[0], [-2e4], [0]], np.float32), columns, 1))
    found = recognized(Softmax(Add(X, rows), 2), 2e-3)
    assert found.x is X
    assert found.mask is None


@pytest.mark.parametrize("scaled", [lambda y: Mul(y, f(0.5)), lambda y: Div(y, f(4.0))])
def test_a_positive_factor_behind_the_mask_is_one_of_the_scores(
    scaled: Callable[[Op], Op],
) -> None:
    found = recognized(Softmax(scaled(Select(KEPT, X, f(-1e4))), 2))
    assert np.array_equal(mask_of(found), FEEDS["kept"])
    assert not isinstance(found.x, Select)
    unmasked = Softmax(scaled(Select(KEPT, X, f(-60.0))), 2)  # e^-15 and e^-30 are no masks
    assert recognized(unmasked).mask is None


def test_a_negative_factor_behind_the_mask_makes_its_terms_the_largest() -> None:
    y = Mul(Select(KEPT, X, f(-1e4)), f(-0.5))
    assert recognized(Softmax(y, 2)).mask is None


@pytest.mark.parametrize(
    ("permutation", "masks"), [((1, 0, 2), True), ((2, 0, 1), False), ((0, 2, 1), False)]
)
def test_masks_are_followed_through_transposes_that_keep_the_axis(
    permutation: tuple[int, ...], masks: bool
) -> None:
    y = Transpose(Add(X, Select(KEPT, f(0), f(-1e4))), permutation)
    found = recognized(Softmax(y, 2))
    assert (found.mask is not None) == masks


def test_a_low_row_that_is_chosen_masks() -> None:
    """Where elements come from elsewhere, a row cannot be shifted."""
    rows = Constant(np.array([[0, 1, 0, 0], [-1e4] * 4, [0] * 4], np.float32))
    recognized(Softmax(Add(X, Select(KEPT, rows, f(1))), 2))


def _where_added() -> Op:
    return Add(X, Select(KEPT, f(0), f(-np.inf)))


def _where_of_the_opposite() -> Op:
    return Add(X, Select(Not(KEPT), f(LOWEST), f(0)))


def _scores_chosen() -> Op:
    return Select(KEPT, X, f(-1e9))


def _expanded_choice() -> Op:
    return Select(KEPT, X, Constant(np.full((1, 1, 4), -1e9, np.float32)))


def _bert() -> Op:
    return Add(X, Mul(Sub(f(1), Cast(Reshape(TOKENS, (2, 1, 4)), FLOAT)), f(-1e4)))


def _funnel() -> Op:
    return Sub(X, Mul(Sub(f(1), Cast(Reshape(TOKENS, (2, 1, 4)), FLOAT)), f(1e6)))


def _bert_late_reshape() -> Op:
    term = Mul(Sub(f(1), Cast(TOKENS, FLOAT)), f(LOWEST))
    return Add(X, Reshape(term, (2, 1, 4)))


def _cast_of_bool() -> Op:
    return Add(X, Mul(Cast(Cast(Not(KEPT), "int64"), FLOAT), f(-1e4)))


def _shifted() -> Op:
    """10000·mask − 10000 in two sums, of which neither is a mask by itself."""
    term = Mul(Cast(KEPT, FLOAT), f(1e4))
    return Add(X, Add(term, f(-1e4)))


def _comparison() -> Op:
    kept = Not(Equal(TOKENS, scalar(0, "int64")))
    return Add(X, Reshape(Select(kept, f(0), f(LOWEST)), (2, 1, 4)))


def _filled() -> Op:
    """1 − mask, in which all that is not 0 is filled with the lowest number."""
    inverted = Sub(f(1), Cast(Expand(Reshape(TOKENS, (2, 1, 4)), (2, 3, 4)), FLOAT))
    return Add(X, Select(Not(Equal(inverted, f(0))), f(LOWEST), inverted))


def _moved() -> Op:
    """Windows: the batch in two axes while the mask is added."""
    apart = Add(Reshape(X, (1, 2, 3, 4)), Reshape(Select(KEPT, f(0), f(-1e4)), (1, 2, 1, 4)))
    return Reshape(apart, (2, 3, 4))


@pytest.mark.parametrize(
    "scores",
    [
        _where_added,
        _where_of_the_opposite,
        _scores_chosen,
        _expanded_choice,
        _bert,
        _funnel,
        _bert_late_reshape,
        _cast_of_bool,
        _shifted,
        _comparison,
        _filled,
        _moved,
    ],
)
def test_masks_of_inputs(scores: Callable[[], Op]) -> None:
    found = recognized(Softmax(scores(), 2))
    moved = found.x
    while isinstance(moved, Reshape):
        moved = moved.x
    assert moved is X
    assert found.mask is not None
    assert all(node is X or not node.type.is_float for node in toposort([found.mask]))
    mask = np.broadcast_to(mask_of(found), (2, 3, 4))
    np.testing.assert_array_equal(mask, np.broadcast_to(FEEDS["kept"], (2, 3, 4)))


def test_several_masks_and_a_bias() -> None:
    some = Constant(np.array([[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]], np.float32) * LOWEST)
    bias = Constant(RNG.standard_normal((3, 4), np.float32))
    chosen = Select(KEPT, Add(X, bias), f(-1e9))
    found = recognized(Softmax(Add(chosen, some), 2))
    match found.x:
        case Add(x, Constant(array=rest)):
            assert x is X
            np.testing.assert_array_equal(rest, bias.array)
        case _:
            pytest.fail(str(found.x))
    expected = FEEDS["kept"] & (some.array == 0)
    np.testing.assert_array_equal(mask_of(found), expected)


def test_a_choice_between_biases_with_and_without_masks() -> None:
    masked = Constant(np.array([0, LOWEST, 0.5, 0], np.float32))
    found = recognized(Softmax(Add(X, Select(KEPT, masked, f(1))), 2))
    expected = ~(FEEDS["kept"] & (masked.array < 0))
    np.testing.assert_array_equal(mask_of(found), expected)


def test_another_axis() -> None:
    column = Constant(np.array([[0], [LOWEST], [0]], np.float32))
    found = recognized(Softmax(Add(X, column), 1))
    assert found.x is X
    np.testing.assert_array_equal(mask_of(found), column.array == 0)


def test_a_mask_in_more_dimensions_than_the_scores() -> None:
    row = Input(TensorType(FLOAT, (4,)), name="row")
    graph = Graph((row, KEPT), {"y": Softmax(Add(row, Select(KEPT, f(0), f(-1e4))), 2)})
    new = RecognizeMask()(graph)
    feeds = {"row": FEEDS["x"][0, 0], "kept": FEEDS["kept"]}
    before, after = (evaluate(g, feeds)["y"] for g in (graph, new))
    assert new is not graph
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_guards_against_nan_go() -> None:
    weights = Softmax(Add(X, Select(KEPT, f(0), f(-np.inf))), 2)
    found = recognized(Select(Not(Equal(weights, weights)), f(0), weights))
    assert found.mask is KEPT


def test_an_empty_row_is_zeros() -> None:
    graph = graph_of(Softmax(Add(X, Select(KEPT, f(0), f(-np.inf))), 2))
    feeds = {**FEEDS, "kept": np.zeros((2, 1, 4), bool)}
    assert not evaluate(RecognizeMask()(graph), feeds)["y"].any()


def test_what_stays() -> None:
    for y in (
        Softmax(X, 2),
        Softmax(Add(X, f(-1e9)), 2),  # a shift of all
        Softmax(Add(X, Constant(np.linspace(-40, 0, 4, dtype=np.float32))), 2),
        Softmax(Add(X, Select(KEPT, f(0), f(-20))), 2),
        Softmax(Add(X, Mul(Cast(KEPT, FLOAT), f(20))), 2),
        Add(X, Select(KEPT, f(0), f(-1e9))),
    ):
        graph = graph_of(y)
        assert RecognizeMask()(graph) is graph, graph
