"""Importers of operators that look elements up by their indices."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Constant, Op
from qcompiler.ops import Add, Cast, Equal, Gather, GreaterEqual, Not, Select, scalar


@importer("Gather")
def gather(node: Node) -> Op:
    """Elements at indices of an axis: a part where they are constant and evenly spaced."""
    x, indices = node.x, node.operand(1)
    axis = node.axis(node.integer("axis"), x.type.rank)
    if not indices.type.is_integer:
        raise node.broken(f"expected integer indices, found {indices.type}")
    size, after = x.type.shape[axis], x.type.shape[axis + 1 :]
    if not isinstance(indices, Constant):
        return _rows(x, _from_front(indices, size), axis)
    array = indices.array.astype(np.int64)
    flat = [int(i) + (size if i < 0 else 0) for i in array.reshape(-1)]
    if any(not 0 <= i < size for i in flat):
        raise node.broken(f"expected indices in [0, {size}), found {min(flat)}…{max(flat)}")
    step = flat[1] - flat[0] if len(flat) > 1 else 1
    if flat and step >= 1 and flat == list(range(flat[0], flat[-1] + 1, step)):
        part = sliced(x, {axis: (flat[0], flat[-1] + 1, step)})
        return reshaped(part, (*x.type.shape[:axis], *array.shape, *after))
    return _rows(x, Constant(np.array(flat, np.int64).reshape(array.shape)), axis)


def _from_front(indices: Op, size: int) -> Op:
    """Computed indices as int64, negative ones counted from the end."""
    dtype = indices.type.dtype
    wide = indices if dtype == "int64" else Cast(indices, "int64")
    if dtype.startswith("u"):
        return wide
    zero = scalar(0, "int64")
    return Select(GreaterEqual(wide, zero), wide, Add(wide, scalar(size, "int64")))


def _rows(x: Op, indices: Op, axis: int) -> Op:
    """x's elements at the indices of an axis; bools, of which there are no tables, as numbers."""
    if x.type.dtype != "bool":
        return Gather(x, indices, axis)
    found = Gather(simplified(Cast(x, "uint8")), indices, axis)
    return Not(Equal(found, scalar(0, "uint8")))


@importer("GatherElements", since=11)
def gather_elements(node: Node) -> Op:
    """One element for each index, beside it on the other axes: of constants only."""
    data, indices = node.known(0, "data"), node.known(1, "indices")
    assert data is not None  # the schema has been checked
    assert indices is not None
    axis = node.axis(node.integer("axis"), data.ndim)
    counts = zip(indices.shape, data.shape, strict=False)
    inside = all(n <= size for i, (n, size) in enumerate(counts) if i != axis)
    size = data.shape[axis]
    if indices.ndim != data.ndim or not inside or not ((-size <= indices) & (indices < size)).all():
        raise node.broken(f"expected indices within {node.x.type}, found {node.operand(1).type}")
    part = tuple(slice(None if i == axis else n) for i, n in enumerate(indices.shape))
    return Constant(np.take_along_axis(data[part], indices.astype(np.int64), axis))


@importer("GatherND", since=11)
def gather_nd(node: Node) -> Op:
    """Parts of x at constant tuples of indices."""
    x, indices = node.x, node.known(1, "indices")
    assert indices is not None
    if node.integer("batch_dims"):
        raise node.unsupported("batch_dims")
    depth = indices.shape[-1] if indices.ndim else 0
    outer, inner = x.type.shape[:depth], x.type.shape[depth:]
    fits = 1 <= depth <= x.type.rank and ((-np.array(outer) <= indices) & (indices < outer)).all()
    if not fits:
        raise node.broken(f"expected tuples of indices within {x.type}, found {indices.shape}")
    tuples = np.moveaxis(np.where(indices < 0, indices + outer, indices).astype(np.int64), -1, 0)
    rows = Constant(np.asarray(np.ravel_multi_index(tuple(tuples), outer), np.int64))
    return _rows(reshaped(x, (math.prod(outer), *inner)), rows, 0)
