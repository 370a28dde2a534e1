"""Importers of activation functions that the IR composes from simpler ones."""

from __future__ import annotations

import math

from qcompiler.frontends.onnx_contrib import MICROSOFT
from qcompiler.frontends.onnx_logic import greater
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Abs,
    Add,
    Clip,
    Div,
    Elu,
    Erf,
    Exp,
    LeakyRelu,
    Log,
    Mul,
    Relu,
    Select,
    Sigmoid,
    Tanh,
    scalar,
)
from qcompiler.types import FLOAT, broadcast


def _times(x: Op, factor: float) -> Op:
    return Mul(x, scalar(factor, FLOAT))


def _plus(x: Op, term: float) -> Op:
    return Add(x, scalar(term, FLOAT))


@importer("Gelu", since=20)
def gelu(node: Node) -> Op:
    """x·Φ(x) with the normal distribution Φ, or its approximation by tanh."""
    if (form := node.text("approximate")) not in ("none", "tanh"):
        raise node.broken(f"approximate: expected none or tanh, found {form!r}")
    return gelu_by_tanh(node.x) if form == "tanh" else gelu_by_erf(node.x)


def gelu_by_erf(x: Op) -> Op:
    """x·Φ(x)."""
    return Mul(_times(x, 0.5), _plus(Erf(_times(x, math.sqrt(0.5))), 1))


def gelu_by_tanh(x: Op) -> Op:
    """x·Φ(x), approximately (Hendrycks & Gimpel 2016, section 2)."""
    cubic = _times(Mul(Mul(x, x), x), 0.044715)
    inner = Tanh(_times(Add(x, cubic), math.sqrt(2 / math.pi)))
    return Mul(_times(x, 0.5), _plus(inner, 1))


@importer("Gelu", domain=MICROSOFT)
@importer("BiasGelu", domain=MICROSOFT)
def gelu_of_sum(node: Node) -> Op:
    """x·Φ(x) of a sum with a bias, where there is one."""
    return gelu_by_erf(biased(node, node.x, node.optional(1)))


@importer("FastGelu", domain=MICROSOFT)
def fast_gelu(node: Node) -> Op:
    """The approximation of GELU by tanh, of a sum with a bias, where there is one."""
    return gelu_by_tanh(biased(node, node.x, node.optional(1)))


def biased(node: Node, x: Op, bias: Op | None) -> Op:
    """x + bias, which may not enlarge it."""
    if bias is None:
        return x
    result = Add(x, bias)
    if result.type != x.type:
        raise node.broken(f"expected a bias that broadcasts to {x.type}, found {bias.type}")
    return result


@importer("QuickGelu", domain=MICROSOFT)
@importer("Swish", since=24)
def swish(node: Node) -> Op:
    """x·σ(alpha·x)."""
    return Mul(node.x, Sigmoid(_times(node.x, node.number("alpha"))))


@importer("Softplus")
def softplus(node: Node) -> Op:
    """log(1 + eˣ)."""
    return softplus_of(node.x)


@importer("Mish", since=18)
def mish(node: Node) -> Op:
    """x·tanh(log(1 + eˣ))."""
    return Mul(node.x, Tanh(softplus_of(node.x)))


def softplus_of(x: Op) -> Op:
    """max(x, 0) + log(1 + e^−|x|), which does not overflow."""
    return Add(Relu(x), Log(_plus(Exp(_times(Abs(x), -1)), 1)))


@importer("Softsign")
def softsign(node: Node) -> Op:
    """x / (1 + |x|)."""
    return Div(node.x, _plus(Abs(node.x), 1))


@importer("ThresholdedRelu", since=10)
def thresholded_relu(node: Node) -> Op:
    """x above alpha, else 0."""
    alpha, zero = (scalar(v, FLOAT) for v in (node.number("alpha"), 0))
    return Select(greater(node.x, alpha), node.x, zero)


@importer("Shrink", since=9)
def shrink(node: Node) -> Op:
    """x + bias below −lambd, x − bias above lambd, 0 between."""
    x, bias, bound = node.x, node.number("bias"), node.number("lambd")
    zero = scalar(0, FLOAT)
    above = Select(greater(x, scalar(bound, FLOAT)), _plus(x, -bias), zero)
    return Select(greater(scalar(-bound, FLOAT), x), _plus(x, bias), above)


@importer("PRelu", since=7)
def prelu(node: Node) -> Op:
    """x, or x times its slope below 0; the slopes broadcast to x."""
    x, slope = node.x, node.operand(1)
    if broadcast(x.type, slope.type) != x.type.shape:
        raise node.broken(f"expected slopes that broadcast to {x.type}, found {slope.type}")
    if isinstance(slope, Constant) and slope.is_scalar:
        return LeakyRelu(x, alpha=float(slope.array.reshape(-1)[0]))
    return Add(Relu(x), Mul(Clip(x, high=0.0), slope))


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
