"""Importers of elementwise operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import numpy as np
import onnx_ir as ir

from qcompiler.frontends.onnx_integer import as_real, sum_of_integers
from qcompiler.frontends.onnx_logic import greater
from qcompiler.frontends.onnx_model import dtype_of
from qcompiler.frontends.onnx_node import Importer, Node, importer
from qcompiler.frontends.onnx_quotient import absolute, opposite
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Acos,
    Acosh,
    Add,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Cast,
    Clip,
    Cos,
    Cosh,
    Div,
    Elu,
    Equal,
    Erf,
    Exp,
    Floor,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Log,
    Maximum,
    Minimum,
    Mul,
    Not,
    Relu,
    Round,
    Select,
    Sigmoid,
    Sin,
    Sinh,
    Sqrt,
    Sub,
    Tan,
    Tanh,
    scalar,
)
from qcompiler.types import DTYPES, FLOAT, broadcast


def _sum(a: Op, b: Op) -> Op:
    return sum_of_integers(a, b) or Add(a, b)


def _greater(a: Op, b: Op) -> Op:
    return _other(a, b, -np.inf) or Maximum(a, b)


def _lesser(a: Op, b: Op) -> Op:
    return _other(a, b, np.inf) or Minimum(a, b)


def _other(a: Op, b: Op, neutral: float) -> Op | None:
    """The operand beside infinite numbers that bound nothing; None where there are none."""
    for x, y in ((a, b), (b, a)):
        shape = broadcast(a.type, b.type)
        same = math.prod(shape) == y.type.size
        if same and isinstance(x, Constant) and x.type.is_float and (x.array == neutral).all():
            return reshaped(y, shape)
    return None


def _sign(x: Op) -> Op:
    zero, one = (scalar(v, x.type.dtype) for v in (0, 1))
    return Select(greater(x, zero), one, Select(greater(zero, x), opposite(one), zero))


def _relu(x: Op) -> Op:
    return Relu(x) if x.type.is_float else Maximum(x, scalar(0, x.type.dtype))


def _exponential(x: Op) -> Op:
    """eˣ, and 0 where −∞ masks x, which no integer expresses."""
    zero = scalar(0, FLOAT)
    match x:
        case Select(kept, a, Constant(array=mask)) if np.isneginf(mask).all():
            y = Select(kept, Exp(a), zero)
        case Select(masked, Constant(array=mask), a) if np.isneginf(mask).all():
            y = Select(masked, zero, Exp(a))
        case _:
            return Exp(x)
    return y if y.type.shape == x.type.shape else Exp(x)


_UNARY: dict[str, Callable[[Op], Op]] = {
    **{f.__name__: f for f in (Acos, Acosh, Asin, Asinh, Atan, Atanh, Cos, Cosh, Sin, Sinh, Tan)},
    "Abs": absolute,
    "Ceil": lambda x: opposite(Floor(opposite(x))),
    "Erf": Erf,
    "Floor": Floor,
    "Exp": _exponential,
    "HardSwish": HardSwish,
    "Log": Log,
    "Relu": _relu,
    "Round": Round,
    "Sigmoid": Sigmoid,
    "Sign": _sign,
    "Sqrt": Sqrt,
    "Tanh": Tanh,
    "Neg": opposite,
    "Reciprocal": lambda x: Div(scalar(1, x.type.dtype), x),
}
_BINARY: dict[str, Callable[[Op, Op], Op]] = {"Add": _sum, "Mul": Mul, "Sub": Sub}
_VARIADIC: dict[str, Callable[[Op, Op], Op]] = {"Max": _greater, "Min": _lesser, "Sum": Add}
_FLOAT_MAX = 3.4028234663852886e38


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


@importer("Mean")
def mean(node: Node) -> Op:
    """The mean of the operands, which broadcast."""
    total = reduce(Add, (node.operand(i) for i in range(len(node.inputs))))
    return Mul(total, scalar(1 / len(node.inputs), FLOAT))


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
    lowest, highest = -_FLOAT_MAX, _FLOAT_MAX  # what exporters write for an absent bound
    if node.x.type.is_integer:
        info = np.iinfo(node.x.type.dtype)
        lowest, highest = int(info.min), int(info.max)
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
    """x in another type: all floats are one here, and become integers without their fraction."""
    try:
        element = ir.DataType(node.integer("to"))
    except ValueError as error:
        raise node.broken(f"to: {error}") from None
    return _cast(node, dtype_of(element))


@importer("CastLike", since=15)
def cast_like(node: Node) -> Op:
    """x in the second operand's type."""
    like = node.operand(1).type  # integers of less than a byte are codes in whole ones
    return _cast(node, like.dtype if like.quantization is None else like.quantization.storage)


def _cast(node: Node, target: str) -> Op:
    source = node.x.type.dtype
    if target == source:
        return node.x
    if target == FLOAT and (real := as_real(node.x)) is not None:
        return real
    if target == "bool" and source != "uint64":
        return Not(Equal(node.x, scalar(0, source)))
    if target not in DTYPES:
        raise node.unsupported(f"conversion of {source} to {target}")
    return Cast(node.x, target)
