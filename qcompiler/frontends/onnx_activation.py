"""Importers of activation functions that the IR composes from simpler ones."""

from __future__ import annotations

import math

from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Op
from qcompiler.ops import Add, Erf, Mul, Tanh, scalar
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
