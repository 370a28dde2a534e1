"""The part of the TE vocabulary that finds elements and puts them elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from qcompiler.ops.indexing import Written
from qcompiler.ops.sort import ArgExtreme, TopK

Expr = Any
Tensor = Any

_product = te.comm_reducer(lambda x, y: x * y, lambda dtype: tirx.const(1, dtype), name="product")
_COMBINED: dict[str, tuple[Callable[..., Expr], Callable[..., Expr], Callable[[str], Expr]]] = {
    "add": (te.sum, lambda a, b: a + b, lambda dtype: tirx.const(0, dtype)),
    "mul": (_product, lambda a, b: a * b, lambda dtype: tirx.const(1, dtype)),
    "min": (te.min, tirx.min, tirx.max_value),
    "max": (te.max, tirx.max, tirx.min_value),
}
"""Scatter's reduction → over the updates, with the data, and what changes neither."""


def arg_extreme(op: ArgExtreme, x: Tensor, extreme: Callable[..., Expr]) -> Tensor:
    """The first or last index along `op.axis` of what `extreme`, te.max or te.min, finds."""
    size = int(x.shape[op.axis])
    k, other = (te.reduce_axis((0, size), name) for name in ("k", "j"))
    found = te.compute(
        op.type.shape,
        lambda *index: extreme(x(*_at(index, op.axis, k.var)), axis=[k]),
        name="extreme",
    )
    first, missed = (te.max, 0) if op.last else (te.min, size - 1)

    def at(*index: Expr) -> Expr:
        same = x(*_at(index, op.axis, other.var)).equal(found(*index))
        place = tirx.Cast("int64", other.var)
        return first(tirx.Select(same, place, tirx.const(missed, "int64")), axis=[other])

    return te.compute(op.type.shape, at, name="place")


def top_k(op: TopK, x: Tensor) -> Tensor:
    """Indices in order: an element's place is the count of those that come before it."""
    size = int(x.shape[op.axis])
    j, i = (te.reduce_axis((0, size), name) for name in ("j", "i"))

    def rank(*index: Expr) -> Expr:
        own, other = x(*index), x(*_at(index, op.axis, j.var))
        better = other > own if op.largest else other < own
        earlier = tirx.all(other.equal(own), j.var < index[op.axis])
        return te.sum(tirx.any(better, earlier).astype("int32"), axis=[j])

    ranks = te.compute(x.shape, rank, name="rank")

    def at(*index: Expr) -> Expr:
        here = ranks(*_at(index, op.axis, i.var)).equal(index[op.axis])
        place = tirx.Cast("int64", i.var)
        return te.sum(tirx.Select(here, place, tirx.const(0, "int64")), axis=[i])

    return te.compute(op.type.shape, at, name="place")


def scatter(op: Written, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Every row looks for its updates, so that rows can be computed in any order."""
    count, dtype = int(indices.shape[0]), op.type.dtype
    i = te.reduce_axis((0, count), "i")
    if op.reduction == "none":

        def last(row: Expr) -> Expr:
            here = indices[i.var].equal(tirx.Cast("int64", row))
            return te.max(tirx.Select(here, i.var, tirx.const(-1, "int32")), axis=[i])

        found = te.compute((int(data.shape[0]),), last, name="update")

        def written(row: Expr, *inner: Expr) -> Expr:
            update = updates(tirx.max(found[row], tirx.const(0, "int32")), *inner)
            return tirx.Select(found[row] >= 0, update, data(row, *inner))

        return te.compute(op.type.shape, written, name="written")
    reducer, combine, neutral = _COMBINED[op.reduction]

    def total(row: Expr, *inner: Expr) -> Expr:
        here = indices[i.var].equal(tirx.Cast("int64", row))
        return reducer(tirx.Select(here, updates(i.var, *inner), neutral(dtype)), axis=[i])

    totals = te.compute(op.type.shape, total, name="total")
    return te.compute(op.type.shape, lambda *n: combine(data(*n), totals(*n)), name="combined")


def _at(index: tuple[Expr, ...], axis: int, place: Expr) -> list[Expr]:
    """The index with another place on an axis."""
    return [*index[:axis], place, *index[axis + 1 :]]
