"""Movements that merge: the same elements by fewer transposes."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.graph import Constant, Graph, Input
from qcompiler.interpret import evaluate
from qcompiler.ops import Add, Concat, Maximum, MaxPool, Relu, Reshape, Slice, Transpose, Window
from qcompiler.passes import Canonicalize, ChannelsLast, canonicalize
from qcompiler.passes.canonicalize import merge_movement
from qcompiler.types import Quantization, TensorType


def transposes(graph: Graph) -> int:
    return sum(isinstance(x, Transpose) for x in graph.ops)


def around_a_merge(rng: np.random.Generator, smallest: int) -> Graph:
    """transpose(reshape(transpose(x))), the reshape merging neighbours and adding an axis of 1."""
    rank = int(rng.integers(2, 6))
    shape = tuple(int(v) for v in rng.integers(smallest, 4, rank))
    x = Input(TensorType("uint8", shape), name="x")
    moved = Transpose(x, tuple(int(v) for v in rng.permutation(rank)))
    left, merged = list(moved.type.shape), []
    while left:
        count = int(rng.integers(1, len(left) + 1))
        merged.append(int(np.prod(left[:count])))
        left = left[count:]
    merged.insert(int(rng.integers(0, len(merged) + 1)), 1)
    order = tuple(int(v) for v in rng.permutation(len(merged)))
    return Graph((x,), {"y": Transpose(Reshape(moved, tuple(merged)), order)})


@pytest.mark.parametrize("seed", range(60))
def test_transposes_around_a_merge_become_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = around_a_merge(rng, smallest=seed % 7 > 0)
    after = Canonicalize()(graph)
    x = rng.integers(0, 255, graph.inputs[0].type.shape, np.uint8)
    np.testing.assert_array_equal(
        evaluate(after, {"x": x})["y"], evaluate(graph, {"x": x})["y"], strict=True
    )
    if 0 not in x.shape:
        assert transposes(after) <= 1


def test_tokens_of_an_image_with_its_channels_last_are_a_reshape() -> None:
    x = Input(TensorType("int16", (1, 5, 7, 6)), name="x")
    flat = Reshape(Transpose(x, (0, 3, 1, 2)), (1, 6, 35))
    after = Canonicalize()(Graph((x,), {"y": Transpose(flat, (0, 2, 1))}))
    assert [type(node) for node in after.ops] == [Input, Reshape]


@pytest.mark.parametrize("case", ["splits", "scales"])
def test_other_reshapes_stay_between_their_transposes(case: str) -> None:
    q = Quantization.per_channel("uint8", [0.1, 0.2, 0.3, 0.4], 3) if case == "scales" else None
    x = Input(TensorType("uint8", (1, 6, 5, 4), q), name="x")
    shape = (1, 4, 30) if case == "scales" else (1, 2, 2, 30)
    flat = Reshape(Transpose(x, (0, 3, 1, 2)), shape)
    last = (0, 2, 1) if case == "scales" else (0, 3, 2, 1)
    assert merge_movement(Transpose(flat, last)) is None


def test_one_scale_on_an_axis_of_one_is_per_tensor() -> None:
    q = Quantization.per_channel("int32", [0.1], 3)
    assert q == Quantization.per_tensor("int32", 0.1)
    x = Input(TensorType("int32", (5, 6, 4, 1), q), name="x")
    after = merge_movement(Transpose(x, (0, 3, 1, 2)))
    assert isinstance(after, Reshape)
    assert after.type == TensorType("int32", (5, 1, 6, 4), q)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2)])
@pytest.mark.parametrize("kept", [(4, 5), (2, 3), (1, 4), (0, 5)])
def test_a_slice_of_joined_steps_needs_only_those(
    axes: tuple[int, ...], kept: tuple[int, int]
) -> None:
    x = Input(TensorType("float32", (3, 2)), name="x")
    steps = [Relu(x, name=f"step{i}") for i in range(5)]
    whole = Transpose(Reshape(Concat(tuple(steps), 0), (5, 3, 2)), axes)
    starts, stops = [0, 0, 0], list(whole.type.shape)
    axis = axes.index(0)
    starts[axis], stops[axis] = kept
    graph = Graph((x,), {"y": Slice(whole, tuple(starts), tuple(stops), (1, 1, 1))})
    after = Canonicalize()(graph)
    names = [op.name for op in after.ops if isinstance(op, Relu)]
    assert names == [f"step{i}" for i in range(*kept)]
    feeds = {"x": np.arange(-3, 3, dtype=np.float32).reshape(3, 2)}
    np.testing.assert_array_equal(
        evaluate(after, feeds)["y"], evaluate(graph, feeds)["y"], strict=True
    )


def test_slices_across_joined_values_stay() -> None:
    x = Input(TensorType("float32", (3, 2)), name="x")
    parts = (x, Relu(x), Relu(Relu(x)))
    rows, columns = Concat(parts, 0), Concat(parts, 1)
    for part in (
        Slice(rows, (0, 1), (9, 2), (1, 1)),  # a column of every part
        Slice(columns, (1, 0), (2, 6), (1, 1)),
        Slice(rows, (0, 0), (9, 2), (2, 1)),
        Slice(Reshape(rows, (6, 3)), (1, 0), (2, 3), (1, 1)),  # half a row
    ):
        graph = Graph((x,), {"y": part})
        assert isinstance(Canonicalize()(graph).outputs["y"], Slice)


@pytest.mark.parametrize("limit", [0, 4, 1000])
def test_constants_are_folded_unless_that_makes_much_of_little(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canonicalize, "FOLD_LIMIT", limit)
    row, column = (Constant(np.ones(shape, np.float32)) for shape in ((1, 3), (3, 1)))
    x = Input(TensorType("float32", (3, 3)), name="x")
    for a, b, folds in ((row, column, limit == 1000), (row, row, True)):
        y = Add(x, Add(a, b))
        after = Canonicalize()(Graph((x,), {"y": y})).outputs["y"]
        assert isinstance(after.operands[1], Constant) == folds


def test_a_scalar_stays_beside_transposes() -> None:
    x, number = (
        Input(TensorType("uint8", (1, 3, 4, 4)), name="x"),
        Input(TensorType("uint8", ()), name="c"),
    )
    graph = Graph((x, number), {"y": Maximum(MaxPool(x, Window((2, 2))), number)})
    after = ChannelsLast()(graph)
    assert after is not graph
    rng = np.random.default_rng(0)
    feeds = {"x": rng.integers(0, 256, (1, 3, 4, 4)).astype(np.uint8), "c": np.uint8(99)}
    assert (evaluate(after, feeds)["y"] == evaluate(graph, feeds)["y"]).all()
