"""Graphs: walks, names, rewriting; none of them minds 20,000 ops."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest

from qcompiler.errors import TypingError, UsageError
from qcompiler.graph import Constant, Graph, Input, Op, fold, origin, toposort
from qcompiler.interpret import evaluate
from qcompiler.ops import Abs, Add, Concat, Mul, Relu, Sub, scalar
from qcompiler.types import FLOAT, TensorType

DEEP = 20_000


def value(name: str = "x", *shape: int) -> Input:
    return Input(TensorType(FLOAT, shape or (2,)), name=name)


def chain(length: int = DEEP) -> Graph:
    """Each op uses the one before and x."""
    x = value()
    node: Op = x
    for i in range(length):
        node = Add(node, x) if i % 2 else Relu(node)
    return Graph((x,), {"y": node})


def abs_for_relu(node: Op) -> Op | None:
    match node:
        case Relu(x=x):
            return Abs(x)
    return None


@pytest.mark.parametrize(
    "work",
    [
        lambda g: g.users,
        lambda g: g.names,
        lambda g: str(g),
        lambda g: g.rewrite(abs_for_relu),
        lambda g: fold(g.outputs.values(), {}, lambda node, values: len(values)),
        lambda g: evaluate(g, {"x": np.zeros(2, np.float32)}),
        lambda g: nx.is_directed_acyclic_graph(g.to_networkx()),
    ],
    ids=["users", "names", "text", "rewrite", "fold", "evaluate", "networkx"],
)
def test_20000_ops_take_seconds(work: Callable[[Graph], object]) -> None:
    graph = chain()
    start = time.process_time()
    work(graph)
    assert time.process_time() - start < 10


def test_a_deep_graph_is_rewritten_everywhere() -> None:
    new = chain().rewrite(abs_for_relu)
    assert len(new.ops) == DEEP + 1
    assert sum(isinstance(node, Abs) for node in new.ops) == DEEP // 2
    assert not any(isinstance(node, Relu) for node in new.ops)


def test_operands_come_first_and_once() -> None:
    x, unused = value(), value("unused")
    a = Add(x, x)
    graph = Graph((x, unused), {"y": Mul(a, Relu(a)), "z": a})
    seen: set[Op] = set()
    for node in graph.ops:
        assert set(node.operands) <= seen
        assert node not in seen
        seen.add(node)
    assert unused in seen
    assert [node.kind() for node in graph.ops] == ["input", "input", "add", "relu", "mul"]


def test_toposort_stops_below_what_is_known() -> None:
    x = value()
    a = Relu(x)
    b = Abs(a)
    assert toposort([b], {a: None}) == [a, b]


def test_users_are_distinct_and_outputs_are_not_users() -> None:
    x = value()
    a = Add(x, x)
    graph = Graph((x,), {"y": a, "z": Relu(x)})
    assert graph.users[x] == (a, graph.outputs["z"])
    assert graph.users[a] == ()
    assert graph.is_output(a)
    assert not graph.is_output(x)


def test_the_only_user_is_no_caller_and_one_op_that_may_use_the_value_twice() -> None:
    x = value()
    a, b = Relu(x), Abs(x)
    total = Add(a, a)
    graph = Graph((x,), {"y": total, "b": b, "z": Mul(total, b)})
    assert graph.only_user(a) is total
    assert graph.only_user(x) is None  # two ops
    assert graph.only_user(b) is None  # an op and the caller
    assert graph.only_user(graph.outputs["z"]) is None  # none


def test_names_are_unique_and_the_users_come_first() -> None:
    x = value("add")
    first, second = Add(x, x), Add(x, x)
    users = Relu(first, name="add_1")
    named_twice = Mul(second, Abs(Relu(first), name="add_1"))
    outputs = {"a": users, "b": named_twice, "relu": Sub(x, x)}
    graph = Graph((x,), outputs)
    names = list(graph.names.values())
    assert len(set(names)) == len(names) == len(graph.ops)
    assert graph.names[x] == "add"
    assert graph.names[users] == "add_1"
    assert "relu" not in graph.names.values()  # it is an output's
    assert all(graph.find(name) is node for node, name in graph.names.items())
    with pytest.raises(KeyError):
        graph.find("nothing")


def test_an_unchanged_graph_is_the_same_object() -> None:
    graph = chain(10)
    assert graph.rewrite() is graph
    assert graph.rewrite(lambda node: None) is graph
    assert graph.rewrite(lambda node: node) is graph


def test_rewriting_keeps_names_sources_and_what_is_shared() -> None:
    x = value()
    relu = Relu(x, name="act", sources=("/act",))
    graph = Graph((x,), {"y": Add(relu, relu, sources=("/add",)), "z": Sub(x, x)})
    new = graph.rewrite(abs_for_relu)
    y = new.outputs["y"]
    assert isinstance(y, Add)
    assert y.a is y.b
    assert (y.a.kind(), y.a.name, y.a.sources) == ("abs", "act", ("/act",))
    assert y.sources == ("/add",)
    assert new.outputs["z"] is graph.outputs["z"]
    assert graph.outputs["y"].operands == (relu, relu)


def test_all_new_ops_of_a_rule_know_their_source() -> None:
    x = value()
    graph = Graph((x,), {"y": Relu(x, sources=("/act",))})

    def expand(node: Op) -> Op | None:
        return Mul(Abs(node.x), scalar(0.5, FLOAT)) if isinstance(node, Relu) else None

    new = graph.rewrite(expand)
    assert {node.kind(): node.sources for node in new.ops if node is not x} == {
        "abs": ("/act",),
        "constant": ("/act",),
        "mul": ("/act",),
    }


def test_rules_apply_until_none_matches_and_may_remove() -> None:
    x = value()
    graph = Graph((x,), {"y": Relu(Relu(Add(x, scalar(0, FLOAT)), name="inner"), name="outer")})

    def once(node: Op) -> Op | None:
        match node:
            case Relu(x=Relu() as inner):
                return inner
            case Add(a=a, b=Constant(array=array)) if not array.any():
                return a
        return None

    new = graph.rewrite(once)
    y = new.outputs["y"]
    assert isinstance(y, Relu)
    assert y.x is x
    assert y.name == "inner"


def test_with_operands_replaces_every_field_in_order() -> None:
    a, b, c = (value(name) for name in "abc")
    node = Concat((a, b, c), 0, name="n", sources=("s",))
    new = node.with_operands([c, b, a])
    assert isinstance(new, Concat)
    assert (new.inputs, new.axis, new.name, new.sources) == ((c, b, a), 0, "n", ("s",))


def test_ops_and_their_arrays_are_immutable() -> None:
    node = Relu(value())
    with pytest.raises(dataclasses.FrozenInstanceError):
        node.x = value()  # type: ignore[misc]
    array = np.zeros(3)
    constant = Constant(array)
    with pytest.raises(ValueError, match="read-only"):
        constant.array[0] = 1
    array[0] = 1  # the caller's stays as it was, and is no copy
    assert constant.array[0] == 1


def test_origin_is_for_ops_built_inside() -> None:
    with origin(("/conv",)):
        inside = Relu(value())
    assert inside.sources == ("/conv",)
    assert Relu(inside).sources == ()


def test_graphs_refuse_strangers_and_inputs_of_one_name() -> None:
    x, other = value(), value("other")
    with pytest.raises(TypingError, match="values of another graph"):
        Graph((x,), {"y": Add(x, other)})
    with pytest.raises(TypingError, match="expected distinct input names"):
        Graph((x, value()), {"y": x})


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input 'x' is missing: expected x"),
        ({"x": np.zeros(2, np.float32), "z": np.zeros(1)}, "unknown input 'z': expected x"),
        ({"x": np.zeros(2)}, r"input 'x': expected float32\[2\], found float64\[2\]"),
        ({"x": np.zeros(3, np.float32)}, r"input 'x': expected float32\[2\], found float32\[3\]"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(feeds: dict[str, np.ndarray], message: str) -> None:
    graph = chain(2)
    with pytest.raises(UsageError, match=message):
        evaluate(graph, feeds)


def test_evaluation_returns_every_output_also_the_same_value_twice() -> None:
    x = value()
    y = Relu(x)
    graph = Graph((x,), {"y": y, "again": y, "x": x, "z": Abs(y), "c": scalar(3, FLOAT)})
    array = np.array([-1, 2], np.float32)
    found = evaluate(graph, {"x": array})
    assert {name: v.tolist() for name, v in found.items()} == {
        "y": [0, 2], "again": [0, 2], "x": [-1, 2], "z": [0, 2], "c": 3,
    }  # fmt: skip


def test_a_number_of_numpy_is_an_array_too():
    held = Constant(np.int64(33)).array
    assert type(held) is np.ndarray
    assert (held.shape, held.item()) == ((), 33)
