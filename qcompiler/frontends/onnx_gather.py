"""Importers of operators that look elements up by their indices."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.frontends.onnx_fold import fold, simplified
from qcompiler.frontends.onnx_index import elements, from_front, line, positions, rows
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Constant, Op
from qcompiler.ops import Cast, GreaterEqual, Reshape, Select, Sub, scalar


@importer("Gather")
def gather(node: Node) -> Op:
    """Elements at indices of an axis: a part where they are constant and evenly spaced."""
    x, indices = node.x, node.operand(1)
    axis = node.axis(node.integer("axis"), x.type.rank)
    size, after = x.type.shape[axis], x.type.shape[axis + 1 :]
    indices = from_front(node, indices, size)
    if not isinstance(indices, Constant):
        return rows(x, indices, axis)
    flat = [int(i) for i in indices.array.reshape(-1)]
    step = flat[1] - flat[0] if len(flat) > 1 else 1
    if flat and step >= 1 and flat == list(range(flat[0], flat[-1] + 1, step)):
        part = sliced(x, {axis: (flat[0], flat[-1] + 1, step)})
        return reshaped(part, (*x.type.shape[:axis], *indices.type.shape, *after))
    return rows(x, indices, axis)


@importer("GatherElements", since=11)
def gather_elements(node: Node) -> Op:
    """One element for each index, beside it on the other axes."""
    x, indices = node.x, node.operand(1)
    axis = node.axis(node.integer("axis"), x.type.rank)
    expect_elements(node, x, indices, axis)
    return elements(node, x, from_front(node, indices, x.type.shape[axis]), axis)


def expect_elements(node: Node, x: Op, indices: Op, axis: int) -> None:
    """Refuse indices that have no element beside them.

    Raises:
        ModelError: the shapes do not fit.
    """
    own, shape = indices.type.shape, x.type.shape
    counts = enumerate(zip(own, shape, strict=False))
    if len(own) != len(shape) or any(n > size for i, (n, size) in counts if i != axis):
        raise node.broken(f"expected indices that lie within {x.type}, found {indices.type}")


@importer("GatherND", since=11)
def gather_nd(node: Node) -> Op:
    """Parts of x at tuples of indices, after axes that both have in common."""
    x, indices = node.x, node.operand(1)
    outer, inner, places = tuples(node, x, indices, node.integer("batch_dims"))
    found = line(node, outer, places)
    return rows(reshaped(x, (math.prod(outer), *inner)), found, 0)


def tuples(
    node: Node, x: Op, indices: Op, batches: int = 0
) -> tuple[tuple[int, ...], tuple[int, ...], list[Op]]:
    """The axes of x that tuples of indices [..., depth] name, the others, and a place on each.

    Args:
        node: Whom errors name.
        x: What is indexed.
        indices: The tuples.
        batches: Leading axes that x and the indices have in common, which no index names.

    Raises:
        ModelError: the shapes do not fit, or a constant index is out of range.
    """
    shape, own = x.type.shape, indices.type.shape
    fits = (
        len(own) > batches >= 0
        and shape[:batches] == own[:batches]
        and 1 <= own[-1] <= len(shape) - batches
    )
    if not fits:
        raise node.broken(f"expected tuples of indices within {x.type}, found {indices.type}")
    named = batches + own[-1]
    places: list[Op] = [positions(own[:-1], i) for i in range(batches)]
    for i, size in enumerate(shape[batches:named]):
        index = reshaped(sliced(indices, {len(own) - 1: (i, i + 1, 1)}), own[:-1])
        places.append(from_front(node, simplified(index), size))
    return shape[:named], shape[named:], places


@importer("ReverseSequence", since=10)
def reverse_sequence(node: Node) -> Op:
    """For each batch, the first elements of the time axis in reverse, and the rest as it is."""
    x, lengths = node.x, node.operand(1)
    time, batch = (node.integer(name) for name in ("time_axis", "batch_axis"))
    if sorted((time, batch)) != [0, 1] or x.type.rank < 2:
        raise node.broken(f"expected axes 0 and 1, found time_axis={time}, batch_axis={batch}")
    sizes = x.type.shape[:2]
    if lengths.type.shape != (sizes[batch],):
        raise node.broken(f"expected {sizes[batch]} lengths, found {lengths.type}")
    shape = [1, 1]
    shape[batch] = sizes[batch]
    here = positions(sizes, time)
    last = Sub(Reshape(Cast(lengths, "int64"), tuple(shape)), scalar(1, "int64"))
    place = fold(Select(GreaterEqual(last, here), Sub(last, here), here))
    places: list[Op] = [place, place]
    places[batch] = positions(sizes, batch)
    flat = reshaped(x, (sizes[0] * sizes[1], *x.type.shape[2:]))
    return rows(flat, line(node, sizes, places), 0)


@importer("Compress", since=9)
def compress(node: Node) -> Op:
    """The elements of an axis, or of all in line, for which a constant condition holds."""
    condition, axis = node.known(1, "condition"), node.attributes.get("axis")
    assert condition is not None  # the schema has been checked
    x = reshaped(node.x, (node.x.type.size,)) if axis is None else node.x
    along = 0 if axis is None else node.axis(int(axis), x.type.rank)
    kept = np.flatnonzero(condition)
    if condition.ndim != 1 or (kept.size and kept[-1] >= x.type.shape[along]):
        raise node.broken(f"expected a condition for {x.type.shape[along]} elements")
    if not kept.size:
        raise node.unsupported("a condition that never holds")
    return rows(x, Constant(kept), along)
