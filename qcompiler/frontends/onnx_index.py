"""Arithmetic on indices: any lookup is one of rows of a table, or of its elements in line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count

import numpy as np

from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.graph import Constant, Op
from qcompiler.ops import Add, Cast, Equal, Gather, GreaterEqual, Mul, Not, Select, scalar
from qcompiler.types import broadcast

LONGEST_LINE = 1 << 26  # places that an operator may compute: 512 MiB


def from_front(node: Node, indices: Op, size: int) -> Op:
    """Indices of an axis as int64, negative ones counted from its end.

    Raises:
        ModelError: they are no integers, or constant and out of range.
    """
    if not indices.type.is_integer:
        raise node.broken(f"expected integer indices, found {indices.type}")
    if isinstance(indices, Constant):
        array = indices.array.astype(np.int64)
        if ((array < -size) | (array >= size)).any():
            found = f"{array.min()}…{array.max()}"
            raise node.broken(f"expected indices in [{-size}, {size}), found {found}")
        return Constant(np.where(array < 0, array + size, array))
    return wrapped(indices, size)


def wrapped(indices: Op, size: int) -> Op:
    """Integers as int64, `size` added to negative ones."""
    dtype = indices.type.dtype
    wide = indices if dtype == "int64" else simplified(Cast(indices, "int64"))
    if dtype.startswith("u"):
        return wide
    zero = scalar(0, "int64")
    if isinstance(wide, Constant):
        return Constant(np.where(wide.array < 0, wide.array + size, wide.array))
    return Select(GreaterEqual(wide, zero), wide, Add(wide, scalar(size, "int64")))


def positions(shape: Sequence[int], axis: int) -> Constant:
    """0, 1, … along an axis of a shape, the other axes of size 1: int64."""
    sizes = [shape[axis] if i == axis else 1 for i in range(len(shape))]
    return Constant(np.arange(shape[axis]).reshape(sizes))


def line(node: Node, shape: Sequence[int], places: Sequence[Op]) -> Op:
    """Where elements (or parts) are in row-major order: Σ place[i]·stride[i], int64.

    Args:
        node: Whom errors name.
        shape: Of what is indexed.
        places: An index for each axis of the shape; they broadcast.

    Raises:
        UnsupportedError: so many places would not fit in memory.
    """
    size = math.prod(broadcast(*(place.type for place in places)))
    if size > LONGEST_LINE:
        raise node.unsupported(f"{size} computed places")
    total: Op = scalar(0, "int64")
    # Known places first, so that their sum is one constant.
    for place, i in sorted(zip(places, count(), strict=False), key=_is_computed):
        stride = math.prod(shape[i + 1 :])
        total = simplified(Add(simplified(Mul(place, scalar(stride, "int64"))), total))
    return total


def _is_computed(item: tuple[Op, int]) -> bool:
    return not isinstance(item[0], Constant)


def rows(x: Op, indices: Op, axis: int) -> Op:
    """x's elements at the indices of an axis; bools, of which there are no tables, as numbers."""
    if x.type.dtype != "bool":
        return Gather(x, indices, axis)
    found = Gather(simplified(Cast(x, "uint8")), indices, axis)
    return Not(Equal(found, scalar(0, "uint8")))


def along(indices: Op, axis: int) -> list[Op]:
    """Each index's place on every axis, of which it names one: elsewhere it is its own."""
    own = indices.type.shape
    return [indices if i == axis else positions(own, i) for i in range(len(own))]


def elements(node: Node, x: Op, indices: Op, axis: int) -> Op:
    """One element of x for each index of an axis, beside it on the other axes."""
    shape = x.type.shape
    if all(d == 1 for i, d in enumerate(shape) if i != axis):
        flat = rows(reshaped(x, (shape[axis],)), reshaped(indices, (indices.type.size,)), 0)
        return reshaped(flat, indices.type.shape)
    return rows(reshaped(x, (x.type.size,)), line(node, shape, along(indices, axis)), 0)
