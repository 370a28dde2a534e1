"""Importers of comparisons, logic and choice: masks that a model computes from its inputs."""

from __future__ import annotations

from collections.abc import Callable

from qcompiler.frontends.onnx_node import Importer, Node, importer
from qcompiler.graph import Op
from qcompiler.ops import And, Equal, GreaterEqual, Not, Select


def either(a: Op, b: Op) -> Op:
    """a or b."""
    return Not(And(Not(a), Not(b)))


def _greater(a: Op, b: Op) -> Op:
    """a > b, and false where either is NaN."""
    return And(GreaterEqual(a, b), Not(GreaterEqual(b, a)))


def _xor(a: Op, b: Op) -> Op:
    return And(either(a, b), Not(And(a, b)))


def _equal(a: Op, b: Op) -> Op:
    return Not(_xor(a, b)) if a.type.dtype == "bool" else Equal(a, b)


_BINARY: dict[str, Callable[[Op, Op], Op]] = {
    "And": And,
    "Equal": _equal,
    "Greater": _greater,
    "GreaterOrEqual": GreaterEqual,
    "Less": lambda a, b: _greater(b, a),
    "LessOrEqual": lambda a, b: GreaterEqual(b, a),
    "Or": either,
    "Xor": _xor,
}


def _binary(build: Callable[[Op, Op], Op]) -> Importer:
    return lambda node: build(node.x, node.operand(1))


for _name, _two in _BINARY.items():
    importer(_name, since=7)(_binary(_two))


@importer("Not")
def negation(node: Node) -> Op:
    """The opposite."""
    return Not(node.x)


@importer("IsNaN", since=9)
def is_nan(node: Node) -> Op:
    """Whether x is no number, which alone differs from itself."""
    return Not(Equal(node.x, node.x))


@importer("Where", since=9)
def where(node: Node) -> Op:
    """The second operand where the first holds, else the third."""
    return selected(*(node.operand(i) for i in range(3)))


def selected(condition: Op, a: Op, b: Op) -> Op:
    """a where the condition holds, else b."""
    if a.type.dtype == "bool":
        return either(And(condition, a), And(Not(condition), b))
    return Select(condition, a, b)
