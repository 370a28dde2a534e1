"""Affine forms: real expressions as Σ integer·factor + constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompiler import fixed_point
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    Average,
    AveragePool,
    Cast,
    Conv,
    ConvInteger,
    Dequantize,
    Exponentials,
    MatMul,
    MatMulInteger,
    Mul,
    Normalize,
    NormalizeInteger,
    Pad,
    Reciprocal,
    ReduceMean,
    ReduceSum,
    Softmax,
    Sub,
    Window,
    scalar,
)
from qcompiler.ops.integer import INT32_MAX
from qcompiler.ops.softmax import AVERAGE_BITS
from qcompiler.types import Quantization

Term = tuple[Op, np.ndarray]


@dataclass(frozen=True)
class Affine:
    """Σ x_i·f_i + c over integer ops x_i, in real numbers.

    Attributes:
        terms: Pairs of an integer op and its float64 factors, broadcastable to the value.
        constant: float64, broadcastable to the value.
    """

    terms: tuple[Term, ...]
    constant: np.ndarray

    def scaled(self, factor: np.ndarray) -> Affine:
        """The form times a constant."""
        return Affine(tuple((x, f * factor) for x, f in self.terms), self.constant * factor)

    def plus(self, other: Affine) -> Affine:
        """The sum of two forms."""
        return Affine((*self.terms, *other.terms), self.constant + other.constant)


def affine(value: Op) -> Affine | None:
    """The affine form of a real value whose leaves are dequantized codes; None if it has none.

    Zero points end up in biases and constants: real = s·(q − z) (Jacob et al. 2018, eq. 1).
    """
    match value:
        case Constant(array=c) if value.type.is_float:
            return Affine((), c.astype(np.float64))
        case Dequantize(q):
            return _codes(q)
        case Add(a, b) | Sub(a, b):
            left, right = affine(a), affine(b)
            if left is None or right is None:
                return None
            sign = 1.0 if isinstance(value, Add) else -1.0
            return left.plus(right.scaled(np.array(sign)))
        case Mul(a, Constant(array=c)):
            form = affine(a)
            return form and form.scaled(c.astype(np.float64))
        case Mul(Dequantize(a), Dequantize(b)):
            return _product(a, b)
        case Conv(Dequantize(x), Dequantize(Constant() as w), bias):
            return _conv(value, x, w, bias)
        case MatMul(Dequantize(x), Dequantize(w), bias):
            return _matmul(x, w, bias)
        case ReduceMean(Dequantize(x), axes):
            return _mean(value, x, axes)
        case AveragePool(Dequantize(x), window):
            return _average(value, x, window)
        case Normalize(Dequantize(x), axes, epsilon, center):
            return _normalize(x, axes, epsilon, center)
        case MatMul(Softmax(Dequantize(x), axis, mask), Dequantize(v), None) if (
            axis == x.type.rank - 1
        ):
            return _attend(x, v, mask)
        case Softmax(Dequantize(x), axis, mask):
            return _softmax(x, axis, mask)
    return None


def _quantization(q: Op) -> Quantization:
    assert q.type.quantization is not None
    return q.type.quantization


def _is_per_tensor(q: Op) -> bool:
    return _quantization(q).axis is None


def _codes(q: Op) -> Affine:
    scales = _quantization(q).scales(q.type.rank)
    zero_points = _quantization(q).zero_points(q.type.rank)
    return Affine(((q, scales),), -scales * zero_points)


def _product(a: Op, b: Op) -> Affine | None:
    """s_a·s_b·(q_a − z_a)·(q_b − z_b)."""
    factors = []
    for x in (a, b):
        q = _quantization(x)
        if q.axis is not None or q.bounds.bits > 15:
            return None
        code: Op = Cast(x, "int32")
        if q.zero_point[0]:
            code = Add(code, scalar(-q.zero_point[0], "int32"))
        factors.append(code)
    scale = np.asarray(_quantization(a).scale[0] * _quantization(b).scale[0])
    return Affine(((Mul(*factors), scale),), np.asarray(0))


def _conv(conv: Conv, x: Op, w: Constant, bias: Op | None) -> Affine | None:
    if not _is_8_bit(x) or not _is_known(bias):
        return None
    zero_point, window = _quantization(x).zero_point[0], conv.window
    if zero_point and any(window.pads):  # padding is real 0, which is not code 0
        top, left, bottom, right = window.pads
        x = Pad(x, (0, 0, top, left), (0, 0, bottom, right), zero_point)
        window = Window(window.kernel, window.strides, dilations=window.dilations)
    sums = w.array.astype(np.int64).sum(axis=(1, 2, 3))
    scales = _quantization(x).scale[0] * _quantization(w).scales(4).reshape(-1)
    codes, rest = _bias(bias, scales, sums, zero_point)
    channel = (-1, 1, 1)
    term = ConvInteger(x, w, codes, window, conv.groups)
    return Affine(((term, scales.reshape(channel)),), rest.reshape(channel))


def _matmul(x: Op, w: Op, bias: Op | None) -> Affine | None:
    if not _is_8_bit(x) or w.type.dtype != "int8" or not _is_known(bias):
        return None
    zero_point = _quantization(x).zero_point[0]
    if isinstance(w, Constant) and w.type.rank == 2:
        sums = w.array.astype(np.int64).sum(axis=0)
    elif zero_point or any(_quantization(w).zero_point):
        return None  # the correction would depend on the values
    else:
        sums = np.zeros(w.type.shape[-1], np.int64)
    scales = np.broadcast_to(
        _quantization(x).scale[0] * _quantization(w).scales(2).reshape(-1), sums.shape
    )
    codes, rest = _bias(bias, scales, sums, zero_point)
    return Affine(((MatMulInteger(x, w, codes), scales),), rest)


def _bias(
    bias: Op | None, scales: np.ndarray, sums: np.ndarray, zero_point: int
) -> tuple[Constant | None, np.ndarray]:
    """An int32 bias b/(s_x·s_w) − z_x·Σw, and the real rest that its rounding leaves."""
    reals = np.zeros(len(sums)) if bias is None else _array(bias).astype(np.float64)
    limit = INT32_MAX // 4  # leaves room for the products
    codes = fixed_point.round_half_up(np.clip(reals / scales, -limit, limit))
    total = codes - zero_point * sums
    rest = reals - codes * scales
    return (Constant(total.astype(np.int32)) if total.any() else None), rest


def _array(constant: Op) -> np.ndarray:
    assert isinstance(constant, Constant)
    return constant.array


def _is_known(bias: Op | None) -> bool:
    return bias is None or isinstance(bias, Constant)


def _is_8_bit(x: Op) -> bool:
    return x.type.dtype in ("uint8", "int8") and _is_per_tensor(x)


def _mean(value: ReduceMean, x: Op, axes: tuple[int, ...]) -> Affine | None:
    if not _is_per_tensor(x) or value.count * x.type.magnitude() > INT32_MAX:
        return None
    q = _quantization(x)
    factor = np.asarray(q.scale[0] / value.count)
    return Affine(((ReduceSum(x, axes), factor),), np.asarray(-q.scale[0] * q.zero_point[0]))


def _average(value: AveragePool, x: Op, window: Window) -> Affine | None:
    """A depthwise convolution with ones; the padding adds nothing, and is not counted."""
    if not _is_8_bit(x):
        return None
    q, channels = _quantization(x), x.type.shape[1]
    ones = Constant(np.ones((channels, 1, *window.kernel), np.int8))
    total = ConvInteger(x, ones, None, window, channels)
    factor = q.scale[0] / value.counts().astype(np.float64)
    return Affine(((total, factor),), np.asarray(-q.scale[0] * q.zero_point[0]))


def _normalize(x: Op, axes: tuple[int, ...], epsilon: float, center: bool) -> Affine | None:
    q = _quantization(x)
    if q.axis is not None or q.bounds.bits > 16:
        return None
    if not center and q.zero_point[0]:
        return None
    normal = NormalizeInteger(x, axes, epsilon / q.scale[0] ** 2, center)
    return Affine(((normal, np.asarray(normal.quantization.scale[0])),), np.asarray(0.0))


def _exponentials(x: Op, axis: int, mask: Op | None, dtype: str) -> Exponentials | None:
    """exp(s·(q − max q)) by table; the largest code stands for 1."""
    if not _is_8_bit(x):
        return None
    differences = np.arange(256) - 255
    largest = np.iinfo(dtype).max
    reals = np.exp(_quantization(x).scale[0] * differences) * largest
    values = Constant(fixed_point.round_half_up(reals).astype(dtype))
    return Exponentials(x, values, axis, mask)


def _attend(x: Op, v: Op, mask: Op | None) -> Affine | None:
    """softmax(x) @ v with unnormalised weights, each row divided by its sum afterwards."""
    q, axis = _quantization(v), x.type.rank - 1
    weights = _exponentials(x, axis, mask, "uint8")
    if weights is None or v.type.dtype != "int8" or any(q.zero_point):
        return None
    if q.axis not in (None, v.type.rank - 1):
        return None
    reciprocal = Reciprocal(ReduceSum(weights, (axis,)))
    average = Average(MatMulInteger(weights, v), reciprocal)
    factors = q.scales(v.type.rank).reshape(-1) * 2.0**-AVERAGE_BITS
    return Affine(((average, factors if q.axis is not None else factors[0]),), np.asarray(0.0))


def _softmax(x: Op, axis: int, mask: Op | None) -> Affine | None:
    """Probabilities of 15-bit exponentials."""
    weights = _exponentials(x, axis, mask, "int16")
    if weights is None:
        return None
    average = Average(Cast(weights, "int32"), Reciprocal(ReduceSum(weights, (axis,))))
    return Affine(((average, np.asarray(2.0**-AVERAGE_BITS)),), np.asarray(0.0))
