"""Importers of activation functions that the IR composes from simpler ones."""

from __future__ import annotations

import math

from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Op
from qcompiler.ops import (
    Abs,
    Add,
    Div,
    Elu,
    Erf,
    Exp,
    Log,
    Mul,
    Relu,
    Sigmoid,
    Tanh,
    scalar,
)
from qcompiler.types import FLOAT


def _times(x: Op, factor: float) -> Op:
    return Mul(x, scalar(factor, FLOAT))


def _plus(x: Op, term: float) -> Op:
    return Add(x, scalar(term, FLOAT))


@importer("Gelu", since=20)
def gelu(node: Node) -> Op:
    """x·Φ(x) with the normal distribution Φ, or its approximation by tanh."""
    x = node.x
    if (form := node.text("approximate")) == "tanh":
        cubic = _times(Mul(Mul(x, x), x), 0.044715)
        inner: Op = Tanh(_times(Add(x, cubic), math.sqrt(2 / math.pi)))
    elif form == "none":
        inner = Erf(_times(x, math.sqrt(0.5)))
    else:
        raise node.broken(f"approximate: expected none or tanh, found {form!r}")
    return Mul(_times(x, 0.5), _plus(inner, 1))


@importer("QuickGelu")
@importer("Swish", since=24)
def swish(node: Node) -> Op:
    """x·σ(alpha·x)."""
    return Mul(node.x, Sigmoid(_times(node.x, node.number("alpha"))))


@importer("Softplus")
def softplus(node: Node) -> Op:
    """log(1 + eˣ)."""
    return _softplus(node.x)


@importer("Mish", since=18)
def mish(node: Node) -> Op:
    """x·tanh(log(1 + eˣ))."""
    return Mul(node.x, Tanh(_softplus(node.x)))


def _softplus(x: Op) -> Op:
    """max(x, 0) + log(1 + e^−|x|), which does not overflow."""
    return Add(Relu(x), Log(_plus(Exp(_times(Abs(x), -1)), 1)))


@importer("Softsign")
def softsign(node: Node) -> Op:
    """x / (1 + |x|)."""
    return Div(node.x, _plus(Abs(node.x), 1))


@importer("Selu")
def selu(node: Node) -> Op:
    """gamma·x, or gamma·alpha·(eˣ − 1) below 0."""
    return _times(Elu(node.x, alpha=node.number("alpha")), node.number("gamma"))


@importer("Celu", since=12)
def celu(node: Node) -> Op:
    """x, or alpha·(e^(x / alpha) − 1) below 0."""
    if (alpha := node.number("alpha")) <= 0:
        raise node.unsupported(f"alpha={alpha}")
    return _times(Elu(_times(node.x, 1 / alpha), alpha=1.0), alpha)
