"""Models whose number of samples is open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_models import Builder

from qcompiler.driver import DEFAULT_BATCHES, Options, quantize
from qcompiler.errors import ShapeError
from qcompiler.frontends.onnx import import_onnx
from qcompiler.graph import Graph

WEIGHT = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def dense(*shape: int | str | None, op: str = "Relu", **attributes: object) -> onnx.ModelProto:
    b = Builder()
    b.input("x", list(shape))
    y = b.node("MatMul", "x", b.constant("w", WEIGHT))
    return b.model(b.node(op, y, outputs=("y",), **attributes))


@pytest.mark.parametrize("symbol", ["batch", "N", None, "?", -1])
def test_the_first_dimension_counts_samples(symbol: int | str | None) -> None:
    graph = Options().imported(dense(symbol, 6))
    assert (graph.inputs[0].type.shape, graph.open_batch) == ((1, 6), {"x": 0})
    programs = Options().programs(quantize(graph, np.ones((4, 6), np.float32)))
    assert programs.batch is not None
    assert programs.batch.sizes == DEFAULT_BATCHES
    assert [g.inputs[0].type.shape[0] for g in programs.graphs.values()] == list(DEFAULT_BATCHES)


def test_its_symbol_counts_them_elsewhere() -> None:
    b = Builder()
    b.input("x", ["n", 6])
    b.input("state", [2, "n", 4])
    b.input("rate", [1])
    y = b.node("Add", b.node("MatMul", "x", b.constant("w", WEIGHT)), "state")
    graph = Options().imported(b.model(b.node("Mul", y, "rate", outputs=("y",))))
    assert graph.open_batch == {"x": 0, "state": 1}


@pytest.mark.parametrize("symbol", ["sequence_length", "num_tokens", "time"])
def test_lengths_stay_open(symbol: str) -> None:
    with pytest.raises(ShapeError, match=f"'x' is {symbol}x6; fix them, for example --input-shape"):
        import_onnx(dense(symbol, 6))


def test_a_given_shape_closes_it() -> None:
    graph = import_onnx(dense("batch", 6), input_shapes={"x": (3, 6)})
    assert (graph.inputs[0].type.shape, graph.open_batch) == ((3, 6), {})


@pytest.mark.parametrize("op", ["Softmax", "ReduceMean"])
def test_samples_that_meet_are_refused(op: str) -> None:
    """Of one sample nothing tells that the axis is more than a number of them."""
    attributes = {"axis": 0} if op == "Softmax" else {"keepdims": 1}
    with pytest.raises(ShapeError, match=r"output 'y' of two .*; fix it, .* --input-shape x:1x6$"):
        Options().imported(dense("batch", 6, op=op, **attributes))


def test_a_model_that_fits_one_sample_only_is_for_one() -> None:
    b = Builder()
    b.input("x", ["batch", 6])
    shape = b.constant("shape", np.array([1, 3, 2], np.int64))
    graph = Options().imported(b.model(b.node("Reshape", "x", shape, outputs=("y",))))
    assert graph.open_batch == {}


def test_integers_and_saved_graphs(tmp_path: Path) -> None:
    b = Builder()
    b.input("ids", ["batch", 6], TensorProto.INT64)
    table = b.constant("table", WEIGHT)
    graph = Options().imported(b.model(b.node("Gather", table, "ids", outputs=("y",))))
    assert graph.open_batch == {"ids": 0}
    graph.save(tmp_path / "g")
    assert Graph.load(tmp_path / "g").open_batch == {"ids": 0}
    for again in (graph, tmp_path / "g"):
        assert Options().imported(again).open_batch == {"ids": 0}
