"""Requantization on vectors: 64-bit products whose high halves are all that is kept.

clamp((Σ x_i·m_i + offset) >> shift) with shift ≥ 32 needs only the upper 32 bits of each sum.  The
products of even and odd lanes are formed apart (``vpmuldq`` multiplies every other lane), their
upper halves become one vector of int32 again, and the rest of the shift, the clamp and the
narrowing work on as many lanes as there were accumulators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tvm.ir.prim.expr import Shuffle
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Epilogue, Expr, TableEnd, Vector
from qcompiler.backends.tvm.table import Pointwise
from qcompiler.graph import Op
from qcompiler.ops import Requantize, Table

_HALF = 32
_SIGN_BIT = -128
_NARROW = ("int8", "uint8", "int16", "uint16", "int32")


def vector_end(end: Pointwise, *, rows: bool = True) -> Epilogue:
    """The end of a kernel, on vectors if it is a requantization and nothing else, or a table.

    Args:
        end: What follows each accumulator.
        rows: Whether channels may have tables of their own; else these are looked up one by one.
    """
    table = _table_end(end)
    if table is not None and table.rows is not None and not rows:
        table = None
    return replace(end.epilogue, vector=on_vectors(end, end.skeleton.root), table=table)


def _table_end(end: Pointwise) -> TableEnd | None:
    """What is looked up, if it ends in a table."""
    table, parts = end.skeleton.root, end.skeleton.parts
    if not isinstance(table, Table) or parts[table.values] not in end.operands:
        return None
    rows, codes = None, _codes_on_vectors(end, table.x)
    if table.rows is not None and parts[table.rows] in end.operands:
        rows = end.operands.index(parts[table.rows])
    elif table.rows is not None:
        codes = None
    index = replace(end, root=parts[table.index]).epilogue.value
    return TableEnd(end.operands.index(parts[table.values]), index, codes, rows)


def _codes_on_vectors(end: Pointwise, code: Op) -> Vector | None:
    """Places of 8-bit codes in a table that begins with the smallest of them."""
    epilogue = on_vectors(end, code)
    if epilogue is None or code.type.dtype not in ("uint8", "int8"):
        return None
    if code.type.dtype == "uint8":
        return epilogue

    def codes(sums: Expr, buffers: list[Expr], place: tuple[Expr, ...], lanes: int) -> Expr:
        flipped = epilogue(sums, buffers, place, lanes) ^ T.broadcast(T.int8(_SIGN_BIT), lanes)
        return T.reinterpret(f"uint8x{lanes}", flipped)

    return codes


def on_vectors(end: Pointwise, code: Op) -> Vector | None:
    """A `Requantize` of what the end knows, on vectors; None for any other op of its skeleton.

    And for shifts below 32, of whose sums upper halves are not enough.
    """
    if not isinstance(code, Requantize) or code.shift < _HALF:
        return None
    parts = end.skeleton.parts
    values, multipliers = ([parts[x] for x in xs] for xs in (code.inputs, code.multipliers))
    offset, amount = parts[code.offset], parts[code.amount]
    known = all(x in (*end.variables, *end.operands) for x in values)
    read = all(x in end.operands for x in (offset, amount, *multipliers))
    if not known or not read or any(x.type.dtype not in _NARROW for x in code.inputs):
        return None

    def epilogue(sums: Expr, buffers: Sequence[Expr], place: tuple[Expr, ...], lanes: int) -> Expr:
        of: dict[Op, Expr] = dict(zip(end.operands, buffers, strict=True))

        def vector(x: Op, dtype: str) -> Expr:
            return load_vector(of[x], place, dtype, lanes) if x in of else sums

        shift = of[amount]
        return requantized(
            code,
            [vector(x, "int32") for x in values],
            [vector(m, "int32") for m in multipliers],
            vector(offset, "int64"),
            T.cast(shift[tuple(0 for _ in shift.shape)], "int32"),
            lanes,
        )

    return epilogue


def load_vector(buffer: Expr, place: tuple[Expr, ...], dtype: str, lanes: int) -> Expr:
    """Neighbouring elements along the last axis as `dtype`, placed as numpy broadcasts them."""
    shape = [int(d) for d in buffer.shape]
    own = place[len(place) - len(shape) :]
    index = [T.int32(0) if d == 1 else i for i, d in zip(own, shape, strict=True)]
    if not shape or shape[-1] == 1:
        loaded = T.broadcast(buffer[tuple(index)], lanes)
    else:
        loaded = buffer[(*index[:-1], T.Ramp(index[-1], 1, lanes))]
    return loaded if str(buffer.dtype) == dtype else T.cast(loaded, f"{dtype}x{lanes}")


def requantized(
    how: Requantize,
    values: Sequence[Expr],
    multipliers: Sequence[Expr],
    offset: Expr,
    shift: Expr,
    lanes: int,
) -> Expr:
    """The codes, a vector.

    Args:
        how: Says their bounds and dtype.
        values: int32 vectors, one for each term.
        multipliers: int32 vectors, likewise.
        offset: int64 vector.
        shift: int32 scalar.
        lanes: Elements of each vector, a multiple of four.
    """
    kind = f"int32x{lanes}"
    sums = []
    for odd in (0, 1):
        total = Shuffle([offset], [T.int32(i) for i in range(odd, lanes, 2)])
        for value, multiplier in zip(values, multipliers, strict=True):
            total = total + _half(value, lanes, odd) * _half(multiplier, lanes, odd)
        sums.append(total)
    halves = [T.reinterpret(kind, x) for x in sums]
    order = [lanes * (i % 2) + i // 2 * 2 + 1 for i in range(lanes)]
    code = Shuffle(halves, [T.int32(i) for i in order])
    code = code >> T.broadcast(shift - _HALF, lanes)
    info, (low, high) = np.iinfo("int32"), how.limits
    if low > info.min:
        code = T.max(code, T.broadcast(T.int32(low), lanes))
    if high < info.max:
        code = T.min(code, T.broadcast(T.int32(high), lanes))
    return T.cast(code, f"{how.type.dtype}x{lanes}")


def _half(vector: Expr, lanes: int, odd: int) -> Expr:
    """Every other int32 lane as int64."""
    wide = T.reinterpret(f"int64x{lanes // 2}", vector)
    amount = T.broadcast(T.int64(_HALF), lanes // 2)
    return (wide if odd else wide << amount) >> amount
