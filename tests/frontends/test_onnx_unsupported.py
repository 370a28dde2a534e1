"""Valid models that use what has no importer: all of it is listed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import Builder, linear, refused

from qcompiler.errors import (
    ModelError,
    UnsupportedError,
)
from qcompiler.frontends.onnx import NEWEST, import_onnx


def test_all_unsupported_operators_are_listed() -> None:
    b = Builder()
    hidden = b.input("x", [2, 3])
    for i in range(9):
        hidden = b.node("RandomNormalLike", hidden, name=f"h{i}")
    hidden = b.node("Frobnicate", hidden, domain="com.example", name="f")
    hidden = b.node("Relu", b.node("Transpose", hidden))
    other = b.node("Celu", "x", name="c", alpha=-1.0)
    message = refused(
        UnsupportedError,
        b.model(hidden, other),
        "RandomNormalLike ×9 (h0, h1, h2, h3, h4, h5 and 3 more)",
        "com.example.Frobnicate ×1 (f)",
        "Celu with alpha=-1.0 ×1 (c)",
    )
    assert "Relu" not in message
    assert "Transpose" not in message


def test_nothing_shows_up_only_after_the_rest_was_replaced() -> None:
    b = Builder()
    hidden = b.input("x", [1, 1, 4, 4])
    for i in range(2):  # in a row: an unknown operator, whose type the model declares; then a form
        hidden = b.node("Frobnicate", hidden, domain="com.example", name=f"unknown{i}")
        statistics = b.constant(f"s{i}", np.ones(1, np.float32))
        hidden = b.node(
            "BatchNormalization", hidden, *[statistics] * 4, name=f"form{i}", training_mode=1
        )
    count = b.node("Cast", b.node("NonZero", "x", name="count"), to=TensorProto.FLOAT)
    parallel = b.node("RandomNormalLike", count, name="after_count")
    model = b.model(hidden, parallel)
    for value in ("v0", "v2"):
        declared = helper.make_tensor_value_info(value, TensorProto.FLOAT, [1, 1, 4, 4])
        model.graph.value_info.append(declared)
    names = ("unknown0", "unknown1", "form0", "form1", "count", "after_count")
    refused(UnsupportedError, model, *names)


def test_what_follows_a_refused_node_is_still_understood() -> None:
    b = Builder()
    b.input("x", [2, 3])
    hidden = b.node("RandomNormalLike", "x", name="h")
    target = b.node("Concat", b.node("Shape", hidden), b.constant("one", np.array([1])), axis=0)
    reshaped = b.node("Reshape", hidden, b.node("Abs", target))
    model = b.model(b.node("Det", b.node("Conv", reshaped, b.constant("w", np.ones((1, 3, 1))))))
    message = refused(UnsupportedError, model, "RandomNormalLike ×1 (h)")
    assert "Abs" not in message


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes", "words"),
    [
        ("Celu", [[3]], {"alpha": -1.0}, "Celu with alpha=-1.0"),
    ],
)
def test_forms_of_transformers_that_are_not_supported(
    op_type: str, shapes: list[list[int]], attributes: dict[str, Any], words: str
) -> None:
    b = Builder(opset=23)
    names = [b.input(f"x{i}", shape) for i, shape in enumerate(shapes)]
    b.node(op_type, *names, outputs=("y",), name="culprit", **attributes)
    refused(UnsupportedError, b.model("y"), words, "(culprit)")


def test_layouts_of_one_machine_come_with_advice() -> None:
    b = Builder(opset=20)
    b.input("x", [1, 8, 4, 4])
    b.node("ReorderInput", "x", outputs=("y",), domain="com.microsoft.nchwc")
    words = ("com.microsoft.nchwc.ReorderInput in one machine's layout", "ORT_ENABLE_EXTENDED")
    refused(UnsupportedError, b.model("y"), *words)


def test_masked_scores_are_no_output() -> None:
    b = Builder(opset=23)
    names = [b.input(f"x{i}", [1, 1, 2, 4]) for i in range(3)]
    rule = {"is_causal": 1, "qk_matmul_output_mode": 2}
    b.node("Attention", *names, outputs=("y", "", "", "qk"), name="culprit", **rule)
    refused(UnsupportedError, b.model("qk"), "Attention with scores of −∞", "(culprit)")


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes", "words"),
    [
        (
            "GroupQueryAttention",
            [[2, 1, 8]] * 3 + [[2, 2, 4, 4]] * 2 + [[2], []],
            {"num_heads": 2, "kv_num_heads": 2},
            "with a cache of computed length: export the model without a cache",
        ),
        (
            "GroupQueryAttention",
            [[2, 1, 8]] * 3 + [None, None, [2], []],
            {"num_heads": 2, "kv_num_heads": 2, "qk_output": 1},
            "with qk_output=1",
        ),
        ("MultiHeadAttention", [[2, 3, 8]] * 3 + [None] * 5 + [[1]], {"num_heads": 2}, "shared"),
        ("Attention", [[2, 3, 8], [8, 24]], {"num_heads": 2, "do_rotary": 1}, "with do_rotary"),
        ("Attention", [[2, 3, 8], [8, 24], None, [7]], {"num_heads": 2}, "with a mask int32[7]"),
        ("FusedConv", [[1, 1, 4, 4], [1, 1, 3, 3]], {"activation": "Elu"}, "activation=Elu"),
    ],
)
def test_forms_of_onnxruntime_that_are_not_supported(
    op_type: str, shapes: list[list[int] | None], attributes: dict[str, Any], words: str
) -> None:
    b = Builder(opset=20)
    names = []
    for i, shape in enumerate(shapes):
        whole = shape is not None and len(shape) < 2
        kind = TensorProto.INT32 if whole else TensorProto.FLOAT
        names.append("" if shape is None else b.input(f"x{i}", shape, kind))
    b.node(op_type, *names, outputs=("y",), name="culprit", domain="com.microsoft", **attributes)
    refused(UnsupportedError, b.model("y"), words, "(culprit)")


def test_training_is_not_supported() -> None:
    b = Builder()
    b.input("x", [2, 3])
    parameters = [b.constant(f"p{i}", np.ones(3, np.float32)) for i in range(4)]
    outputs = ("y", "mean", "variance")
    b.node("BatchNormalization", "x", *parameters, outputs=outputs, training_mode=1, name="bn")
    refused(UnsupportedError, b.model("y"), "training_mode", "(bn)")
    b = Builder()
    b.input("x", [2, 3])
    training = b.constant("training", np.array(True))
    b.node("Dropout", "x", "", training, outputs=("y",), name="drop")
    refused(UnsupportedError, b.model("y"), "training_mode", "(drop)")


def test_unsupported_outputs_of_supported_operators() -> None:
    b = Builder()
    b.input("x", [2, 3])
    b.node("Dropout", "x", outputs=("y", "mask"), name="drop")
    assert import_onnx(b.model("y")).outputs["y"].type.shape == (2, 3)
    refused(UnsupportedError, b.model("y", "mask"), "Dropout with output 1 ×1 (drop)")


def test_operands_of_other_types() -> None:
    b = Builder()
    b.input("x", [2, 3], TensorProto.UINT64)
    refused(UnsupportedError, b.model(b.node("Add", "x", "x", name="a")), "Add of uint64 ×1 (a)")


@pytest.mark.parametrize("opset", [1, 6, NEWEST + 1, 99])
def test_opsets_out_of_range(opset: int) -> None:
    model = linear(opset=opset).model("y")
    refused(UnsupportedError, model, f"opset {opset}", "expected 7 to", "version_converter")


def test_a_model_without_an_opset() -> None:
    model = linear().model("y")
    del model.opset_import[:]
    refused(ModelError, model, "no opset")


@pytest.mark.parametrize(
    ("type_proto", "words"),
    [
        (
            helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2])),
            "SequenceType",
        ),
        (
            helper.make_optional_type_proto(helper.make_tensor_type_proto(1, [2])),
            "OptionalType",
        ),
        (helper.make_map_type_proto(7, helper.make_tensor_type_proto(1, [2])), "map_type"),
        (helper.make_sparse_tensor_type_proto(1, [2]), "SparseTensorType"),
        (helper.make_tensor_type_proto(TensorProto.STRING, [2]), "string"),
        (helper.make_tensor_type_proto(TensorProto.FLOAT8E4M3FN, [2]), "float8e4m3fn"),
    ],
)
def test_inputs_that_are_no_tensors_of_numbers(type_proto: onnx.TypeProto, words: str) -> None:
    b = linear()
    b.inputs.append(helper.make_value_info("odd", type_proto))
    refused(UnsupportedError, b.model("y"), "input 'odd'", words)


def test_floats_like_integers_of_four_bits_are_not_supported() -> None:
    b = Builder()
    b.input("x", [3])
    b.initializers.append(helper.make_tensor("like", TensorProto.UINT4, [1], [1]))
    b.node("CastLike", "x", "like", outputs=("y",), name="culprit")
    model = b.model("y", dtype=TensorProto.UINT4)
    refused(UnsupportedError, model, "CastLike with conversion of float32 to uint4 ×1 (culprit)")
