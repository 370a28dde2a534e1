"""Branches, loops and scans: against ONNX Runtime, and what is refused of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import Builder, assert_agrees, refused

from qcompiler.errors import ModelError, UnsupportedError
from qcompiler.frontends.onnx import import_onnx
from qcompiler.graph import toposort
from qcompiler.ops import MatMul, Select

RNG = np.random.default_rng(2)
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def values(*names: str, dtype: int = FLOAT) -> list[onnx.ValueInfoProto]:
    shape = None if dtype == FLOAT else []
    return [helper.make_value_info(n, helper.make_tensor_type_proto(dtype, shape)) for n in names]


def body(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    **constants: Any,
) -> onnx.GraphProto:
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    return helper.make_graph(nodes, "body", inputs, outputs, weights)


def loop_body(*nodes: onnx.NodeProto, **constants: Any) -> onnx.GraphProto:
    """Of the state h and one scan output y; goes on as long as nothing else says."""
    if not any("on" in node.output for node in nodes):
        nodes = (*nodes, helper.make_node("Identity", ["go"], ["on"]))
    inputs = values("i", dtype=INT64) + values("go", dtype=BOOL) + values("h")
    return body(list(nodes), inputs, values("on", dtype=BOOL) + values("new", "y"), **constants)


def step() -> list[onnx.NodeProto]:
    """new = tanh(h · w + i), y = 2·new, with w from the outer graph."""
    return [
        helper.make_node("MatMul", ["h", "w"], ["product"], name="product"),
        helper.make_node("Cast", ["i"], ["float"], to=FLOAT),
        helper.make_node("Add", ["product", "float"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["new"]),
        helper.make_node("Add", ["new", "new"], ["y"]),
    ]


def looped(graph: onnx.GraphProto, count: Any = 3, condition: str = "") -> onnx.ModelProto:
    b = Builder()
    b.input("x", [2, 3])
    b.constant("w", RNG.standard_normal((3, 3), np.float32))
    limit = "" if count is None else b.constant("count", np.asarray(count))
    b.node("Loop", limit, condition, "x", outputs=("last", "all"), name="loop", body=graph)
    return b.model("last", "all")


def test_a_loop_is_unrolled() -> None:
    model = looped(loop_body(*step()))
    assert_agrees(model, {"x": RNG.standard_normal((2, 3), np.float32)})
    products = [x for x in import_onnx(model).ops if isinstance(x, MatMul)]
    assert [x.sources for x in products] == [("product",)] * 3
    assert len({x.b for x in products}) == 1  # one constant, not one for each step


def test_a_loop_ends_by_its_condition() -> None:
    less = helper.make_node("Less", ["i", "last"], ["on"])
    model = looped(loop_body(less, *step(), last=np.array(4)), count=None)
    assert_agrees(model, {"x": RNG.standard_normal((2, 3), np.float32)})
    assert import_onnx(model).outputs["all"].type.shape == (5, 2, 3)


def test_a_state_that_grows() -> None:
    grow = [
        helper.make_node("Concat", ["h", "x"], ["new"], axis=0),
        helper.make_node("Cast", ["i"], ["y"], to=FLOAT),
    ]
    assert_agrees(looped(loop_body(*grow)), {"x": RNG.standard_normal((2, 3), np.float32)})


def test_loops_in_loops() -> None:
    inner_inputs = values("j", dtype=INT64) + values("more", dtype=BOOL) + values("k")
    inner = body(
        [
            helper.make_node("Add", ["k", "h"], ["k2"]),  # h is the outer loop's
            helper.make_node("Identity", ["more"], ["more2"]),
        ],
        inner_inputs,
        values("more2", dtype=BOOL) + values("k2"),
    )
    nodes = [
        helper.make_node("Loop", ["two", "", "h"], ["sum"], body=inner),
        helper.make_node("Tanh", ["sum"], ["new"]),
        helper.make_node("Identity", ["new"], ["y"]),
    ]
    model = looped(loop_body(*nodes, two=np.array(2)))
    assert_agrees(model, {"x": RNG.standard_normal((2, 3), np.float32)})


def test_loops_that_are_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    decided = [
        helper.make_node("ReduceSum", ["h"], ["total"], keepdims=0),
        helper.make_node("Less", ["total", "one"], ["on"]),
    ]
    graph = loop_body(*decided, *step(), one=np.float32(1))
    refused(UnsupportedError, looped(graph), "Loop with a computed exit condition ×1 (loop)")
    refused(UnsupportedError, looped(loop_body(*step()), 0), "Loop with no steps ×1 (loop)")
    words = "10000000 steps of 6 nodes: at most 32768"
    refused(UnsupportedError, looped(loop_body(*step()), 10**7), words, "(loop)")
    monkeypatch.setattr("qcompiler.frontends.onnx_walk.UNROLLED", 100)
    endless = looped(loop_body(*step()), None)
    refused(UnsupportedError, endless, "node 'loop' (Loop)", "more than 100 values")
    model = looped(loop_body(*step()))
    model.graph.input.append(helper.make_tensor_value_info("count", INT64, []))
    del model.graph.initializer[1]
    refused(UnsupportedError, model, "Loop with computed trip count ×1 (loop)")


def test_what_a_loop_holds_is_refused_once() -> None:
    nodes = [*step()[:-1], helper.make_node("Det", ["new"], ["y"], name="det")]
    refused(UnsupportedError, looped(loop_body(*nodes), 9), "Det ×1 (det)")


def test_a_damaged_loop() -> None:
    graph = loop_body(*step())
    del graph.input[2]
    refused(ModelError, looped(graph), "node 'loop' (Loop)", "expected a body of 3 inputs")
    nodes = [*step()[:-1], helper.make_node("Add", ["new", "all"], ["y"])]
    refused(ModelError, looped(loop_body(*nodes)), "part of a cycle")


def scan_body() -> onnx.GraphProto:
    """new = h + a·b, y = new, z = a."""
    nodes = [
        helper.make_node("Mul", ["a", "b"], ["product"]),
        helper.make_node("Add", ["h", "product"], ["new"]),
        helper.make_node("Identity", ["new"], ["y"]),
        helper.make_node("Neg", ["a"], ["z"]),
    ]
    return body(nodes, values("h", "a", "b"), values("new", "y", "z"))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_a_scan(axis: int, reverse: int) -> None:
    b = Builder()
    b.input("h0", [2])
    b.input("p", [4, 2])
    b.input("q", [2, 4] if axis else [4, 2])
    attributes = {
        "scan_input_axes": [0, axis],
        "scan_input_directions": [reverse, 0],
        "scan_output_axes": [axis, 0],
        "scan_output_directions": [0, reverse],
    }
    outputs = ("last", "ys", "zs")
    b.node(
        "Scan", "h0", "p", "q", outputs=outputs, body=scan_body(), num_scan_inputs=2, **attributes
    )
    feeds = {
        str(x.name): RNG.standard_normal(s, np.float32)
        for x, s in zip(b.inputs, ([2], [4, 2], [2, 4] if axis else [4, 2]), strict=True)
    }
    assert_agrees(b.model(*outputs), feeds)


@pytest.mark.parametrize("reverse", [0, 1])
def test_a_scan_of_batches(reverse: int) -> None:
    b = Builder(opset=8)
    shapes = {"h0": [3, 2], "p": [3, 4, 2], "q": [3, 4, 2]}
    for name, shape in shapes.items():
        b.input(name, shape)
    outputs = ("last", "ys", "zs")
    attributes = {"num_scan_inputs": 2, "directions": [0, reverse], "body": scan_body()}
    b.node("Scan", "", "h0", "p", "q", outputs=outputs, **attributes)
    feeds = {name: RNG.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    assert_agrees(b.model(*outputs), feeds)


def test_a_damaged_scan() -> None:
    b = Builder()
    for name, size in (("h0", 2), ("p", 4), ("q", 5)):
        b.input(name, [size, 2] if size > 2 else [2])
    for sequences, words in (
        ("pq", "sequences of one length, found [4, 5]"),
        ("p", "a body of 2 inputs"),
    ):
        model = Builder(inputs=b.inputs)
        attributes = {"num_scan_inputs": len(sequences), "body": scan_body()}
        model.node("Scan", "h0", *sequences, outputs=("l", "y", "z"), name="scan", **attributes)
        refused(ModelError, model.model("l", "y", "z"), "node 'scan' (Scan)", words)


def chosen(then: onnx.NodeProto, other: onnx.NodeProto, dtype: int = FLOAT) -> onnx.ModelProto:
    b = Builder()
    b.input("x", [2, 3])
    b.input("c", [1], BOOL)
    branches = {
        f"{name}_branch": body([node], [], values(name, dtype=dtype))
        for name, node in (("then", then), ("else", other))
    }
    b.node("If", "c", outputs=("y",), name="choice", **branches)
    return b.model("y", dtype=dtype)


@pytest.mark.parametrize("condition", [True, False])
def test_a_computed_branch_is_a_selection(condition: bool) -> None:
    feeds = {"x": RNG.standard_normal((2, 3), np.float32), "c": np.array([condition])}
    then, other = (
        helper.make_node("Exp", ["x"], ["then"]),
        helper.make_node("Abs", ["x"], ["else"]),
    )
    model = chosen(then, other)
    assert_agrees(model, feeds)
    assert any(isinstance(x, Select) for x in toposort(import_onnx(model).outputs.values()))
    to_bool = [helper.make_node("Cast", ["x"], [y], to=BOOL) for y in ("then", "else")]
    assert_agrees(chosen(*to_bool, dtype=BOOL), feeds)


def test_computed_branches_that_are_not_supported() -> None:
    relu = helper.make_node("Relu", ["x"], ["then"])
    total = helper.make_node("ReduceSum", ["x"], ["else"])
    words = "branches that return float32[2x3] and float32[1x1] ×1 (choice)"
    refused(UnsupportedError, chosen(relu, total), "If with a computed condition", words)
    both = [helper.make_node("Det", ["x"], [y], name=f"d-{y}") for y in ("then", "else")]
    refused(UnsupportedError, chosen(*both), "Det ×2 (d-then, d-else)")
