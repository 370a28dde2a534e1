"""Exported ONNX models: same bits in ONNX Runtime, standard operators, the user's names."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from example import constant
from runtime import assert_agrees, run
from tiny import Example, tiny_graphs

import qcompiler
from qcompiler.backends.onnx import export_onnx, to_model, writer
from qcompiler.errors import OutputError, UnsupportedError
from qcompiler.frontends.onnx import import_onnx
from qcompiler.graph import Constant, Graph, Input, Op, op
from qcompiler.interpret import evaluate
from qcompiler.ops import (
    Add,
    Composite,
    Concat,
    ConvInteger,
    Dequantize,
    Expand,
    Fused,
    LeakyRelu,
    MatMul,
    MatMulInteger,
    MaxPool,
    Mul,
    Quantize,
    Relu,
    Requantize,
    Reshape,
    Table,
    Transpose,
    Window,
    scalar,
)
from qcompiler.types import FLOAT, Quantization, TensorType

GRAPHS = tiny_graphs()
Q8 = Quantization.per_tensor("uint8", 0.05, 100)


def x(*shape: int, dtype: str = FLOAT, name: str = "x") -> Input:
    return Input(TensorType(dtype, shape), name=name)


def requantized(value: Op, q: Quantization, factor: int = 12345) -> Requantize:
    m, offset = Constant(np.array(factor, np.int32)), Constant(np.array(1 << 23, np.int64))
    return Requantize((value,), (m,), offset, 24, q)


def integer_graph() -> tuple[Graph, dict[str, np.ndarray]]:
    """Convolutions, a residual sum, a table, pooling and a product, all on codes."""
    q8, q16 = Quantization.per_tensor("uint8", 0.1, 3), Quantization.per_tensor("int16", 0.01)
    codes = Input(TensorType("uint8", (1, 3, 8, 8), Q8), name="x")
    window = Window((3, 3), pads=(1, 1, 1, 1))
    y = requantized(ConvInteger(codes, constant("int8", 4, 3, 3, 3), None, window), q8)
    z = requantized(ConvInteger(y, constant("int8", 4, 1, 3, 3), None, window, 4), q16, 999)
    half = Constant(np.array(1 << 19, np.int32))
    total = Requantize((y, z), (half, half), scalar(1 << 19, "int64"), 20, q16)
    pooled = MaxPool(total, Window((2, 2), (2, 2)))
    table = Table(requantized(pooled, q8, 1 << 22), constant("uint8", 256), q8)
    product = MatMulInteger(table, constant("int8", 4, 5))
    graph = Graph((codes,), {"y": requantized(product, q8), "residual": total})
    return graph, {"x": np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), np.uint8)}


@pytest.mark.parametrize("inline", [False, True], ids=["functions", "inline"])
@pytest.mark.parametrize("example", GRAPHS, ids=lambda e: e.name)
def test_real_graphs_agree(example: Example, inline: bool) -> None:
    feeds = example.feeds(np.random.default_rng(0))
    assert_agrees(example.graph, to_model(example.graph, inline=inline), feeds)


@pytest.mark.parametrize("inline", [False, True], ids=["functions", "inline"])
def test_integer_graphs_agree_to_the_bit(inline: bool) -> None:
    graph, feeds = integer_graph()
    assert_agrees(graph, to_model(graph, inline=inline), feeds)


def test_products_of_extreme_codes_do_not_saturate() -> None:
    """255·(−128) and 255·127 in pairs: what pmaddubsw would clip."""
    for weight, code in ((-128, 255), (127, 255)):
        w = Constant(np.full((6, 32, 3, 3), weight, np.int8))
        image = Input(TensorType("uint8", (1, 32, 5, 5)), name="x")
        conv = Graph((image,), {"y": ConvInteger(image, w, None, Window((3, 3)))})
        assert_agrees(conv, to_model(conv), {"x": np.full((1, 32, 5, 5), code, np.uint8)})
        row = Input(TensorType("uint8", (4, 512)), name="x")
        w = Constant(np.full((512, 32), weight, np.int8))
        product = Graph((row,), {"y": MatMulInteger(row, w)})
        assert_agrees(product, to_model(product), {"x": np.full((4, 512), code, np.uint8)})


def test_both_operands_of_products_are_unsigned() -> None:
    """u8·s8 saturates in ONNX Runtime on CPUs without VNNI; a CPU with it would not show that."""
    graph, _ = integer_graph()
    model = onnx.shape_inference.infer_shapes(ir.to_proto(to_model(graph, inline=True)))
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    types |= {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    products = [n for n in model.graph.node if n.op_type in ("ConvInteger", "MatMulInteger")]
    assert len(products) == 3
    for node in products:
        assert {types[name] for name in node.input[:2]} == {onnx.TensorProto.UINT8}


def test_an_integer_graph_has_integer_operators_only() -> None:
    graph, _ = integer_graph()
    model = onnx.shape_inference.infer_shapes(ir.to_proto(to_model(graph, inline=True)))
    typed = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    kinds = {onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type) for v in typed}
    assert not kinds & {"FLOAT", "DOUBLE", "FLOAT16"}
    assert {node.domain for node in model.graph.node} == {""}
    assert {name for node in model.graph.node for name in node.output} <= {v.name for v in typed}


@pytest.mark.parametrize("inline", [False, True], ids=["functions", "inline"])
@pytest.mark.parametrize("example", GRAPHS, ids=lambda e: e.name)
def test_values_are_called_as_in_the_graph_and_can_be_watched(
    example: Example, inline: bool
) -> None:
    graph, names = example.graph, example.graph.names
    watched = [node for node in graph.ops if not isinstance(node, (Input, Constant))]
    model = to_model(graph, inline=inline)
    values = {v.name: v for node in model.graph for v in node.outputs}
    for node in watched:
        if (value := values[names[node]]) not in model.graph.outputs:
            model.graph.outputs.append(value)
    feeds = example.feeds(np.random.default_rng(1))
    found = run(model, feeds)
    everything = Graph(graph.inputs, {names[node]: node for node in watched})
    for name, expected in evaluate(everything, feeds).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)


def test_other_names_may_be_given() -> None:
    a = x(2)
    y = Relu(a)
    model = to_model(Graph((a,), {"y": y}), names={a: "x", y: "other"})
    assert [node.outputs[0].name for node in model.graph] == ["other", "y"]


def test_any_value_may_be_an_output_under_any_name() -> None:
    a, c = x(3), Constant(np.arange(3, dtype=FLOAT), name="c")
    y = Relu(Add(a, c), name="first")
    same = Fused((y,), Graph((inner := x(3, name="r"),), {"y": inner}))
    outputs = {"first": y, "again": y, "x": a, "copy": a, "c": c, "c2": c, "same": same}
    graph = Graph((a,), outputs)
    for inline in (False, True):
        assert_agrees(graph, to_model(graph, inline=inline), {"x": np.ones(3, np.float32)})


def test_constants_may_be_outputs_that_nothing_else_uses() -> None:
    large = Constant(np.ones((64, 64), np.float32), name="large")
    graph = Graph((a := x(3),), {"y": Relu(a), "large": large, "again": large})
    feeds = {"x": np.ones(3, np.float32)}
    assert_agrees(graph, to_model(graph), feeds)
    integer = qcompiler.quantize(graph, [feeds])  # looks at other values only
    assert_agrees(integer, to_model(integer), feeds)


def test_an_output_name_is_not_taken_by_another_value() -> None:
    a = x(3)
    graph = Graph((a,), {"y": Relu(Add(a, a, name="y"), name="z"), "add": Mul(a, a)})
    assert "y" not in graph.names.values()
    assert_agrees(graph, to_model(graph), {"x": np.ones(3, np.float32)})


def test_an_output_named_like_an_input_is_refused() -> None:
    a = x(3)
    with pytest.raises(UnsupportedError, match="output 'x': an input has the same name"):
        to_model(Graph((a,), {"x": Relu(a)}))


def test_equal_constants_are_stored_once() -> None:
    a = x(2)
    ones = [Constant(np.array([1, 1], dtype)) for dtype in (FLOAT, FLOAT, "int32", "int32")]
    both = Add(Add(a, ones[0]), ones[1])
    integers = Add(ones[2], ones[3])
    zeros = [Constant(np.zeros(2, dtype)) for dtype in (FLOAT, "int32")]  # of the same bytes
    outputs = {"y": Add(both, zeros[0]), "z": Add(integers, zeros[1])}
    assert len(to_model(Graph((a,), outputs)).graph.initializers) == 4


def test_composites_of_equal_form_share_a_function() -> None:
    q = Quantization.per_tensor("int8", 1.0)
    a, b = x(4, dtype="int32", name="a"), x(2, 3, dtype="int32", name="b")
    nodes = [requantized(a, q, 5), requantized(a, q, 6), requantized(b, q)]
    other = Requantize((a,), nodes[0].multipliers, nodes[0].offset, 24, q, low=0)
    named = {str(i): y for i, y in enumerate([*nodes, other])}
    model = to_model(Graph((a, b), named))
    called = [node.op_type for node in model.graph if node.domain == "qcompiler"]
    assert called == ["requantize", "requantize", "requantize", "requantize_1"]
    assert [f.name for f in model.functions.values()] == ["requantize", "requantize_1"]
    inline = to_model(Graph((a, b), named), inline=True)
    assert not inline.functions
    assert "qcompiler" not in inline.opset_imports


@op
class Leaky(Composite):
    """A composite whose body has a number in full precision."""

    x: Op
    alpha: float

    def body(self) -> Op:
        return LeakyRelu(self.x, self.alpha)


def test_functions_differ_where_numbers_differ_in_the_last_digit() -> None:
    a = x(2)
    graph = Graph((a,), {"y": Leaky(a, 123.4567), "z": Leaky(a, 123.4568)})
    feeds = {"x": np.array([-1e4, 1e4], np.float32)}
    assert len(to_model(graph).functions) == 2
    assert_agrees(graph, to_model(graph), feeds)


def test_metadata() -> None:
    a = x(1, 2)
    q = Quantization("uint8", (0.5, 0.25), (1, 2), 1)
    codes = Quantize(a, q, name="codes", sources=("/act/Relu", "/act/Mul"))
    model = to_model(Graph((a,), {"codes": codes, "y": Dequantize(codes)}, "net"))
    assert (model.producer_name, model.graph.name) == ("qcompiler", "net")
    assert (model.ir_version, model.opset_imports[""]) == (10, 21)
    node = next(iter(model.graph))
    assert json.loads(node.metadata_props["sources"]) == ["/act/Relu", "/act/Mul"]
    assert json.loads(node.outputs[0].metadata_props["quantization"]) == {
        "storage": "uint8", "scale": [0.5, 0.25], "zero_point": [1, 2], "axis": 1,
    }  # fmt: skip


def test_scalars_stay_scalars() -> None:
    a = x()
    one = Reshape(Transpose(a, ()), (1,))
    same = Expand(Add(a, a), ())
    graph = Graph((a,), {"y": Reshape(one, ()), "z": Concat((one, one), 0), "same": same})
    assert_agrees(graph, to_model(graph), {"x": np.array(3, np.float32)})


def test_20000_ops_take_seconds() -> None:
    q = Quantization.per_tensor("int8", 1.0)
    a = x(4, dtype="int8")
    node: Op = a
    for i in range(10_000):
        node = Add(node, a) if i % 10 else requantized(node, q, i)
    start = time.perf_counter()
    model = to_model(Graph((a,), {"y": node}))
    assert len(model.graph) > 10_000
    assert time.perf_counter() - start < 30


def test_files_are_written_wholly_or_not_at_all(tmp_path: Path) -> None:
    graph, feeds = integer_graph()
    path = tmp_path / "model.onnx"
    export_onnx(graph, path)
    assert_agrees(graph, ir.load(path), feeds)
    assert os.listdir(tmp_path) == ["model.onnx"]
    with pytest.raises(OutputError, match=r"missing/model\.onnx: cannot be written") as info:
        export_onnx(graph, tmp_path / "missing" / "model.onnx")
    assert "\n" not in str(info.value)


def test_what_protobuf_cannot_hold_lies_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = Input(TensorType("float32", (2, 40)), name="x")
    first, second = (
        np.random.default_rng(i).standard_normal((40, 40)).astype(np.float32) for i in range(2)
    )
    y = Add(MatMul(MatMul(x, Constant(first), None), Constant(second), None), scalar(1.5, FLOAT))
    graph, path = Graph((x,), {"y": y}), tmp_path / "model.onnx"
    monkeypatch.setattr(writer, "LARGEST", 12000)
    export_onnx(graph, path)
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "model.onnx.data"]
    assert path.stat().st_size < 6400 < (tmp_path / "model.onnx.data").stat().st_size == 12800
    feed = {"x": np.ones((2, 40), np.float32)}
    (found,) = onnxruntime.InferenceSession(path).run(None, feed)
    np.testing.assert_allclose(found, evaluate(graph, feed)["y"], rtol=1e-5, atol=1e-4)
    again = import_onnx(path)
    np.testing.assert_array_equal(evaluate(again, feed)["y"], evaluate(graph, feed)["y"])
