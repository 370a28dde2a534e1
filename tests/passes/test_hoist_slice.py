"""Slices of products become products with sliced weights, where that is the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import Add, Conv, MatMul, Relu, Reshape, Slice, Transpose, Window
from qcompiler.passes import HoistSlice
from qcompiler.types import FLOAT, TensorType

RNG = np.random.default_rng(0)


def parameter(*shape: int) -> Constant:
    return Constant(RNG.standard_normal(shape, np.float32))


def source(*shape: int) -> Input:
    return Input(TensorType(FLOAT, shape), name="x")


def part(x: Op, axis: int, start: int, stop: int, step: int = 1) -> Slice:
    shape, rank = x.type.shape, x.type.rank
    starts = tuple(start if i == axis else 0 for i in range(rank))
    stops = tuple(stop if i == axis else d for i, d in enumerate(shape))
    return Slice(x, starts, stops, tuple(step if i == axis else 1 for i in range(rank)))


def hoisted(x: Input, *outputs: Op) -> Graph:
    """The graph after the pass, which computes what the one before it does."""
    graph = Graph((x,), {f"y{i}": y for i, y in enumerate(outputs)})
    new = HoistSlice()(graph)
    feeds = {"x": RNG.standard_normal(x.type.shape, np.float32)}
    before, after = evaluate(graph, feeds), evaluate(new, feeds)
    for name, value in before.items():
        assert after[name].shape == value.shape
        np.testing.assert_allclose(after[name], value, rtol=1e-5, atol=1e-5)
    return new


def unchanged(x: Input, *outputs: Op) -> bool:
    graph = Graph((x,), {f"y{i}": y for i, y in enumerate(outputs)})
    return HoistSlice()(graph) is graph


def kinds(graph: Graph) -> list[str]:
    return [node.kind() for node in graph.ops if not isinstance(node, (Input, Constant))]


def test_parts_of_a_product() -> None:
    x, w, b = source(2, 3), parameter(3, 6), parameter(6)
    y = MatMul(x, w, b)
    graph = hoisted(x, part(y, 1, 0, 2), part(y, 1, 2, 6))
    assert kinds(graph) == ["mat_mul", "mat_mul"]
    first, second = graph.outputs.values()
    assert isinstance(first, MatMul)
    assert isinstance(second, MatMul)
    np.testing.assert_array_equal(first.b.numpy(), w.array[:, :2])
    np.testing.assert_array_equal(second.b.numpy(), w.array[:, 2:])
    assert isinstance(second.bias, Constant)
    np.testing.assert_array_equal(second.bias.array, b.array[2:])


def test_query_key_and_value_of_attention() -> None:
    """[1, 5, 12] → [1, 5, 3, 2, 2] → [3, 1, 2, 5, 2] → three of [1, 2, 5, 2]."""
    x = source(1, 5, 4)
    product = MatMul(x, w := parameter(4, 12), None)
    heads = Transpose(Reshape(product, (1, 5, 3, 2, 2)), (2, 0, 3, 1, 4))
    parts = [Reshape(part(heads, 0, i, i + 1), (1, 2, 5, 2)) for i in range(3)]
    graph = hoisted(x, *parts)
    assert kinds(graph) == ["mat_mul", "reshape", "transpose"] * 3
    weights = [node.b.numpy() for node in graph.ops if isinstance(node, MatMul)]
    np.testing.assert_array_equal(weights, np.split(w.array, 3, axis=1))


def test_a_part_in_the_middle_takes_scattered_channels() -> None:
    """[2, 12] → [2, 2, 3, 2]: index 1 of the axis of 3 is channels 2, 3, 8 and 9."""
    x = source(2, 4)
    y = Reshape(MatMul(x, w := parameter(4, 12), None), (2, 2, 3, 2))
    graph = hoisted(x, Reshape(part(y, 2, 1, 2), (2, 4)))
    (product,) = (node for node in graph.ops if isinstance(node, MatMul))
    np.testing.assert_array_equal(product.b.numpy(), w.array[:, [2, 3, 8, 9]])


def test_every_second_channel_of_a_convolution() -> None:
    x = source(1, 3, 4, 4)
    y = Conv(x, w := parameter(6, 3, 3, 3), parameter(6), Window((3, 3)))
    graph = hoisted(x, part(y, 1, 1, 6, 2))
    assert kinds(graph) == ["conv"]
    (result,) = graph.outputs.values()
    np.testing.assert_array_equal(result.operands[1].numpy(), w.array[1::2])


def _overlapping(y: Op) -> tuple[Op, ...]:
    return part(y, 1, 0, 4), part(y, 1, 2, 6)


def _also_whole(y: Op) -> tuple[Op, ...]:
    return part(y, 1, 0, 2), Relu(y)


def _output(y: Op) -> tuple[Op, ...]:
    return part(y, 1, 0, 2), y


def _rows(y: Op) -> tuple[Op, ...]:
    return (part(y, 0, 0, 1),)


def _two_axes(y: Op) -> tuple[Op, ...]:
    return (Slice(y, (0, 0), (1, 3), (1, 1)),)


def _mixed(y: Op) -> tuple[Op, ...]:
    """Rows and channels in one axis."""
    return (part(Reshape(y, (3, 4)), 0, 0, 1),)


@pytest.mark.parametrize("users", [_overlapping, _also_whole, _output, _rows, _two_axes, _mixed])
def test_what_stays(users: Callable[[Op], tuple[Op, ...]]) -> None:
    x = source(2, 4)
    assert unchanged(x, *users(MatMul(x, parameter(4, 6), None)))


def test_other_products_stay() -> None:
    x = source(1, 4, 3, 3)
    grouped = Conv(x, parameter(4, 2, 1, 1), None, Window((1, 1)), 2)
    assert unchanged(x, part(grouped, 1, 0, 2))
    assert unchanged(x, part(MatMul(x, Transpose(x, (0, 1, 3, 2))), 3, 0, 2))
    assert unchanged(x, part(Add(x, parameter(3)), 3, 0, 2))
