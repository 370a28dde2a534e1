"""Integerize: real ops between Dequantize and Quantize become integer ops."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler import fixed_point
from qcompiler.config import QuantizationConfig
from qcompiler.graph import Constant, Op, Rule
from qcompiler.invariants import no_overflow, quantized
from qcompiler.ops import (
    Cast,
    Clip,
    Codes,
    Dequantize,
    Div,
    Divide,
    Pad,
    Quantize,
    Relu,
    Requantize,
)
from qcompiler.passes.affine import Affine, affine
from qcompiler.passes.base import Preserves, RewritePass
from qcompiler.passes.evidence import ConfiguredPass
from qcompiler.passes.functions import shift_gelu
from qcompiler.passes.spec import TABLES, Form, form_of
from qcompiler.passes.tables import function_of, image, to_other_table, to_table
from qcompiler.types import Quantization, TensorType


@dataclass(frozen=True)
class Integerize(ConfiguredPass, RewritePass):
    """Compute with codes: quantize(f(dequantize(q), …)) becomes integers in, integers out.

    Whatever is linear in its operands, with a clamp at the end, is accumulators and one dyadic
    requantization (Jacob et al. 2018, section 2.2; HAWQ-V3, Yao et al. 2021, section 3): products,
    sums, averages, constant factors and terms.  A function of one 8-bit value is a table of 256
    entries.  What only moves or compares elements works on the codes.  What none of this matches
    stays in float between Dequantize and Quantize, still correct, and is reported by name.

    >>> from qcompiler.graph import Graph, Input
    >>> x = Input(TensorType("float32", (1, 4)), name="x")
    >>> codes = Quantize(x, Quantization.per_tensor("uint8", 0.5))
    >>> y = Quantize(Relu(Dequantize(codes)), Quantization.per_tensor("uint8", 0.25))
    >>> print(graph := Graph((x,), {"y": Dequantize(y)}))
    graph(%x: float32[1x4]) {
      %quantize: uint8[1x4]@0.5 = quantize(%x)
      %dequantize: float32[1x4] = dequantize(%quantize)
      %relu: float32[1x4] = relu(%dequantize)
      %quantize_1: uint8[1x4]@0.25 = quantize(%relu)
      %dequantize_1: float32[1x4] = dequantize(%quantize_1)
      return y=%dequantize_1
    }
    >>> print(Integerize()(graph))
    graph(%x: float32[1x4]) {
      %quantize: uint8[1x4]@0.5 = quantize(%x)
      %requantize: uint8[1x4]@0.25 = requantize(%quantize, 536870912, 134217728, shift=28)
      %dequantize: float32[1x4] = dequantize(%requantize)
      return y=%dequantize
    }
    """

    requires = (quantized,)
    ensures = (no_overflow,)
    preserves: ClassVar[Preserves] = "reals"

    def rules(self) -> tuple[Rule, ...]:
        """Codes that nothing changes, then what gives codes or whole numbers, as `spec` says."""
        by_form = functools.partial(to_integers, config=self.configuration)
        return (same_codes, plain_codes, to_other_table, compare_codes, by_form)


def same_codes(node: Op) -> Op | None:
    """quantize(dequantize(q)) of one quantization → q; of a constant → its codes."""
    match node:
        case Quantize(Constant(array=array), quantization):
            codes = fixed_point.quantize(array, quantization)
            return Constant(codes, TensorType(str(codes.dtype), codes.shape, quantization))
        case Quantize(Dequantize(q), quantization) if q.type.quantization == quantization:
            return q
    return None


def plain_codes(node: Op) -> Op | None:
    """The codes of x as integers → those integers, without what they mean."""
    match node:
        case Codes(x, meaning):
            return Cast(Quantize(x, meaning), meaning.bounds.dtype)
    return None


def to_integers(node: Op, config: QuantizationConfig) -> Op | None:
    """quantize(x) → the integers that `form_of` says x is made of."""
    if not isinstance(node, Quantize):
        return None
    form = Form.SUM if isinstance(node.x, Dequantize) else form_of(node.x)
    if form in TABLES and shift_gelu(function_of(node.x)[0], config) is None:
        return to_table(node) or to_scaled_table(node)
    if form is Form.CODES:
        return move_codes(node)
    if form is Form.QUOTIENT:
        return to_divide(node)
    return None if form is None else to_requantize(node, config)


def move_codes(node: Op) -> Op | None:
    """quantize(move(dequantize(q), …)) of one quantization → move(q, …)."""
    match node:
        case Quantize(Pad(Dequantize(q), before, after, value), quantization) if (
            q.type.quantization == quantization
        ):
            code = fixed_point.quantize(np.asarray(value), quantization)
            return Pad(q, before, after, int(code))
        case Quantize(x, quantization) if x.moves:
            return _on_codes(x, x.fields(x.moves), quantization)
    return None


def compare_codes(node: Op) -> Op | None:
    """compare(dequantize(p), dequantize(q)) of one quantization → compare(p, q)."""
    compared = node.fields(node.compares)
    if not compared or not isinstance(compared[0], Dequantize) or node.type.is_float:
        return None
    return _on_codes(node, compared, compared[0].x.type.quantization)


def _on_codes(node: Op, values: tuple[Op, ...], quantization: Quantization | None) -> Op | None:
    """The op on codes instead of the values that they stand for, if all are of one meaning."""
    if quantization is None or quantization.axis is not None:
        return None
    codes: dict[Op, Op] = {x: x.x for x in values if isinstance(x, Dequantize)}
    meanings = {x.type.quantization for x in codes.values()}
    if len(codes) != len(set(values)) or meanings != {quantization}:
        return None
    return node.with_operands(codes.get(x, x) for x in node.operands)


def to_scaled_table(node: Quantize) -> Op | None:
    """quantize(f(dequantize(q))·c + t) → a table of f in 16 bits, and one requantization."""
    f, factor, term = function_of(node.x)
    q, rank = node.quantization, node.type.rank
    most = q.scales(rank) * 2 * max(-q.bounds.low, q.bounds.high) + np.abs(term)
    factors = np.where(factor == 0, np.inf, np.abs(factor)).astype(np.float64)
    between = fixed_point.affine_quantization(*image(f, float((most / factors).max())), "int16")
    table = to_table(Quantize(f, between))
    if table is None:
        return None
    form = Affine(((table, between.scale[0] * factor.astype(np.float64)),), term.astype(np.float64))
    return requantize(form, q, None, None, rank)


def to_divide(node: Quantize) -> Op | None:
    """quantize(dequantize(a) / dequantize(b)) → one integer division."""
    match node:
        case Quantize(Div(Dequantize(a), Dequantize(b)), q) if q.axis is None:
            p, d = (x.type.quantization.scale[0] for x in (a, b) if x.type.quantization)
        case _:
            return None
    ratio = p / (d * q.scale[0])
    # Codes far finer than the quotients are made of coarser ones.
    excess = max(int(np.frexp(ratio)[1]) - 28, 0)
    meaning = q if not excess else Quantization.per_tensor("int32", np.ldexp(q.scale[0], excess))
    ratio = np.ldexp(ratio, -excess)
    shift = int(np.clip(28 - np.frexp(ratio)[1], 0, 42))
    multiplier = max(int(fixed_point.round_half_up(np.ldexp(ratio, shift))), 1)  # or all give 0
    quotient = Divide(a, b, Constant(np.array(multiplier, np.int32)), shift, meaning)
    if not excess:
        return quotient
    form = Affine(((quotient, np.asarray(meaning.scale[0])),), np.asarray(0.0))
    return requantize(form, q, None, None, node.type.rank)


def to_requantize(node: Quantize, config: QuantizationConfig) -> Op | None:
    """quantize(clamp(affine combination)) → accumulators and one requantization."""
    value, low, high = _clamps(node.x)
    form, bounds = affine(value, config), _code_bounds(node.quantization, low, high)
    if form is None or not form.terms or bounds is None:
        return None
    return requantize(form, node.quantization, *bounds, node.type.rank)


def _clamps(value: Op) -> tuple[Op, float, float]:
    """What is clamped, and the bounds of all clamps behind it."""
    low, high = -np.inf, np.inf
    while isinstance(value, (Relu, Clip)):
        lower, upper = (0.0, None) if isinstance(value, Relu) else (value.low, value.high)
        # An outer clamp bounds the inner one's bounds as well.
        if lower is not None:
            low, high = max(low, min(lower, high)), max(high, min(lower, high))
        if upper is not None:
            low, high = min(low, max(upper, low)), min(high, max(upper, low))
        value = value.x
    return value, low, high


def requantize(form: Affine, q: Quantization, low: int | None, high: int | None, rank: int) -> Op:
    """The codes of an affine combination of integers, clamped to codes.

    The multipliers take as many bits as keep every sum below 2^62.  Where not even one bit does,
    sums are divided by what it takes: they saturate at 2^30 steps from zero still, and less is the
    rounding of terms that large.
    """
    scales, zero_points = q.scales(rank), q.zero_points(rank)
    inputs = [x.type.shape for x, _ in form.terms]
    reals = [np.asarray(factor / scales) for _, factor in form.terms]
    constant = np.asarray(form.constant / scales)
    tops = [float(np.abs(r).max(initial=0.0)) for r in reals]
    sums = [top * x.type.magnitude() for top, (x, _) in zip(tops, form.terms, strict=True)]
    largest = sum(sums, float(np.abs(constant).max(initial=0.0)))
    excess = fixed_point.excess(max(tops), largest)
    ratios = _shared([np.ldexp(r, -excess) for r in reals], inputs)
    (constant,) = _shared([np.ldexp(constant, -excess) + zero_points], inputs)
    multipliers, shift = fixed_point.dyadic(
        np.concatenate([r.reshape(-1) for r in ratios]),
        largest=float(np.ldexp(largest, -excess)) + q.bounds.high + 1,
    )
    parts = np.split(multipliers, np.cumsum([r.size for r in ratios])[:-1])
    arrays = [m.reshape(r.shape) for m, r in zip(parts, ratios, strict=True)]
    # The constant takes the zero point along, and one half, so that the shift rounds half up.
    offset = fixed_point.round_half_up(np.ldexp(constant, shift)) + (1 << shift - 1)
    return Requantize(
        tuple(x for x, _ in form.terms),
        tuple(Constant(m.astype(np.int32)) for m in arrays),
        Constant(np.asarray(offset)),
        shift,
        q,
        low,
        high,
    )


def _shared(arrays: list[np.ndarray], shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """The arrays without the axes along which none varies, if `shapes` have these axes.

    Kernels share such numbers between the elements of a vector.
    """
    whole = np.broadcast_shapes(*shapes)
    if np.broadcast_shapes(whole, *(a.shape for a in arrays)) != whole:
        return arrays
    found = []
    for a in arrays:
        for axis in range(a.ndim):
            first = a.take([0], axis)
            a = first if (a == first).all() else a
        found.append(
            a.reshape(a.shape[next((i for i, d in enumerate(a.shape) if d > 1), a.ndim) :])
        )
    return found


def _code_bounds(q: Quantization, low: float, high: float) -> tuple[int | None, int | None] | None:
    """The codes of real bounds, each None where the storage's own bound is as tight.

    None instead of both where the codes differ from channel to channel.
    """
    found: list[int | None] = []
    for bound, tight in ((low, q.bounds.low), (high, q.bounds.high)):
        if np.isinf(bound):
            found.append(None)
            continue
        codes = fixed_point.quantize(np.full(len(q.scale), bound), dataclasses.replace(q, axis=0))
        if (codes == tight).all():
            found.append(None)
        elif (codes == codes[0]).all():
            found.append(int(codes[0]))
        else:
            return None
    lower, upper = found
    return lower, upper
