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
from qcompiler.invariants import quantized
from qcompiler.ops import (
    Add,
    Cast,
    Clip,
    Codes,
    Dequantize,
    Div,
    Divide,
    Equal,
    Map,
    Mul,
    Pad,
    Quantize,
    Relu,
    Requantize,
    Table,
    scalar,
    table_size,
)
from qcompiler.passes.affine import Affine, affine
from qcompiler.passes.base import Preserves, RewritePass
from qcompiler.passes.evidence import ConfiguredPass
from qcompiler.passes.functions import representatives, shift_gelu
from qcompiler.types import Quantization, TensorType

LARGEST_TABLE = 1 << 20
"""Entries of all tables of a function together."""


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
    preserves: ClassVar[Preserves] = "reals"

    def rules(self) -> tuple[Rule, ...]:
        """Codes that nothing changes, movements and tables before the general affine rule."""
        shift, requantize = (
            functools.partial(rule, config=self.configuration)
            for rule in (to_shift_gelu, to_requantize)
        )
        return (
            same_codes,
            plain_codes,
            move_codes,
            compare_codes,
            shift,
            to_table,
            to_divide,
            requantize,
        )


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


def to_shift_gelu(node: Op, config: QuantizationConfig) -> Op | None:
    """quantize(gelu(dequantize(q))·c + t) → ShiftGELU and a requantization, where it is chosen."""
    match node:
        case Quantize((Map() as f) | Mul((Map() as f), Constant())):
            pass
        case Quantize(Add((Map() as f) | Mul((Map() as f), Constant()), Constant())):
            pass
        case _:
            return None
    return None if shift_gelu(f, config) is None else to_requantize(node, config)


def to_table(node: Op) -> Op | None:
    """quantize(f(dequantize(q))·c + t) of codes → a table, one per kind of channel."""
    match node:
        case Quantize(Add(Mul(Map() as f, Constant(array=c)), Constant(array=t)), q):
            pass
        case Quantize(Mul(Map() as f, Constant(array=c)), q):
            t = np.zeros(())
        case Quantize(Add(Map() as f, Constant(array=t)), q):
            c = np.ones(())
        case Quantize(Map() as f, q):
            c, t = np.ones(()), np.zeros(())
        case Map() if not node.type.is_float:
            return _to_other_table(node)
        case _:
            return None
    if (codes := _tabled(f)) is None or node.type.shape != codes.type.shape:
        return None
    rank, meaning = codes.type.rank, codes.type.quantization
    assert meaning is not None
    # What one table depends on, for every kind of channel.
    parts = (
        meaning.scales(rank),
        meaning.zero_points(rank),
        c,
        t,
        q.scales(rank),
        q.zero_points(rank),
    )
    shape = np.broadcast_shapes(*(np.shape(p) for p in parts))
    columns = [np.broadcast_to(p, shape).reshape(-1).astype(np.float64) for p in parts]
    kinds, which = np.unique(np.stack(columns, 1), axis=0, return_inverse=True)
    one = table_size(codes.type.dtype)
    if len(kinds) * one > LARGEST_TABLE:
        return None
    all_codes = _all_codes(codes)
    tables = [_table(f, all_codes, *kind) for kind in kinds]
    values = np.clip(np.concatenate(tables), q.bounds.low, q.bounds.high).astype(q.bounds.dtype)
    rows = None
    if len(kinds) > 1:
        rows = Constant((one * which).reshape(shape).astype(np.int32))
    return Table(codes, Constant(values), q, rows)


def _to_other_table(f: Map) -> Op | None:
    """f(dequantize(q)) of another dtype than real numbers, such as x > 0 → a table."""
    if (
        (codes := _tabled(f)) is None
        or (q := codes.type.quantization) is None
        or q.axis is not None
    ):
        return None
    reals = (_all_codes(codes) - q.zero_point[0]) * q.scale[0]
    values = f.at(representatives(f, reals, q.scale[0]).astype(np.float32))
    if f.type.dtype != "bool":
        return Table(codes, Constant(values))
    return Equal(Table(codes, Constant(values.astype(np.uint8))), scalar(1, "uint8"))


def _tabled(f: Map) -> Op | None:
    """The codes that a function of them can be looked up for."""
    if not isinstance(f.x, Dequantize):
        return None
    q = f.x.x.type.quantization
    return f.x.x if q is not None and q.bounds.bits <= 16 else None


def _all_codes(codes: Op) -> np.ndarray:
    info = np.iinfo(codes.type.dtype)
    return np.arange(info.min, info.max + 1, dtype=np.int64)


def _table(
    f: Map,
    codes: np.ndarray,
    scale: float,
    zero_point: float,
    factor: float,
    term: float,
    result_scale: float,
    result_zero_point: float,
) -> np.ndarray:
    """The result's code (not yet clamped) for each code of the operand."""
    reals = representatives(f, (codes - zero_point) * scale, scale)
    reals = f.at(reals.astype(np.float32)).astype(np.float64)
    reals = np.nan_to_num(reals, nan=0.0)  # outside its domain
    with np.errstate(over="ignore"):  # to an infinity, which saturates
        steps = np.clip((reals * factor + term) / result_scale, -(2.0**31), 2.0**31)
    return fixed_point.round_half_up(steps) + int(result_zero_point)


def to_divide(node: Op) -> Op | None:
    """quantize(dequantize(a) / dequantize(b)) → one integer division."""
    match node:
        case Quantize(Div(Dequantize(a), Dequantize(b)), q) if q.axis is None:
            pass
        case _:
            return None
    meanings = [x.type.quantization for x in (a, b)]
    if any(m is None or m.axis is not None or m.bounds.bits > 16 for m in meanings):
        return None
    p, d = (m.scale[0] for m in meanings if m is not None)
    ratio = p / (d * q.scale[0])
    if not 2.0**-40 < ratio < 2.0**28:
        return None
    shift = int(np.clip(28 - np.frexp(ratio)[1], 0, 42))
    multiplier = int(fixed_point.round_half_up(np.ldexp(ratio, shift)))
    return Divide(a, b, Constant(np.array(multiplier, np.int32)), shift, q)


def to_requantize(node: Op, config: QuantizationConfig) -> Op | None:
    """quantize(clamp(affine combination)) → accumulators and one requantization."""
    if not isinstance(node, Quantize):
        return None
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
