"""Importers of running sums and products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Constant, Op
from qcompiler.ops import Add, MatMul, Mul, Pad, Reshape, Slice, Transpose
from qcompiler.types import FLOAT

_LARGEST_TRIANGLE = 1024  # elements of an axis whose running sums are one product


@importer("CumSum", since=11)
def cumulative_sum(node: Node) -> Op:
    """Sums of what stands up to each element: floats by a triangular matrix of ones."""
    x, axis = node.x, _axis(node)
    size = x.type.shape[axis]
    if x.type.dtype != FLOAT or size > _LARGEST_TRIANGLE:
        return _running(node, Add, 0)
    ones = np.ones((size, size), FLOAT)
    k = 1 if node.integer("exclusive") else 0
    triangle = np.tril(ones, -k) if node.integer("reverse") else np.triu(ones, k)
    if axis == x.type.rank - 1:
        return _product(x, triangle)
    order = (*(i for i in range(x.type.rank) if i != axis), axis)
    back = tuple(int(i) for i in np.argsort(order))
    return Transpose(_product(Transpose(x, order), triangle), back)


def _product(x: Op, matrix: np.ndarray) -> Op:
    if x.type.rank > 1:
        return MatMul(x, Constant(matrix))
    return Reshape(MatMul(Reshape(x, (1, *x.type.shape)), Constant(matrix)), x.type.shape)


@importer("CumProd", since=26)
def cumulative_product(node: Node) -> Op:
    """Products of what stands up to each element."""
    return _running(node, Mul, 1)


def _axis(node: Node) -> int:
    found = node.known_integers(1, "axis") or ()
    if len(found) != 1:
        raise node.broken(f"expected one axis, found {list(found)}")
    return node.axis(found[0], node.x.type.rank)


def _running(node: Node, combine: Callable[[Op, Op], Op], neutral: int) -> Op:
    """Each element combined with all in front of it, in log₂ n steps (Hillis and Steele 1986)."""
    x, axis = node.x, _axis(node)
    size, back = x.type.shape[axis], bool(node.integer("reverse"))
    if size == 0:
        return x
    if node.integer("exclusive"):
        x = _moved(x, axis, 1, back, neutral)
    step = 1
    while step < size:
        x = combine(x, _moved(x, axis, step, back, neutral))
        step *= 2
    return x


def _moved(x: Op, axis: int, by: int, back: bool, filling: int) -> Op:
    """x moved along an axis by at most its size; what moves out is lost."""
    rank, shape = x.type.rank, x.type.shape
    if by == shape[axis]:
        return Constant(np.full(shape, filling, x.type.dtype))
    starts, stops, none = [0] * rank, list(shape), [0] * rank
    pads = list(none)
    pads[axis] = by
    if back:
        starts[axis] = by
    else:
        stops[axis] -= by
    kept = Slice(x, tuple(starts), tuple(stops), (1,) * rank)
    before, after = (none, pads) if back else (pads, none)
    return Pad(kept, tuple(before), tuple(after), filling)
