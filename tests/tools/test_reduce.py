"""Failing graphs become small, and fail still."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from reduce import reduce

import qcompiler
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.graph.archive import read_note
from qcompiler.ops import Add, Concat, Mul, Relu, Sigmoid, Softmax, Sub, Tanh
from qcompiler.types import FLOAT, TensorType

DIGITS = Path(__file__).parents[2] / "models" / "digits"
TOOL = Path(__file__).parents[2] / "tools" / "reduce.py"


def deep(length: int = 40) -> Graph:
    """A softmax of a product in the middle of other ops, on the way to two outputs."""
    x, y = (Input(TensorType(FLOAT, (2, 3)), name=name) for name in "xy")
    node: Op = x
    for i in range(length):
        if i == length // 2:
            node = Softmax(Mul(node, Constant(np.ones((2, 3), FLOAT))), 1)
        node = (Relu, Sigmoid, Tanh)[i % 3](node)
        node = Add(node, y) if i % 5 == 4 else node
    return Graph((x, y), {"first": Concat((node, x), 0), "second": Sub(node, y)}, "deep")


def softmax_of_a_product(graph: Graph) -> bool:
    return any(isinstance(x, Softmax) and isinstance(x.x, Mul) for x in graph.ops)


def test_only_what_fails_is_left() -> None:
    seen: list[Graph] = []
    small = reduce(deep(), softmax_of_a_product, report=seen.append)
    (y,) = small.outputs.values()
    assert [x.kind() for x in small.ops] == ["input", "input", "mul", "softmax"]
    assert isinstance(y, Softmax)
    assert seen[-1] is small
    assert all(map(softmax_of_a_product, seen))


def test_ops_give_way_to_operands_where_inputs_will_not_do() -> None:
    def fails(graph: Graph) -> bool:
        return {x.name for x in graph.inputs} <= {"x", "y"} and softmax_of_a_product(graph)

    small = reduce(deep(), fails)
    assert [x.kind() for x in small.ops] == ["input", "constant", "mul", "softmax"]


def test_types_stay_and_the_graph_is_valid() -> None:
    small = reduce(deep(), lambda graph: any(isinstance(x, Concat) for x in graph.ops))
    feeds = {str(x.name): np.zeros(x.type.shape, FLOAT) for x in small.inputs}
    ((name, found),) = qcompiler.evaluate(small, feeds).items()
    assert (name, found.shape) == ("first", (4, 3))


def test_outputs_that_matter_stay() -> None:
    small = reduce(deep(), lambda graph: len(graph.outputs) == 2)
    assert len(small.outputs) == 2
    assert all(isinstance(x, (Input, Constant)) for x in small.ops)


def test_nothing_smaller_is_the_graph_itself() -> None:
    graph = deep(4)
    assert reduce(graph, lambda other: other is graph) is graph
    assert reduce(graph, lambda other: True, seconds=0) is graph


def test_what_raises_is_another_failure() -> None:
    def fails(graph: Graph) -> bool:
        if len(graph.inputs) < 2:
            raise ValueError("other")
        return softmax_of_a_product(graph)

    small = reduce(deep(), fails)
    assert len(small.inputs) == 2
    assert softmax_of_a_product(small)


def test_of_an_integer_network_one_op_is_left() -> None:
    images = np.load(DIGITS / "calib.npz")["x"][:4]
    graph = qcompiler.quantize(qcompiler.import_onnx(DIGITS / "vit.onnx"), {"x": images})
    small = reduce(graph, lambda g: any(x.kind() == "exponentials" for x in g.ops), seconds=60)
    assert [x.kind() for x in small.ops if not isinstance(x, (Input, Constant))] == ["exponentials"]


def test_as_a_script(tmp_path: Path) -> None:
    deep().save(tmp_path / "failed.qgraph", "pass fuse")
    (tmp_path / "script.py").write_text(
        "def fails(graph):\n    return any(x.kind() == 'softmax' for x in graph.ops)\n"
        "def never(graph):\n    return False\n"
    )

    def run(predicate: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, TOOL, "failed.qgraph", "--predicate", predicate]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = run("script.py:fails")
    assert done.returncode == 0, done.stderr
    assert "softmax(%mul, axis=1)" in done.stdout
    assert len(Graph.load(tmp_path / "failed.small.qgraph").ops) == 2
    assert read_note(tmp_path / "failed.small.qgraph") == "pass fuse"
    refused = run("script.py:never")
    assert refused.returncode == 1
    assert refused.stderr == "script.py:never does not hold for failed.qgraph itself\n"
