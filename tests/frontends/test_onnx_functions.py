"""Functions of models, and operators that the standard defines by functions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from onnx_models import Builder, assert_agrees, refused

from qcompiler.errors import ModelError, UnsupportedError
from qcompiler.frontends.onnx import import_onnx
from qcompiler.graph import Constant, toposort
from qcompiler.interpret import evaluate
from qcompiler.ops import MatMul

RNG = np.random.default_rng(3)
OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("custom", 1)]


def feeds() -> dict[str, np.ndarray]:
    return {"x": RNG.standard_normal((2, 3), np.float32)}


def test_nodes_inside_carry_the_names_of_the_calls() -> None:
    b = Builder()
    gate = [
        helper.make_node("Sigmoid", ["a"], ["s"], name="gate"),
        helper.make_node("Mul", ["a", "s"], ["b"]),
    ]
    b.functions.append(helper.make_function("custom", "Silu", ["a"], ["b"], gate, OPSETS))
    twice = [
        helper.make_node("Silu", ["a"], ["h"], domain="custom", name="inner"),
        helper.make_node("Silu", ["h"], ["b"], domain="custom"),
    ]
    b.functions.append(helper.make_function("custom", "Twice", ["a"], ["b"], twice, OPSETS))
    b.input("x", [2, 3])
    model = b.model(b.node("Twice", "x", domain="custom", name="outer", outputs=("y",)))
    assert_agrees(model, feeds())
    graph = import_onnx(model)
    assert [x.sources for x in graph.ops if x.operands] == [
        ("outer/inner/gate",),
        ("outer/inner/Mul:b",),
        ("outer/Silu:b/gate",),
        ("outer/Silu:b/Mul:b",),
    ]
    in_memory = ir.from_proto(model)
    assert str(import_onnx(in_memory)) == str(graph)
    assert in_memory.functions  # it is left alone


def scaled() -> onnx.FunctionProto:
    """y = min(x·alpha, upper), with a default for alpha, and no bound where the call has none."""
    nodes = [
        helper.make_node("Constant", [], ["factor"]),
        helper.make_node("Mul", ["x", "factor"], ["product"]),
        helper.make_node("Clip", ["product", "", "upper"], ["y"]),
    ]
    nodes[0].attribute.append(
        onnx.AttributeProto(name="value_float", ref_attr_name="alpha", type=1)
    )
    return helper.make_function(
        "custom",
        "Scaled",
        ["x", "upper"],
        ["y"],
        nodes,
        OPSETS,
        attribute_protos=[helper.make_attribute("alpha", 3.0)],
    )


def test_attributes_and_absent_operands() -> None:
    b = Builder(functions=[scaled()])
    b.input("x", [2, 3])
    bound = b.constant("bound", np.float32(0.5))
    hidden = b.node("Scaled", "x", domain="custom")
    hidden = b.node("Scaled", hidden, bound, domain="custom", alpha=-0.7)
    assert_agrees(b.model(b.node("Scaled", hidden, "", domain="custom")), feeds())


def test_weights_inside_are_shared_between_calls() -> None:
    w = RNG.standard_normal((3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(w)),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    function = helper.make_function("custom", "Layer", ["x"], ["y"], nodes, OPSETS)
    b = Builder(functions=[function])
    y = b.input("x", [2, 3])
    for _ in range(3):
        y = b.node("Layer", y, domain="custom")
    model = b.model(y)
    assert_agrees(model, feeds())
    ops = toposort(import_onnx(model).outputs.values())
    assert sum(isinstance(x, MatMul) for x in ops) == 3
    assert sum(isinstance(x, Constant) for x in ops) == 1


def test_a_function_of_another_opset() -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["y"])]  # of all axes behind the first
    old = [helper.make_opsetid("", 11)]
    function = helper.make_function("custom", "Old", ["x"], ["y"], nodes, old)
    b = Builder(functions=[function])
    b.input("x", [2, 3, 4])
    x = RNG.standard_normal((2, 3, 4), np.float32)
    graph = import_onnx(b.model(b.node("Old", "x", domain="custom", outputs=("y",))))
    e = np.exp(x - x.max((1, 2), keepdims=True))
    found = evaluate(graph, {"x": x})["y"]
    np.testing.assert_allclose(found, e / e.sum((1, 2), keepdims=True), rtol=1e-5)


def nested(depth: int, calls: int) -> onnx.ModelProto:
    """Functions that each call the next one several times."""
    b = Builder()
    for i in range(depth):
        following = {"op_type": f"F{i + 1}", "domain": "custom"} if i + 1 < depth else None
        names = ["a", *(f"h{k}" for k in range(calls - 1)), "b"]
        nodes = [
            helper.make_node(inputs=[p], outputs=[q], **(following or {"op_type": "Relu"}))
            for p, q in pairwise(names)
        ]
        b.functions.append(helper.make_function("custom", f"F{i}", ["a"], ["b"], nodes, OPSETS))
    b.input("x", [2, 3])
    return b.model(b.node("F0", "x", domain="custom", name="call"))


def test_what_functions_expand_to_is_bounded() -> None:
    assert len(import_onnx(nested(6, 2)).ops) == 65
    refused(UnsupportedError, nested(20, 2), "expand to 2097151 nodes: expected at most 131072")
    refused(UnsupportedError, nested(200, 2), "expand to more than 10^60 nodes")
    refused(UnsupportedError, nested(100, 1), "node 'call' (F0)", "more than 64 deep")


def test_damaged_calls() -> None:
    b = Builder(functions=[scaled()])
    b.input("x", [2, 3])
    model = b.model(b.node("Scaled", "x", "x", "x", domain="custom", name="call"))
    refused(ModelError, model, "node 'call' (Scaled)", "expected at most 2 inputs", "found 3")
    model = nested(3, 1)
    model.functions[-1].node[0].op_type, model.functions[-1].node[0].domain = "F1", "custom"
    refused(ModelError, model, "its functions call themselves: ", "F1")


@pytest.mark.parametrize("opset", [9, 18, 20])
def test_operators_defined_by_functions(opset: int) -> None:
    b = Builder(opset=opset)
    b.input("x", [2, 3])
    b.node("Shrink", "x", outputs=("y",), lambd=0.4, bias=0.1, name="shrink")
    assert_agrees(b.model("y"), feeds())
    graph = import_onnx(b.model("y"))
    assert {x.sources for x in graph.ops if x.operands} == {("shrink",)}


def test_a_definition_that_is_not_supported() -> None:
    b = Builder(opset=20)
    b.input("x", [1, 2, 3])
    for i in range(2):
        b.node("Bernoulli", "x", outputs=(f"y{i}",), name=f"coin{i}")
    words = "Bernoulli, which is defined by RandomUniformLike ×2 (coin1, coin0)"
    refused(UnsupportedError, b.model("y0", "y1"), words)
