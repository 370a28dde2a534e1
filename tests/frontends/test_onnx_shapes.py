"""Open dimensions and shapes that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import Builder, refused

from qcompiler.errors import (
    ModelError,
    QcompilerError,
    ShapeError,
    UsageError,
)
from qcompiler.frontends.onnx import import_onnx


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
