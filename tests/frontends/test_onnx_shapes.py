"""Open dimensions and shapes that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import Builder, refused

from qcompiler.errors import (
    ModelError,
    QcompilerError,
    ShapeError,
    UnsupportedError,
    UsageError,
)
from qcompiler.frontends.onnx import import_onnx
from qcompiler.interpret import evaluate


def test_open_dimensions_are_all_named() -> None:
    b = Builder()
    b.input("image", ["batch", 3, "height", "width"])
    b.input("scale", [None])
    model = b.model(b.node("Mul", "image", "scale", outputs=("y",)))
    refused(
        ShapeError,
        model,
        "'image' is batchx3xheightxwidth",
        "'scale' is ?",
        "--input-shape image:1x3x224x224 --input-shape scale:1",
    )
    refused(ShapeError, model, "'scale'", input_shapes={"image": [1, 3, 8, 8]})
    shapes = {"image": [1, 3, 8, 8], "scale": [8]}
    assert import_onnx(model, input_shapes=shapes).outputs["y"].type.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("unknown", ["?", -1])
def test_what_exporters_write_for_unknown_sizes(unknown: str | int) -> None:
    b = Builder()
    b.input("x", [unknown, 3, unknown, unknown])
    model = b.model(b.node("Relu", "x", outputs=("y",)))
    refused(ShapeError, model, "'x' is ?x3x?x?", "--input-shape x:1x3x224x224")
    graph = import_onnx(model, input_shapes={"x": [2, 3, 4, 5]})
    assert graph.outputs["y"].type.shape == (2, 3, 4, 5)


def conditional() -> onnx.ModelProto:
    """A model that computes what an input says; each branch fits one rate only."""
    b = Builder(opset=17)
    b.input("x", [2, 4])
    b.input("rate", [], TensorProto.INT64)
    branches = []
    for size in (3, 4):
        weight = numpy_helper.from_array(np.ones((size, 1), np.float32), f"w{size}")
        node = helper.make_node("MatMul", ["x", f"w{size}"], [f"y{size}"])
        result = helper.make_tensor_value_info(f"y{size}", TensorProto.FLOAT, [2, 1])
        branches.append(helper.make_graph([node], f"g{size}", [], [result], [weight]))
    condition = b.node("Equal", "rate", b.constant("slow", np.array(8000)))
    b.node("If", condition, outputs=("y",), then_branch=branches[0], else_branch=branches[1])
    return b.model("y")


def test_an_input_may_become_a_constant() -> None:
    refused(UnsupportedError, conditional(), "If with a branch", "(MatMul)", "--input-value rate=…")
    graph = import_onnx(conditional(), input_values={"rate": 16000})
    assert [x.name for x in graph.inputs] == ["x"]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert (evaluate(graph, {"x": x})["y"] == x.sum(1, keepdims=True)).all()
    half = import_onnx(conditional(), input_values={"rate": 16000, "x": 0.5})
    assert (evaluate(half, {})["y"] == 2).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"z": 1}, "--input-value z: no such input; expected x, rate"),
        ({"rate": 1.5}, "--input-value rate: expected int64[], found 1.5"),
        ({"rate": [1, 2]}, "--input-value rate: expected int64[], found [1, 2]"),
        ({"x": "much"}, "--input-value x: expected float32[2x4], found much"),
        ({"x": [1, 2, 3]}, "--input-value x: expected float32[2x4], found [1, 2, 3]"),
    ],
)
def test_input_values_that_do_not_fit(values: dict[str, Any], words: str) -> None:
    refused(UsageError, conditional(), words, input_values=values)


def test_an_input_of_unknown_rank() -> None:
    b = Builder()
    b.input("x", None)
    model = b.model(b.node("Relu", "x", outputs=("y",)))
    refused(ShapeError, model, "'x' is of unknown rank", "--input-shape x:")
    assert import_onnx(model, input_shapes={"x": [4]}).outputs["y"].type.shape == (4,)


@pytest.mark.parametrize(
    ("shapes", "kind", "words"),
    [
        ({"z": [1]}, UsageError, "--input-shape z: no such input; expected x"),
        ({"x": [2]}, ShapeError, "expected 2 dimensions as in nx3"),
        ({"x": [2, 4]}, ShapeError, "the model fixes nx3"),
        ({"x": [0, 3]}, ShapeError, "at least 1"),
        ({"x": ["a", 3]}, UsageError, "whole numbers"),
        ({"x": [1 << 40, 3]}, ShapeError, "2^30"),
    ],
)
def test_input_shapes_that_do_not_fit(
    shapes: dict[str, Any], kind: type[QcompilerError], words: str
) -> None:
    b = Builder()
    b.input("x", ["n", 3])
    model = b.model(b.node("Relu", "x", outputs=("y",)))
    refused(kind, model, words, input_shapes=shapes)


def test_one_symbol_with_two_sizes() -> None:
    b = Builder()
    b.input("x", ["n"])
    b.input("z", ["n"])
    model = b.model(b.node("Concat", "x", "z", axis=0))
    refused(ShapeError, model, "'n' is 2 in input 'x'", input_shapes={"x": [2], "z": [3]})


def test_an_input_shape_that_the_model_cannot_take() -> None:
    b = Builder()
    b.input("x", ["n", "m"])
    b.constant("w", np.ones((3, 4), np.float32))
    model = b.model(b.node("MatMul", "x", "w", name="product"))
    refused(ShapeError, model, "'product' (MatMul)", "2x5", input_shapes={"x": [2, 5]})


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ([5], ShapeError),
        ([4, -1], ShapeError),
        ([0, 0, 0], ModelError),
        ([-1, -1], ModelError),
        ([-2, 3], ModelError),
    ],
)
def test_reshapes_that_do_not_fit(shape: list[int], kind: type[QcompilerError]) -> None:
    b = Builder()
    b.input("x", [2, 3])
    model = b.model(b.node("Reshape", "x", b.constant("s", np.array(shape)), name="flat"))
    refused(kind, model, "'flat' (Reshape)")


def test_an_empty_input() -> None:
    b = Builder()
    b.input("x", [0, 3])
    refused(ShapeError, b.model(b.node("Relu", "x")), "'x' is 0x3")
