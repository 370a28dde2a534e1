"""Importers of comparisons, logic and choice: masks that a model computes from its inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcompiler.frontends.onnx_node import Importer, Node, importer
from qcompiler.graph import Op
from qcompiler.ops import And, Equal, GreaterEqual, Not, Select, scalar
from qcompiler.types import FLOAT


def either(a: Op, b: Op) -> Op:
    """a or b."""
    return Not(And(Not(a), Not(b)))


def greater(a: Op, b: Op) -> Op:
    """a > b, and false where either is NaN."""
    if a.type.is_integer:
        return Not(GreaterEqual(b, a))
    return And(GreaterEqual(a, b), Not(GreaterEqual(b, a)))


def _xor(a: Op, b: Op) -> Op:
    return And(either(a, b), Not(And(a, b)))


def _equal(a: Op, b: Op) -> Op:
    return Not(_xor(a, b)) if a.type.dtype == "bool" else Equal(a, b)


_BINARY: dict[str, Callable[[Op, Op], Op]] = {
    "And": And,
    "Equal": _equal,
    "Greater": greater,
    "GreaterOrEqual": GreaterEqual,
    "Less": lambda a, b: greater(b, a),
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


@importer("IsInf", since=10)
def is_infinite(node: Node) -> Op:
    """Whether x is infinite, of the signs that count."""
    x, largest = node.x, scalar(float(np.finfo(FLOAT).max), FLOAT)
    above, below = greater(x, largest), greater(scalar(float(np.finfo(FLOAT).min), FLOAT), x)
    positive, negative = node.integer("detect_positive"), node.integer("detect_negative")
    if positive and negative:
        return either(above, below)
    return above if positive else below if negative else And(above, below)


@importer("Where", since=9)
def where(node: Node) -> Op:
    """The second operand where the first holds, else the third."""
    return selected(*(node.operand(i) for i in range(3)))


def selected(condition: Op, a: Op, b: Op) -> Op:
    """a where the condition holds, else b; of any type."""
    if a.type.dtype == "bool":
        return either(And(condition, a), And(Not(condition), b))
    return Select(condition, a, b)
