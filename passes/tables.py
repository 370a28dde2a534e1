"""Functions of codes as tables of all codes."""

from __future__ import annotations

import numpy as np

from qcompiler import fixed_point
from qcompiler.graph import Constant, Op
from qcompiler.ops import Add, Dequantize, Equal, Map, Mul, Quantize, Table, scalar, table_size
from qcompiler.passes.functions import representatives
from qcompiler.passes.spec import form_of

LARGEST_TABLE = 1 << 20
"""Entries of all tables of a function together."""


def function_of(value: Op) -> tuple[Map, np.ndarray, np.ndarray]:
    """A function with the factor and the term behind it."""
    factor, term = np.ones(()), np.zeros(())
    match value:
        case Add(inner, Constant(array=array)):
            value, term = inner, array
    match value:
        case Mul(inner, Constant(array=array)):
            value, factor = inner, array
    assert isinstance(value, Map)
    return value, factor, term


def image(f: Map, most: float) -> tuple[float, float]:
    """The least and the largest real that a function of codes gives, moved to ±most."""
    codes = f.x.operands[0]
    q = codes.type.quantization
    assert q is not None
    places = [(_all_codes(codes) - z) * s for s, z in set(zip(q.scale, q.zero_point, strict=True))]
    reals = np.nan_to_num(f.at(np.concatenate(places).astype(np.float32)), nan=0.0)
    return float(reals.min().clip(-most, most)), float(reals.max().clip(-most, most))


def to_table(node: Quantize) -> Op | None:
    """quantize(f(dequantize(q))·c + t) of codes → a table, one per kind of channel.

    None where that are too many tables.
    """
    f, c, t = function_of(node.x)
    codes, q = f.x.operands[0], node.quantization
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
    tables = [_table(f, _all_codes(codes), *kind) for kind in kinds]
    values = np.clip(np.concatenate(tables), q.bounds.low, q.bounds.high).astype(q.bounds.dtype)
    rows = None
    if len(kinds) > 1:
        rows = Constant((one * which).reshape(shape).astype(np.int32))
    return Table(codes, Constant(values), q, rows)


def to_other_table(node: Op) -> Op | None:
    """f(dequantize(q)) of another dtype than real numbers, such as x > 0 → a table."""
    match node:
        case Map(Dequantize(codes)) if not node.type.is_float and form_of(node):
            q = codes.type.quantization
        case _:
            return None
    assert q is not None
    reals = (_all_codes(codes) - q.zero_point[0]) * q.scale[0]
    values = node.at(representatives(node, reals, q.scale[0]).astype(np.float32))
    if node.type.dtype != "bool":
        return Table(codes, Constant(values))
    return Equal(Table(codes, Constant(values.astype(np.uint8))), scalar(1, "uint8"))


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
