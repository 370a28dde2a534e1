"""Importers of elementwise operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import onnx_ir as ir

from qcompiler.frontends.onnx_integer import as_real
from qcompiler.frontends.onnx_model import dtype_of
from qcompiler.frontends.onnx_node import Importer, Node, importer
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Abs,
    Add,
    Cast,
    Clip,
    Div,
    Elu,
    Equal,
    Erf,
    Exp,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Log,
    Maximum,
    Minimum,
    Mul,
    Not,
    Relu,
    Sigmoid,
    Sqrt,
    Sub,
    Tanh,
    scalar,
)
from qcompiler.types import DTYPES, FLOAT

_UNARY: dict[str, Callable[[Op], Op]] = {
    "Abs": Abs,
    "Erf": Erf,
    "Exp": Exp,
    "HardSwish": HardSwish,
    "Log": Log,
    "Relu": Relu,
    "Sigmoid": Sigmoid,
    "Sqrt": Sqrt,
    "Tanh": Tanh,
    "Neg": lambda x: Sub(scalar(0, x.type.dtype), x),
    "Reciprocal": lambda x: Div(scalar(1, x.type.dtype), x),
}
_BINARY: dict[str, Callable[[Op, Op], Op]] = {"Add": Add, "Div": Div, "Mul": Mul, "Sub": Sub}
_VARIADIC: dict[str, Callable[[Op, Op], Op]] = {"Max": Maximum, "Min": Minimum, "Sum": Add}
_FLOAT_MAX = 3.4028234663852886e38
_POWERS: dict[float, Callable[[Op], Op]] = {
    -1.0: lambda x: Div(scalar(1, FLOAT), x),
    -0.5: lambda x: Div(scalar(1, FLOAT), Sqrt(x)),
    0.5: Sqrt,
    1.0: lambda x: x,
    2.0: lambda x: Mul(x, x),
    3.0: lambda x: Mul(Mul(x, x), x),
    4.0: lambda x: Mul(square := Mul(x, x), square),
}


def _unary(build: Callable[[Op], Op]) -> Importer:
    return lambda node: build(node.x)


def _binary(build: Callable[[Op, Op], Op]) -> Importer:
    return lambda node: build(node.x, node.operand(1))


def _variadic(build: Callable[[Op, Op], Op]) -> Importer:
    return lambda node: reduce(build, (node.operand(i) for i in range(len(node.inputs))))


for _name, _one in _UNARY.items():
    importer(_name)(_unary(_one))
for _name, _two in _BINARY.items():
    importer(_name)(_binary(_two))
for _name, _two in _VARIADIC.items():
    importer(_name)(_variadic(_two))


@importer("Identity")
def identity(node: Node) -> Op:
    """x."""
    return node.x


@importer("Elu")
def elu(node: Node) -> Op:
    """x, or alpha·(eˣ − 1) below 0."""
    return Elu(node.x, alpha=node.number("alpha"))


@importer("LeakyRelu")
def leaky_relu(node: Node) -> Op:
    """x, or alpha·x below 0."""
    return LeakyRelu(node.x, alpha=node.number("alpha"))


@importer("HardSigmoid")
def hard_sigmoid(node: Node) -> Op:
    """min(max(alpha·x + beta, 0), 1)."""
    return HardSigmoid(node.x, alpha=node.number("alpha"), beta=node.number("beta"))


@importer("Pow")
def power(node: Node) -> Op:
    """x^y for a constant y that products and roots express."""
    exponent = node.known_scalar(1, "exponent")
    if exponent not in _POWERS or node.operand(1).type.rank > node.x.type.rank:
        raise node.unsupported(f"exponent {exponent}")
    return _POWERS[exponent](node.x)


@importer("Clip", since=6)
def clip(node: Node) -> Op:
    """Clip with its bounds as attributes."""
    return _clip(node, node.attributes.get("min"), node.attributes.get("max"))


@importer("Clip", since=11)
def clip_by_operands(node: Node) -> Op:
    """Clip with its bounds as operands."""
    low, high = node.optional(1), node.optional(2)
    if all(bound is None or isinstance(bound, Constant) for bound in (low, high)):
        return _clip(node, node.known_scalar(1, "minimum"), node.known_scalar(2, "maximum"))
    x = node.x if low is None else Maximum(node.x, low)
    return x if high is None else Minimum(x, high)


def _clip(node: Node, low: float | None, high: float | None) -> Op:
    if any(bound is not None and math.isnan(bound) for bound in (low, high)):
        raise node.broken("expected bounds that are numbers, found NaN")
    lowest, highest = -math.inf, math.inf
    if node.x.type.dtype == FLOAT:  # exporters write float32's extremes for an absent bound
        lowest, highest = -_FLOAT_MAX, _FLOAT_MAX
    low = None if low is not None and low <= lowest else low
    high = None if high is not None and high >= highest else high
    return node.x if low is None and high is None else Clip(node.x, low, high)


@importer("Dropout")
def dropout(node: Node) -> Op:
    """x, in inference."""
    return node.x


@importer("Dropout", since=12)
def dropout_with_mode(node: Node) -> Op:
    """x, unless the node drops elements at run time."""
    training, ratio = node.known(2, "training mode"), node.known_scalar(1, "ratio")
    if training is not None and training.any() and ratio != 0:
        raise node.unsupported("training_mode: export the model for inference")
    return node.x


@importer("Cast")
def cast(node: Node) -> Op:
    """x in another type: floats are one type here, whole numbers become floats."""
    try:
        element = ir.DataType(node.integer("to"))
    except ValueError as error:
        raise node.broken(f"to: {error}") from None
    return _cast(node, dtype_of(element))


@importer("CastLike", since=15)
def cast_like(node: Node) -> Op:
    """x in the second operand's type."""
    return _cast(node, node.operand(1).type.dtype)


def _cast(node: Node, target: str) -> Op:
    source = node.x.type.dtype
    if target == source:
        return node.x
    if target == FLOAT and (real := as_real(node.x)) is not None:
        return real
    if target == "bool" and source != "uint64":
        return Not(Equal(node.x, scalar(0, source)))
    if target not in DTYPES or (target != FLOAT and source == FLOAT):
        raise node.unsupported(f"conversion of {source} to {target}")
    return Cast(node.x, target)
