"""MigrateScales: exact in reals, and the channels of v even afterwards."""

import dataclasses

import numpy as np
import pytest

from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import MatMul, Reshape, Softmax, Transpose
from qcompiler.passes import MigrateScales
from qcompiler.passes.evidence import FixedRanges
from qcompiler.types import FLOAT, TensorType

TOKENS, HEADS, SIZE = 9, 2, 4
WIDTH = HEADS * SIZE


def constant(array) -> Constant:
    return Constant(np.asarray(array, FLOAT))


def heads(x: Op) -> Op:
    return Transpose(Reshape(x, (1, TOKENS, HEADS, SIZE)), (0, 2, 1, 3))


def attention(rng: np.random.Generator, masked: bool = False) -> Graph:
    x = Input(TensorType(FLOAT, (1, TOKENS, WIDTH)), name="x")
    spread = rng.uniform(0.1, 10, WIDTH)
    v = MatMul(
        x, constant(rng.normal(size=(WIDTH, WIDTH)) * spread), constant(rng.normal(size=WIDTH) * 5)
    )
    v = dataclasses.replace(v, name="v")
    scores = MatMul(heads(x), Transpose(heads(x), (0, 1, 3, 2)))
    keep = rng.random((1, 1, TOKENS, TOKENS)) < 0.7
    keep[..., 0, :] = False  # a row without any weight
    weights = Softmax(scores, 3, Constant(keep) if masked else None)
    mixed = Reshape(Transpose(MatMul(weights, heads(v)), (0, 2, 1, 3)), (1, TOKENS, WIDTH))
    return Graph((x,), {"y": MatMul(mixed, constant(rng.normal(size=(WIDTH, 5))), None)})


def migrated(graph: Graph, feeds, **options) -> Graph:
    v = evaluate(Graph(graph.inputs, {"v": graph.find("v")}), feeds)["v"].reshape(-1, WIDTH)
    ranges = FixedRanges({}, {"v": (v.min(0).astype(float), v.max(0).astype(float))})
    return MigrateScales(ranges, **options)(graph)


@pytest.mark.parametrize("masked", [False, True])
def test_reals_stay(masked):
    rng = np.random.default_rng(int(masked))
    graph = attention(rng, masked)
    feeds = {"x": rng.normal(size=(1, TOKENS, WIDTH)).astype(FLOAT)}
    new = migrated(graph, feeds)
    assert new is not graph
    old, after = evaluate(graph, feeds)["y"], evaluate(new, feeds)["y"]
    assert np.allclose(old, after, atol=1e-4 * np.abs(old).max())


def test_all_difficulty_can_go_to_the_weights():
    rng = np.random.default_rng(4)
    graph = attention(rng)
    feeds = {"x": rng.normal(size=(1, TOKENS, WIDTH)).astype(FLOAT)}
    new = migrated(graph, feeds, alpha=1.0)
    v = evaluate(Graph(new.inputs, {"v": new.find("v")}), feeds)["v"].reshape(-1, WIDTH)
    spans = v.max(0) - v.min(0)
    assert np.allclose(spans, spans[0], rtol=1e-3)
    assert np.allclose(v.max(0), -v.min(0), atol=1e-3 * spans[0])  # centred
    assert migrated(new, feeds, alpha=1.0) is new


@pytest.mark.parametrize("shared", [False, True])
def test_values_that_are_no_product_with_known_weights_stay(shared):
    x = Input(TensorType(FLOAT, (1, TOKENS, WIDTH)), name="x")
    w = Input(TensorType(FLOAT, (WIDTH, WIDTH)), name="w")
    v = dataclasses.replace(MatMul(x, constant(np.eye(WIDTH)) if shared else w), name="v")
    weights = Softmax(MatMul(heads(x), Transpose(heads(x), (0, 1, 3, 2))), 3)
    mixed = Reshape(Transpose(MatMul(weights, heads(v)), (0, 2, 1, 3)), (1, TOKENS, WIDTH))
    y = MatMul(mixed, constant(np.ones((WIDTH, 5))))
    graph = Graph((x, w), {"y": y, **({"v": v} if shared else {})})
    ranges = FixedRanges({}, {"v": (np.full(WIDTH, -1.0), np.geomspace(1, 100, WIDTH))})
    assert MigrateScales(ranges)(graph) is graph


def test_one_head_without_a_batch_axis() -> None:
    rng = np.random.default_rng(2)
    x = Input(TensorType(FLOAT, (TOKENS, WIDTH)), name="x")
    v = MatMul(x, constant(rng.normal(size=(WIDTH, WIDTH)) * np.geomspace(0.1, 10, WIDTH)))
    v = dataclasses.replace(v, name="v")
    mixed = MatMul(Softmax(MatMul(x, Transpose(x, (1, 0))), 1), v)
    graph = Graph((x,), {"y": MatMul(mixed, constant(rng.normal(size=(WIDTH, 5))))})
    feeds = {"x": rng.normal(size=(TOKENS, WIDTH)).astype(FLOAT)}
    new = migrated(graph, feeds)
    assert new is not graph
    old, after = evaluate(graph, feeds)["y"], evaluate(new, feeds)["y"]
    assert np.allclose(old, after, atol=1e-4 * np.abs(old).max())
