"""Sequences and optional values are taken apart by the import."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import Builder, assert_agrees, refused

from qcompiler.errors import ModelError, UnsupportedError
from qcompiler.frontends.onnx import import_onnx
from qcompiler.interpret import evaluate

X = np.arange(15, dtype=np.float32).reshape(3, 5)


def agrees(b: Builder, y: str, dtype: int = TensorProto.FLOAT) -> None:
    assert_agrees(b.model(y, dtype=dtype), {"x": X})


@pytest.mark.parametrize(
    ("sizes", "attributes"),
    [
        (np.array([1, 4]), {"axis": 1}),
        (np.array(2), {"axis": -1}),
        (None, {"axis": 0, "keepdims": 0}),
        (None, {"axis": 0}),
    ],
)
def test_parts_of_a_tensor(sizes: np.ndarray | None, attributes: dict[str, int]) -> None:
    b = Builder()
    operands = [b.input("x", [3, 5])] + ([] if sizes is None else [b.constant("s", sizes)])
    parts = b.node("SplitToSequence", *operands, **attributes)
    second = b.node("SequenceAt", parts, b.constant("i", np.array(1)))
    last = b.node("SequenceAt", parts, b.constant("j", np.array(-1)))
    agrees(b, b.node("Add", b.node("ReduceSum", second), b.node("ReduceMax", last)))


@pytest.mark.parametrize(("axis", "new"), [(0, 0), (-1, 0), (0, 1), (-1, 1), (1, 1)])
def test_a_sequence_becomes_a_tensor(axis: int, new: int) -> None:
    b = Builder()
    x = b.input("x", [3, 5])
    made = b.node("SequenceConstruct", x, b.node("Neg", x))
    more = b.node("SequenceInsert", made, b.node("Abs", x), b.constant("i", np.array(-1)))
    agrees(b, b.node("ConcatFromSequence", b.node("Identity", more), axis=axis, new_axis=new))


def test_values_are_inserted_and_erased() -> None:
    b = Builder()
    x = b.input("x", [3, 5])
    empty = b.node("SequenceEmpty")
    two = b.node("SequenceInsert", b.node("SequenceInsert", empty, x), b.node("Neg", x))
    left = b.node("SequenceErase", two, b.constant("i", np.array(0)))
    agrees(b, b.node("SequenceAt", left, "i"))
    agrees(b, b.node("SequenceLength", b.node("SequenceErase", two)), TensorProto.INT64)


def test_constants_in_sequences() -> None:
    b = Builder()
    x = b.input("x", [3, 5])
    made = b.node("SequenceConstruct", b.constant("a", X), b.constant("c", 2 * X))
    agrees(b, b.node("Add", x, b.node("SequenceAt", made, b.constant("i", np.array(1)))))


def test_optional_values() -> None:
    b = Builder(opset=18)
    x = b.input("x", [3, 5])
    known = b.node("OptionalHasElement", x)
    y = b.node("Where", known, b.node("OptionalGetElement", x), b.node("Neg", x))
    graph = import_onnx(b.model(y))
    np.testing.assert_array_equal(evaluate(graph, {"x": X})[y], X)


def test_a_sequence_is_no_tensor() -> None:
    b = Builder()
    x = b.input("x", [3, 5])
    made = b.node("SequenceConstruct", x, name="s")
    refused(UnsupportedError, b.model(b.node("Add", made, x)), "Add of")
    sequence = helper.make_value_info(
        made, helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None))
    )
    graph = helper.make_graph(b.nodes[:1], "g", b.inputs, [sequence])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    refused(UnsupportedError, model, "sequences that the model returns ×1 (s)")


def test_what_is_not_known_or_not_there() -> None:
    b = Builder()
    made = b.node("SequenceConstruct", b.input("x", [3, 5]), name="s")
    i = b.input("i", [], TensorProto.INT64)
    refused(UnsupportedError, b.model(b.node("SequenceAt", made, i)), "computed index")
    outside = b.node("SequenceAt", made, b.constant("far", np.array(1)))
    refused(ModelError, b.model(outside), "expected an index in [-1, 1), found [1]")
    refused(ModelError, b.model(b.node("SequenceLength", "x")), "expected a sequence")
