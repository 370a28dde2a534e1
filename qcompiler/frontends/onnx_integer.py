"""Importers of products of integers: products of the real numbers that the integers mean."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from qcompiler.frontends.onnx_codes import dequantized, moved_back, unmoved
from qcompiler.frontends.onnx_contrib import MICROSOFT, define
from qcompiler.frontends.onnx_conv import conv
from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_stand_ins import Accumulator, DynamicCodes, DynamicZeroPoint
from qcompiler.graph import Constant, Op
from qcompiler.ops import Add, Cast, Codes, MatMul, Mul, scalar
from qcompiler.types import FLOAT

define("MatMulIntegerToFloat(A, B, a_scale, b_scale, a_zero_point?, b_zero_point?, bias?) -> Y")
define("DynamicQuantizeMatMul(A, B, b_scale, b_zero_point?, bias?) -> Y")


_STEPS = 2.0**16
"""Dynamic codes of 1.0: so fine that biases, which models round to their steps, lose nothing."""


@importer("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(node: Node) -> tuple[Op, ...]:
    """x itself in steps of 2⁻¹⁶, with the zero point 0."""
    return DynamicCodes(node.x), scalar(1 / _STEPS, FLOAT), DynamicZeroPoint(node.x)


@importer("MatMulInteger", since=10)
def matmul_integer(node: Node) -> Op:
    """(a − a_zero_point) @ (b − b_zero_point)."""
    a, a_step = _steps(node, node.x, node.optional(2), -2)
    b, b_step = _steps(node, node.operand(1), node.optional(3), -1)
    y = MatMul(a, b)
    return _accumulated(node, y, a.type.shape[-1], a_step * b_step)


@importer("ConvInteger", since=10)
def conv_integer(node: Node) -> Op:
    """A convolution of x − x_zero_point with w − w_zero_point, padded with zeros."""
    x, x_step = _steps(node, node.x, node.optional(2), 1)
    w, w_step = _steps(node, node.operand(1), node.optional(3), 0)
    y = conv(replace(node, inputs=(x, w)))
    return _accumulated(node, y, math.prod(w.type.shape[1:]), x_step * w_step)


@importer("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(node: Node) -> Op:
    """The product of two dequantized matrices, plus a bias."""
    a = real_value(node, node.x, node.operand(2), node.optional(4))
    b = real_value(node, node.operand(1), node.operand(3), node.optional(5), -1)
    return _biased(MatMul(a, b), node.optional(6))


@importer("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_matmul(node: Node) -> Op:
    """a @ b for a dequantized b, plus a bias."""
    b = real_value(node, node.operand(1), node.operand(2), node.optional(3), -1)
    return _biased(MatMul(node.x, b), node.optional(4))


def real_value(
    node: Node, codes: Op, scale: Op, zero_point: Op | None, axis: int | None = None
) -> Op:
    """scale·(codes − zero_point), dynamic codes and accumulators included."""
    if isinstance(zero_point, DynamicZeroPoint):
        steps = Mul(scale, scalar(_STEPS, FLOAT))
        return _scaled(moved_back(codes, _dynamic, None), simplified(steps))
    if (real := as_real(codes)) is not None:
        if zero_point is not None and (
            not isinstance(zero_point, Constant) or zero_point.array.any()
        ):
            raise node.unsupported("a zero point of int32")
        return _scaled(real, scale)
    if axis is not None:
        axis = None if scale.type.size == 1 else node.axis(axis, codes.type.rank)
    return dequantized(node, codes, scale, zero_point, axis)


def as_real(integers: Op) -> Op | None:
    """The real value of accumulators that were at most moved about; None of other integers."""
    if integers.type.dtype != "int32":
        return None
    if not any(isinstance(x, Accumulator) for x in unmoved(integers)):
        return None
    return moved_back(integers, _accumulator, None)


def sum_of_integers(a: Op, b: Op) -> Op | None:
    """a + b where one of them is an accumulator, such as a convolution's with its bias."""
    reals = [as_real(x) for x in (a, b)]
    if reals == [None, None]:
        return None
    first, second = (
        simplified(Cast(x, FLOAT)) if r is None else r for r, x in zip(reals, (a, b), strict=True)
    )
    return Accumulator(Add(first, second), _bound(a) + _bound(b))


def _bound(x: Op) -> float:
    if isinstance(x, Constant):
        return float(np.abs(x.array.astype(np.float64)).max(initial=0.0))
    return max(y.bound if isinstance(y, Accumulator) else math.inf for y in unmoved(x))


def _accumulator(x: Op) -> Op:
    return x.x if isinstance(x, Accumulator) else Cast(x, FLOAT)


def _dynamic(x: Op) -> Op:
    return x.x if isinstance(x, DynamicCodes) else Cast(x, FLOAT)


def _steps(node: Node, codes: Op, zero_point: Op | None, axis: int) -> tuple[Op, float]:
    """A real value and a number, whose product is codes − zero_point."""
    if isinstance(zero_point, DynamicZeroPoint):
        return moved_back(codes, _dynamic, None), _STEPS
    if isinstance(codes, Codes) and codes.meaning.axis is None and isinstance(zero_point, Constant):
        scale = codes.meaning.scale[0]
        value = dequantized(node, codes, scalar(scale, FLOAT), zero_point)
        return value, 1 / scale
    count = 1 if zero_point is None else zero_point.type.size
    ones = Constant(np.ones(count, np.float32))
    return dequantized(node, codes, ones, zero_point, node.axis(axis, codes.type.rank)), 1.0


def _accumulated(node: Node, y: Op, terms: int, step: float) -> Op:
    codes = (node.x, node.operand(1))
    dynamic = any(isinstance(leaf, DynamicCodes) for x in codes for leaf in unmoved(x))
    return Accumulator(
        y if step == 1 else Mul(y, scalar(step, FLOAT)),
        math.inf if dynamic else terms * 255.0 * 255.0,
    )


def _scaled(value: Op, scale: Op) -> Op:
    if isinstance(scale, Constant) and (scale.array == 1).all():
        return value
    return Mul(value, scale)


def _biased(value: Op, bias: Op | None) -> Op:
    return value if bias is None else Add(value, bias)
