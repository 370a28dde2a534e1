"""Blocks of networks, and drawings of them."""

import numpy as np

from qcompiler.graph import Constant, Graph, Input, Op, origin
from qcompiler.graph.blocks import blocks
from qcompiler.graph.dot import to_dot
from qcompiler.ops import Abs, Add, Cast, MatMul, Mul, Quantize, Relu
from qcompiler.types import FLOAT, Quantization, TensorType

X = Input(TensorType(FLOAT, (1, 2)), name="x")
MASK = Input(TensorType("bool", (1, 2)), name="mask")
WEIGHT = Constant(np.ones((2, 2), np.float32))


def residual(x: Op, name: str) -> Op:
    """x + relu(x @ W)·mask."""
    with origin((f"{name}/branch",)):
        branch = Mul(Relu(MatMul(x, WEIGHT)), Cast(MASK, FLOAT))
    return Add(x, branch, sources=(f"{name}/sum",))


def test_blocks_end_in_what_all_goes_through() -> None:
    y = residual(residual(Relu(X), "a"), "b")
    graph = Graph((X, MASK), {"y": Abs(Abs(y))})
    assert [[node.kind() for node in block] for block in blocks(graph)] == 2 * [
        ["mat_mul", "relu", "mul", "add"]
    ]
    assert [{s[0] for node in block for s in node.sources} for block in blocks(graph)] == [
        {"a"},
        {"b"},
    ]


def test_a_value_that_two_blocks_read_makes_them_one() -> None:
    first = residual(X, "a")
    y = residual(first, "b")
    assert len(blocks(Graph((X, MASK), {"y": y}))) == 2
    (block,) = blocks(Graph((X, MASK), {"y": Add(X, y)}))
    assert {first, y} <= set(block)
    assert blocks(Graph((MASK,), {"y": Cast(MASK, FLOAT)})) == ()
    assert blocks(Graph((), {"y": WEIGHT})) == ()


def test_drawing() -> None:
    half = Constant(np.array(0.5, np.float32))
    codes = Quantize(Mul(Abs(X), half), Quantization.per_tensor("uint8", 0.5), name='a"b\\')
    graph = Graph((X,), {"codes": codes, "sum": Add(X, Relu(X), sources=("s",)), "half": half})
    assert to_dot(graph).splitlines() == [
        'digraph "graph" {',
        '  node [shape=box, style=filled, fontname="sans-serif"];',
        '  n0 [label="x\\ninput\\nfloat32[1x2]", fillcolor="#f4cfa8"];',
        '  n1 [label="abs\\nabs\\nfloat32[1x2]", fillcolor="#f4cfa8"];',
        '  n3 [label="mul\\nmul\\nfloat32[1x2]", fillcolor="#f4cfa8"];',
        '  n4 [label="a\\"b\\\\\\nquantize\\nuint8[1x2]@0.5", fillcolor="#cfe3c2"];',
        "  subgraph cluster_0 {",
        '    label="s";',
        '    n5 [label="relu\\nrelu\\nfloat32[1x2]", fillcolor="#f4cfa8"];',
        '    n6 [label="add\\nadd\\nfloat32[1x2]", fillcolor="#f4cfa8"];',
        "  }",
        "  n0 -> n1;",
        "  n1 -> n3;",
        "  n3 -> n4;",
        "  n0 -> n5;",
        "  n0 -> n6;",
        "  n5 -> n6;",
        '  y0 [label="codes", shape=ellipse];',
        "  n4 -> y0;",
        '  y1 [label="sum", shape=ellipse];',
        "  n6 -> y1;",
        '  y2 [label="half", shape=ellipse];',
        "}",
    ]
