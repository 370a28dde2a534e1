"""Models that contradict themselves are refused in one line that names the offender."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx_models import Builder, linear, refused

from qcompiler.errors import (
    ModelError,
    QcompilerError,
    ShapeError,
    UnsupportedError,
)


def test_a_graph_without_outputs() -> None:
    refused(ModelError, linear().model(), "no outputs")


def test_an_output_that_no_node_computes() -> None:
    refused(ModelError, linear().model("missing"), "'missing'", "computed by no node")


def test_an_operand_that_no_node_computes() -> None:
    b = Builder()
    b.node("Relu", "nothing", outputs=("y",), name="first")
    refused(ModelError, b.model("y"), "'nothing'", "'first'", "computed by no node")


def test_a_cycle() -> None:
    b = Builder()
    b.input("x", [2])
    b.node("Add", "x", "v", outputs=("u",), name="one")
    b.node("Relu", "u", outputs=("v",), name="two")
    refused(ModelError, b.model("v"), "cycle", "(Relu)")


def test_a_value_computed_twice() -> None:
    b = linear()
    b.node("Relu", "x", outputs=("y",), name="again")
    refused(ModelError, b.model("y"), "'y'", "'again'")
    x = ir.val("x", ir.DataType.FLOAT, [2])
    nodes = [ir.node("Relu", [x], name=name) for name in ("one", "two")]
    for node in nodes:
        node.outputs[0].name = "y"
    both = ir.node("Add", [node.outputs[0] for node in nodes])
    graph = ir.Graph([x], both.outputs, nodes=[*nodes, both], opset_imports={"": 20})
    refused(ModelError, ir.Model(graph, ir_version=10), "'y'", "'one'", "'two'")


def test_names_given_twice() -> None:
    b = linear()
    b.constant("w", np.ones(2, np.float32))
    refused(ModelError, b.model("y"), "initializer 'w' is given twice")
    b = linear()
    b.input("x", [1])
    refused(ModelError, b.model("y"), "two inputs", "x")
    refused(ModelError, linear().model("y", "y"), "returns a value twice")


@pytest.mark.parametrize("dims", [[3, 5], [3], [-3, -4], [2**40, 4]])
def test_a_tensor_of_another_size_than_declared(dims: list[int]) -> None:
    model = linear().model("y")
    model.graph.initializer[0].dims[:] = dims
    refused(ModelError, model, "'w'")


def test_a_tensor_without_data() -> None:
    model = linear().model("y")
    model.graph.initializer[0].ClearField("raw_data")
    refused(ModelError, model, "'w'", "holds no data")
    b = Builder()
    b.input("x", [2])
    empty = TensorProto(name="held", data_type=TensorProto.FLOAT, dims=[2])
    b.node("Add", "x", b.node("Constant", value=empty), outputs=("y",))
    refused(ModelError, b.model("y"), "'held'", "holds no data")


@pytest.mark.parametrize(
    ("error", "value", "words"),
    [
        (ModelError, np.nan, "1 NaN"),
        (ModelError, 1e300, "1 infinite"),
        (UnsupportedError, -np.inf, "1 infinite"),
    ],
)
def test_weights_that_are_not_finite(error: type[QcompilerError], value: float, words: str) -> None:
    b = Builder()
    b.input("x", [2, 3], TensorProto.DOUBLE)
    weights = np.ones((3, 4))
    weights[1, 2] = value
    b.node("MatMul", "x", b.constant("layer.weight", weights), outputs=("y",))
    refused(error, b.model("y"), "'layer.weight'", words)


def test_computed_constants_that_are_not_finite() -> None:
    b = Builder()
    b.input("x", [2])
    log = b.node("Log", b.constant("zero", np.float32(0)), outputs=("log",))
    refused(UnsupportedError, b.model(b.node("Add", "x", log)), "'log'", "infinite")


@pytest.mark.parametrize("user", ["Mul", "Relu"])
def test_infinities_that_are_no_masks(user: str) -> None:
    """A user other than a sum in front of a softmax, though another one is."""
    b = Builder()
    b.input("x", [2, 3])
    mask = b.constant("mask", np.array([0, -np.inf, 0], np.float32))
    masked = b.node("Softmax", b.node("Add", "x", mask))
    other = b.node(user, *(("x", mask) if user == "Mul" else (b.node("Add", "x", mask),)))
    refused(UnsupportedError, b.model(masked, other), "'mask'", "1 infinite")


@pytest.mark.parametrize(
    ("op_type", "attributes", "words"),
    [
        ("Relu", {"slope": 1.0}, "unknown attribute 'slope'"),
        ("Elu", {"alpha": 1}, "attribute 'alpha': expected FLOAT, found INT"),
        ("Cast", {}, "attribute 'to' is missing"),
        ("Transpose", {"perm": [0, 0]}, "permutation"),
        ("Flatten", {"axis": 5}, "expected an axis"),
        ("Add", {}, "expected 2 to 2 inputs, found 1"),
        ("MaxPool", {"kernel_shape": [2]}, "spatial axes"),
        ("DepthToSpace", {"blocksize": 2}, "expected [n, c, h, w]"),
        ("Gelu", {"approximate": "sigmoid"}, "expected none or tanh"),
    ],
)
def test_nodes_that_break_their_definition(
    op_type: str, attributes: dict[str, Any], words: str
) -> None:
    b = Builder()
    b.input("x", [2, 3])
    b.node(op_type, "x", outputs=("y",), name="culprit", **attributes)
    kind = ShapeError if op_type == "Transpose" else ModelError
    refused(kind, b.model("y"), "'culprit'", op_type, words)


@pytest.mark.parametrize(
    ("op_type", "shapes", "attributes", "words"),
    [
        ("LayerNormalization", [[2, 3], [4, 2, 3]], {}, "broadcast"),
        ("InstanceNormalization", [[2, 3], [3], [3]], {}, "expected [n, c, ...]"),
        ("InstanceNormalization", [[2, 3, 4], [4], [4]], {}, "expected 3 scales"),
        ("GroupNormalization", [[2, 3, 4], [3], [3]], {"num_groups": 2}, "a divisor of 3"),
        ("Einsum", [[2, 3], [3]], {"equation": "i,i->i"}, "expected 2 axes, found 'i'"),
        ("Attention", [[1, 2, 6]] * 3, {"q_num_heads": 4, "kv_num_heads": 4}, "expected 4 heads"),
        ("Attention", [[1, 3, 2, 4]] + [[1, 2, 2, 4]] * 2, {}, "heads that divide 3"),
        ("Attention", [[1, 1, 2, 4]] * 3 + [[3, 1, 2, 2]], {}, "broadcast"),
    ],
)
def test_transformers_that_break_their_definition(
    op_type: str, shapes: list[list[int]], attributes: dict[str, Any], words: str
) -> None:
    b = Builder(opset=23)
    names = [b.input(f"x{i}", shape) for i, shape in enumerate(shapes)]
    b.node(op_type, *names, outputs=("y",), name="culprit", **attributes)
    refused(ModelError, b.model("y"), "'culprit'", op_type, words)


def test_functions_that_call_themselves() -> None:
    b = Builder()
    body = [helper.make_node("Loop2", ["a"], ["b"], domain="custom")]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("custom", 1)]
    b.functions.append(helper.make_function("custom", "Loop2", ["a"], ["b"], body, imports))
    b.input("x", [2])
    refused(ModelError, b.model(b.node("Loop2", "x", domain="custom")), "functions")


@pytest.mark.parametrize(
    ("nodes", "error", "words"),
    [
        ([("Relu", "")], ModelError, "declares no opset of the standard operators"),
        ([("Binarizer", "ai.onnx.ml")], UnsupportedError, "ai.onnx.ml.Binarizer"),
    ],
)
def test_models_without_standard_operators(
    nodes: list[tuple[str, str]], error: type[QcompilerError], words: str
) -> None:
    made = [helper.make_node(op_type, ["x"], ["y"], domain=domain) for op_type, domain in nodes]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    graph = helper.make_graph(made, "g", [x], [y])
    refused(
        error, helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3)]), words
    )


def test_names_without_end_are_cut() -> None:
    b = Builder()
    b.node("Frob", b.input("x", [2]), outputs=("y",), name="n" * 100_000)
    refused(UnsupportedError, b.model("y"), "Frob", "nnn…")


def test_required_operands_that_are_left_out() -> None:
    for operands in (("x", ""), ("", "x")):
        b = Builder()
        b.input("x", [2])
        b.node("Add", *operands, outputs=("y",), name="culprit")
        refused(ModelError, b.model("y"), "'culprit'", f"input {'AB'[operands.index('')]!r}")


@pytest.mark.parametrize("border", [[-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 5, 0], [0, 0, 0, -1]])
def test_borders_that_are_not_within_an_image(border: list[int]) -> None:
    b = Builder(opset=9)
    b.node("Crop", b.input("x", [1, 2, 4, 5]), outputs=("y",), name="culprit", border=border)
    refused(ModelError, b.model("y"), "'culprit'", "border: expected a part of", str(border))
