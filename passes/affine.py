"""Affine forms: real expressions as Σ integer·factor + constant."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qcompiler import fixed_point
from qcompiler.config import QuantizationConfig
from qcompiler.errors import UnprovedError
from qcompiler.graph import Constant, Op
from qcompiler.interval import Interval
from qcompiler.invariants import proved
from qcompiler.ops import (
    Add,
    Average,
    AveragePool,
    Cast,
    Clip,
    Conv,
    ConvInteger,
    Dequantize,
    Expand,
    Map,
    MatMul,
    MatMulInteger,
    Mul,
    Normalize,
    Pad,
    Reciprocal,
    ReduceMean,
    ReduceSum,
    Requantize,
    Reshape,
    Slice,
    Softmax,
    Sub,
    Window,
    scalar,
)
from qcompiler.ops.integer import INT32_MAX
from qcompiler.ops.softmax import AVERAGE_BITS
from qcompiler.passes.functions import normal, probabilities, shift_gelu, weights
from qcompiler.types import Quantization, TensorType, machine_limits

Term = tuple[Op, np.ndarray]
WHOLE_LIMIT = 1 << 30


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


def affine(value: Op, config: QuantizationConfig) -> Affine | None:
    """The affine form of a real value whose leaves are dequantized codes, as `form_of` found it.

    Zero points end up in biases and constants: real = s·(q − z) (Jacob et al. 2018, eq. 1).  The
    configuration chooses the forms of softmax, GELU and normalization.  What sums up too much for
    32 bits has no form (None), but for products with constants, which become several sums.
    """
    try:
        return _affine(value, config)
    except UnprovedError:
        return None


def _affine(value: Op, config: QuantizationConfig) -> Affine:
    match value:
        case Constant(array=c):
            return Affine((), c.astype(np.float64))
        case Dequantize(q):
            return _codes(q)
        case Cast(x):
            return _whole(x)
        case Add(a, b):
            return _affine(a, config).plus(_affine(b, config))
        case Sub(a, b):
            return _affine(a, config).plus(_affine(b, config).scaled(np.array(-1.0)))
        case Mul(a, Constant(array=c)):
            return _affine(a, config).scaled(c.astype(np.float64))
        case Mul(Dequantize(a), Dequantize(b)):
            return _product(a, b)
        case Conv(Dequantize(x), Dequantize(Constant() as w), bias):
            return _by_halves(functools.partial(_conv, value, w), x, bias)
        case MatMul(Softmax(Dequantize(x)) as softmax, Dequantize(v)):
            return _attend(weights(softmax, x, config), v)
        case MatMul(Dequantize(x), Dequantize(w), bias):
            return _by_halves(functools.partial(_product_in_parts, w), x, bias)
        case ReduceMean(Dequantize(x), axes):
            return _mean(value, x, axes)
        case AveragePool(Dequantize(x), window):
            return _average(value, x, window)
        case Normalize(Dequantize(x)):
            return _single(*normal(value, x, config))
        case Softmax(Dequantize(x)):
            return _single(*probabilities(value, x, config))
        case Map() if (gelu := shift_gelu(value, config)) is not None:
            return Affine(((gelu, gelu.quantization.scales(gelu.type.rank)),), np.asarray(0.0))
    raise NotImplementedError(f"{value.label()}: an affine form")


def _quantization(q: Op) -> Quantization:
    assert q.type.quantization is not None
    return q.type.quantization


def _codes(q: Op) -> Affine:
    scales = _quantization(q).scales(q.type.rank)
    zero_points = _quantization(q).zero_points(q.type.rank)
    return Affine(((q, scales),), -scales * zero_points)


def _whole(x: Op) -> Affine:
    """Whole numbers and truth values are integers already; what is beyond ±2^30 is moved there."""
    if x.type.dtype == "int64":
        x = Clip(x, -WHOLE_LIMIT, WHOLE_LIMIT)
    return Affine(((Cast(x, "int32"), np.asarray(1.0)),), np.asarray(0.0))


def _product(a: Op, b: Op) -> Affine:
    """s_a·s_b·(q_a − z_a)·(q_b − z_b)."""
    factors = []
    for x in (a, b):
        code: Op = Cast(x, "int32")
        if z := _quantization(x).zero_point[0]:
            code = Add(code, scalar(-z, "int32"))
        factors.append(code)
    scale = np.asarray(_quantization(a).scale[0] * _quantization(b).scale[0])
    return Affine(((proved(Mul(*factors)), scale),), np.asarray(0))


def _by_halves(product: Callable[[Op, Op | None], Affine], x: Op, bias: Op | None) -> Affine:
    """A product with 16-bit codes: 256 times that of their upper bytes, and that of the lower."""
    if _quantization(x).bounds.bits <= 8:
        return product(x, bias)
    scale = _quantization(x).scale[0]
    upper = Requantize(
        (x,), (scalar(1 << 16, "int32"),), scalar(0, "int64"), 24,
        Quantization.per_tensor("int8", 256 * scale),
    )  # fmt: skip
    factors = (scalar(1 << 16, "int32"), scalar(-(1 << 24), "int32"))
    meaning = Quantization.per_tensor("uint8", scale)
    lower = Requantize((x, upper), factors, scalar(0, "int64"), 16, meaning)
    form = product(upper, None).plus(product(lower, None))
    if not isinstance(bias, Constant):
        return form
    channels = form.terms[0][1].shape
    return form.plus(Affine((), bias.array.astype(np.float64).reshape(channels)))


def _conv(conv: Conv, w: Constant, x: Op, bias: Op | None) -> Affine:
    zero_point, window = _quantization(x).zero_point[0], conv.window
    if zero_point and any(window.pads):  # padding is real 0, which is not code 0
        top, left, bottom, right = window.pads
        x = Pad(x, (0, 0, top, left), (0, 0, bottom, right), zero_point)
        window = Window(window.kernel, window.strides, dilations=window.dilations)
    channels, channel = w.type.shape[0], (-1, 1, 1)
    meaning = _quantization(w)
    offsets = np.broadcast_to(meaning.zero_points(4).reshape(-1), (channels,))
    scales = np.broadcast_to(meaning.scales(4).reshape(-1), (channels,)) * _quantization(x).scale[0]
    steps = w.array.astype(np.int64) - offsets[:, None, None, None]
    codes, rest = _bias(bias, scales, steps.sum(axis=(1, 2, 3)), zero_point)
    term = proved(ConvInteger(x, w, codes, window, conv.groups))
    form = Affine(((term, scales.reshape(channel)),), rest.reshape(channel))
    if not offsets.any():
        return form
    # What the zero points of the weights add depends on x: z_w·Σx over each window of a group.
    ones = np.ones((conv.groups, *w.type.shape[1:]), np.int8)
    sums = proved(ConvInteger(x, Constant(ones), None, window, conv.groups))
    if 1 < conv.groups < channels:  # one sum for several channels
        n, _, rows, columns = sums.type.shape
        inner = channels // conv.groups
        spread = Expand(
            Reshape(sums, (n, conv.groups, 1, rows, columns)),
            (n, conv.groups, inner, rows, columns),
        )
        sums = Reshape(spread, (n, channels, rows, columns))
    return form.plus(Affine(((sums, -(offsets * scales).reshape(channel)),), np.asarray(0.0)))


def _product_in_parts(w: Op, x: Op, bias: Op | None) -> Affine:
    """`_matmul`, its terms in as many accumulators as it takes to keep them within int32."""
    try:
        return _matmul(x, w, bias)
    except UnprovedError:
        if not isinstance(w, Constant) or w.type.rank != 2:
            raise
    size, lead = w.type.shape[0], x.type.shape[:-1]
    forms: list[Affine] = []
    for start, stop in ((0, size // 2), (size // 2, size)):
        rows = w.array[start:stop]
        kind = TensorType(w.type.dtype, rows.shape, w.type.quantization)
        starts, stops = (*(0 for _ in lead), start), (*lead, stop)
        part = Slice(x, starts, stops, (1,) * x.type.rank)
        forms.append(_product_in_parts(Constant(rows, kind), part, None if start else bias))
    return forms[0].plus(forms[1])


def _matmul(x: Op, w: Op, bias: Op | None) -> Affine:
    zero_point, meaning = _quantization(x).zero_point[0], _quantization(w)
    rank, channels = w.type.rank, (w.type.shape[-1],)
    scales = np.broadcast_to(_quantization(x).scale[0] * meaning.scales(rank).reshape(-1), channels)
    offsets = np.broadcast_to(meaning.zero_points(rank).reshape(-1), channels)
    if isinstance(w, Constant) and rank == 2:
        steps = w.array.astype(np.int64) - offsets
        codes, rest = _bias(bias, scales, steps.sum(axis=0), zero_point)
        form = Affine(((proved(MatMulInteger(x, w, codes)), scales),), rest)
    else:
        codes, rest = _bias(bias, scales, np.zeros(channels, np.int64), 0)
        form = Affine(((proved(MatMulInteger(x, w, codes)), scales),), rest)
        form = form.plus(_column_sums(w, scales, offsets, zero_point))
    if offsets.any():  # z_w·Σx
        total = proved(ReduceSum(x, (x.type.rank - 1,)))
        form = form.plus(Affine(((total, -offsets * scales),), np.asarray(0.0)))
    return form


def _column_sums(w: Op, scales: np.ndarray, offsets: np.ndarray, zero_point: int) -> Affine:
    """What the zero point of x adds, which depends on the other factor: −z_x·Σ(w − z_w)."""
    length = w.type.shape[-2]
    constant = zero_point * length * offsets * scales
    if not zero_point:
        return Affine((), np.asarray(0.0))
    if isinstance(w, Constant):
        sums = w.array.astype(np.float64).sum(axis=-2, keepdims=True)
        return Affine((), constant - zero_point * scales * sums)
    total = proved(ReduceSum(w, (w.type.rank - 2,)))
    return Affine(((total, -zero_point * scales),), constant)


def _bias(
    bias: Op | None, scales: np.ndarray, sums: np.ndarray, zero_point: int
) -> tuple[Constant | None, np.ndarray]:
    """An int32 bias b/(s_x·s_w) − z_x·Σw, and the real rest that its rounding leaves."""
    reals = np.zeros(len(sums))
    if isinstance(bias, Constant):
        reals = bias.array.astype(np.float64)
    steps = reals / scales
    steps[np.abs(steps) > INT32_MAX // 4] = 0  # all of it to the rest: room for the products
    codes = fixed_point.round_half_up(steps)
    total = codes - zero_point * sums
    if not Interval.of(total) <= machine_limits("int32"):
        raise UnprovedError(f"expected a bias within int32, found {Interval.of(total)}")
    rest = reals - codes * scales
    return (Constant(total.astype(np.int32)) if total.any() else None), rest


def _mean(value: ReduceMean, x: Op, axes: tuple[int, ...]) -> Affine:
    q = _quantization(x)
    factor = np.asarray(q.scale[0] / value.count)
    constant = np.asarray(-q.scale[0] * q.zero_point[0])
    return Affine(((proved(ReduceSum(x, axes)), factor),), constant)


def _average(value: AveragePool, x: Op, window: Window) -> Affine:
    """A depthwise convolution with ones; the padding adds nothing, and is not counted."""
    q, channels = _quantization(x), x.type.shape[1]
    ones = Constant(np.ones((channels, 1, *window.kernel), np.int8))
    total = proved(ConvInteger(x, ones, None, window, channels))
    factor = q.scale[0] / value.counts().astype(np.float64)
    return Affine(((total, factor),), np.asarray(-q.scale[0] * q.zero_point[0]))


def _single(term: Op, factor: float) -> Affine:
    return Affine(((proved(term), np.asarray(factor)),), np.asarray(0.0))


def _attend(weights: Op, v: Op) -> Affine:
    """softmax(x) @ v with unnormalised weights, each row divided by its sum afterwards.

    So a zero point of v is the same one of its average.
    """
    q, rank = _quantization(v), v.type.rank
    reciprocal = Reciprocal(ReduceSum(weights, (weights.type.rank - 1,)))
    average = proved(Average(MatMulInteger(weights, v), reciprocal))
    scales, zero_points = (
        a.reshape(-1) if q.axis else a for a in (q.scales(rank), q.zero_points(rank))
    )
    return Affine(((average, scales * 2.0**-AVERAGE_BITS),), -scales * zero_points)
