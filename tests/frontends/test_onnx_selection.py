"""Models that end in non-maximum suppression are compiled up to it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import Builder, refused

import qcompiler
from qcompiler.errors import UnsupportedError
from qcompiler.interpret import evaluate


def detector() -> Builder:
    """Boxes and scores from one layer each, chosen and gathered."""
    b = Builder(opset=13)
    b.input("x", [1, 6, 8])
    for name, size in (("boxes", 4), ("rows", 3)):
        weight = b.constant(f"w_{name}", np.linspace(-1, 1, 8 * size).reshape(8, size))
        b.initializers[-1].CopyFrom(_float(weight, b))
        b.node("MatMul", "x", weight, outputs=(name,), name=f"to_{name}")
    b.node("Transpose", "rows", outputs=("scores",), perm=[0, 2, 1], name="turn")
    bounds = [b.constant("most", np.array([5])), b.constant("iou", np.array([0.5], np.float32))]
    b.node("NonMaxSuppression", "boxes", "scores", *bounds, outputs=("kept",), name="nms")
    b.constant("last", np.array(2))
    b.node("Gather", "kept", "last", outputs=("index",), axis=1, name="pick")
    b.node("Gather", "boxes", "index", outputs=("chosen",), axis=1, name="choose")
    return b


def _float(name: str, b: Builder) -> TensorProto:
    tensor = next(x for x in b.initializers if x.name == name)
    array = np.frombuffer(tensor.raw_data, np.float64).reshape(tuple(tensor.dims))
    return helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.reshape(-1).tolist())


def test_what_is_chosen_from_becomes_outputs() -> None:
    model = detector().model("chosen", "rows")
    with pytest.warns(qcompiler.LeftOutWarning) as caught:
        graph = qcompiler.import_onnx(model)
    message = str(caught[0].message)
    assert "nms (NonMaxSuppression), pick (Gather), choose (Gather)" in message
    assert "outputs are boxes, scores, rows, from which these nodes compute chosen" in message
    assert list(graph.outputs) == ["boxes", "scores", "rows"]
    x = np.random.default_rng(0).standard_normal((1, 6, 8), np.float32)
    found = evaluate(graph, {"x": x})
    np.testing.assert_array_equal(found["scores"], found["rows"].transpose(0, 2, 1))


def test_a_choice_that_no_output_needs_is_no_matter() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(qcompiler.import_onnx(detector().model("rows")).outputs) == ["rows"]


def test_a_second_stage_behind_the_choice_is_refused() -> None:
    b = detector()
    b.node("MatMul", "chosen", b.constant("w", np.ones((4, 2), np.float32)), outputs=("y",))
    refused(UnsupportedError, b.model("y"), "NonMaxSuppression ×1 (nms)")


def test_a_choice_among_inputs_leaves_nothing() -> None:
    b = Builder(opset=13)
    b.input("boxes", [1, 6, 4])
    b.input("scores", [1, 3, 6])
    b.node("NonMaxSuppression", "boxes", "scores", outputs=("kept",))
    refused(UnsupportedError, b.model("kept", dtype=TensorProto.INT64), "nothing but a choice")
