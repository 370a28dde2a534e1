"""Importers of operators that write elements to places."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.frontends.onnx_gather import expect_elements, tuples
from qcompiler.frontends.onnx_index import along, elements, from_front, line, positions, rows
from qcompiler.frontends.onnx_logic import selected
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_quotient import floor_modulo
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    And,
    Cast,
    Concat,
    Equal,
    GreaterEqual,
    MatMul,
    Maximum,
    Minimum,
    Reshape,
    Scatter,
    ScatterReduce,
    Sub,
    Transpose,
    scalar,
)
from qcompiler.types import FLOAT

_MOST_COMPARISONS = 1 << 28  # of rows with indices that are known at run time only
_LARGEST_MATRIX = 1 << 22  # elements of the matrix that sums floats


@importer("Scatter", since=9)
@importer("ScatterElements", since=11)
def scatter_elements(node: Node) -> Op:
    """One element written for each index, beside it on the other axes."""
    data, indices, updates = (node.operand(i) for i in range(3))
    axis = node.axis(node.integer("axis"), data.type.rank)
    expect_elements(node, data, indices, axis)
    if updates.type.shape != indices.type.shape:
        raise node.broken(f"expected updates for {indices.type}, found {updates.type}")
    places = along(from_front(node, indices, data.type.shape[axis]), axis)
    found = line(node, data.type.shape, places)
    count = indices.type.size
    result = _written(
        node,
        reshaped(data, (data.type.size,)),
        reshaped(found, (count,)),
        reshaped(updates, (count,)),
    )
    return reshaped(result, data.type.shape)


@importer("ScatterND", since=11)
def scatter_nd(node: Node) -> Op:
    """Parts written at tuples of indices."""
    data, indices, updates = (node.operand(i) for i in range(3))
    outer, inner, places = tuples(node, data, indices)
    if updates.type.shape != (*indices.type.shape[:-1], *inner):
        raise node.broken(f"expected updates for {indices.type}, found {updates.type}")
    found = line(node, outer, places)
    count = math.prod(indices.type.shape[:-1])
    result = _written(
        node,
        reshaped(data, (math.prod(outer), *inner)),
        reshaped(found, (count,)),
        reshaped(updates, (count, *inner)),
    )
    return reshaped(result, data.type.shape)


def _written(node: Node, data: Op, places: Op, updates: Op) -> Op:
    """data [rows, ...] with updates [n, ...] at places [n]: where these are known, by a lookup."""
    if 0 in (*updates.type.shape, *data.type.shape):
        return data
    reduction = node.text("reduction", "none")
    if reduction not in ("none", "add", "mul", "min", "max"):
        raise node.broken(f"reduction: expected none, add, mul, min or max, found {reduction!r}")
    count = data.type.shape[0]
    if reduction == "none" and isinstance(places, Constant):
        source = np.arange(count)
        source[places.array] = count + np.arange(places.type.size)  # of several the last
        return rows(Concat((data, updates), 0), Constant(source), 0)
    matrix = count * places.type.size
    if reduction == "add" and data.type.dtype == FLOAT and matrix <= _LARGEST_MATRIX:
        return Add(data, _summed(count, places, updates))
    if matrix > _MOST_COMPARISONS:
        raise node.unsupported(f"{places.type.size} computed places of {count}")
    if data.type.dtype == "bool":
        if reduction != "none":
            raise node.unsupported("reduction of bools")
        wide = Scatter(Cast(data, "uint8"), places, Cast(updates, "uint8"))
        return Cast(wide, "bool")
    if reduction in ("add", "mul"):
        return ScatterReduce(data, places, updates, reduction)
    return Scatter(data, places, updates, reduction)


def _summed(count: int, places: Op, updates: Op) -> Op:
    """For each of `count` rows the sum of its updates: a product with a matrix of 0 and 1."""
    shape = updates.type.shape
    here = Equal(Reshape(places, (shape[0], 1)), positions((1, count), 1))
    lines = Transpose(reshaped(updates, (shape[0], math.prod(shape[1:]))), (1, 0))
    total = MatMul(lines, Cast(here, FLOAT))
    return reshaped(Transpose(total, (1, 0)), (count, *shape[1:]))


@importer("TensorScatter", since=24)
def tensor_scatter(node: Node) -> Op:
    """A cache [batch, ...] with rows of an axis replaced from an index on that each batch has."""
    cache, update, first = node.x, node.operand(1), node.optional(2)
    shape = cache.type.shape
    axis = node.axis(node.integer("axis"), len(shape))
    size, count = shape[axis], update.type.shape[axis] if update.type.rank == len(shape) else -1
    fits = axis > 0 and update.type.shape == (*shape[:axis], count, *shape[axis + 1 :])
    if not fits or count > size:
        raise node.broken(f"expected an update that fits {cache.type}, found {update.type}")
    if first is None:
        first = Constant(np.zeros(shape[0], np.int64))
    if first.type.shape != shape[:1] or not first.type.is_integer:
        raise node.broken(f"expected {shape[0]} indices, found {first.type}")
    start = Reshape(Cast(first, "int64"), (shape[0], *[1] * (len(shape) - 1)))
    place: Op = Sub(positions(shape, axis), start)  # in the update, for each row of the cache
    if (mode := node.text("mode")) == "circular":
        place = floor_modulo(place, scalar(size, "int64"))
    elif mode != "linear":
        raise node.broken(f"mode: expected linear or circular, found {mode!r}")
    zero, last = scalar(0, "int64"), scalar(count - 1, "int64")
    inside = And(GreaterEqual(place, zero), GreaterEqual(last, place))
    kept = Maximum(Minimum(place, last), zero)
    moved = elements(node, update, Add(kept, Constant(np.zeros(shape, np.int64))), axis)
    return selected(inside, moved, cache)
