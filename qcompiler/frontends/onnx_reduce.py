"""Importers of reductions over axes that an attribute or, later, an operand names."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qcompiler.frontends.onnx_node import Importer, Node, importer
from qcompiler.frontends.onnx_quotient import absolute, quotient
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    Cast,
    Concat,
    Equal,
    Exp,
    Log,
    Mul,
    Not,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceSum,
    Reshape,
    Sqrt,
    Sub,
    Transpose,
    scalar,
)
from qcompiler.types import FLOAT

Axes = tuple[int, ...]


def reduced_sum(x: Op, axes: Axes) -> Op:
    """The sum over axes, which stay; the sums of integers wrap as the machine's do."""
    if x.type.dtype == FLOAT:
        mean = ReduceMean(x, axes)
        return Mul(mean, scalar(mean.count, FLOAT))
    dtype = "int32" if x.type.dtype == "int32" else "int64"
    total = ReduceSum(x, axes, dtype)
    return total if dtype == x.type.dtype else Cast(total, x.type.dtype)


def _mean(x: Op, axes: Axes) -> Op:
    if x.type.dtype == FLOAT:
        return ReduceMean(x, axes)
    count = math.prod(x.type.shape[i] for i in axes)
    return quotient(reduced_sum(x, axes), scalar(count, x.type.dtype))


def _product(x: Op, axes: Axes) -> Op:
    """Halves multiplied with each other until one element is left."""
    kept = tuple(i for i in range(x.type.rank) if i not in axes)
    count = math.prod(x.type.shape[i] for i in axes)
    shape = tuple(1 if i in axes else d for i, d in enumerate(x.type.shape))
    x = reshaped(Transpose(x, (*kept, *axes)), (x.type.size // count, count))
    while count > 1:
        half = count // 2
        product: Op = Mul(sliced(x, {1: (0, half, 1)}), sliced(x, {1: (half, 2 * half, 1)}))
        if count % 2:
            rest = sliced(x, {1: (count - 1, count, 1)})
            first = Mul(sliced(product, {1: (0, 1, 1)}), rest)
            rows = sliced(product, {1: (1, half, 1)}) if half > 1 else None
            product = first if rows is None else Concat((first, rows), 1)
        x, count = product, half
    return reshaped(x, shape)


def _largest(x: Op, axes: Axes) -> Op:
    return _of_numbers(ReduceMax, x, axes)


def _smallest(x: Op, axes: Axes) -> Op:
    return _of_numbers(ReduceMin, x, axes)


def _of_numbers(reduce: Callable[[Op, Axes], Op], x: Op, axes: Axes) -> Op:
    if x.type.dtype != "bool":
        return reduce(x, axes)
    return Not(Equal(reduce(Cast(x, "uint8"), axes), scalar(0, "uint8")))


def _log_sum_exp(x: Op, axes: Axes) -> Op:
    """log Σ eˣ over axes, which stay; without overflow."""
    largest = ReduceMax(x, axes)
    return Add(largest, Log(reduced_sum(Exp(Sub(x, largest)), axes)))


def _root(x: Op) -> Op:
    return Sqrt(x) if x.type.is_float else Cast(Sqrt(Cast(x, FLOAT)), x.type.dtype)


@dataclass(frozen=True)
class _Reduction:
    """How an operator reduces.

    Attributes:
        over: The reduction over at least one axis.
        of_none: What it makes of single elements, over no axis.
        of_nothing: Its value over no elements, where there is one.
    """

    over: Callable[[Op, Axes], Op]
    of_none: Callable[[Op], Op] = lambda x: x
    of_nothing: int | None = None


def _squares(x: Op, axes: Axes) -> Op:
    return reduced_sum(Mul(x, x), axes)


_REDUCTIONS = {
    "ReduceL1": _Reduction(lambda x, axes: reduced_sum(absolute(x), axes), absolute, 0),
    "ReduceL2": _Reduction(lambda x, axes: _root(_squares(x, axes)), absolute, 0),
    "ReduceLogSum": _Reduction(lambda x, axes: Log(reduced_sum(x, axes)), Log),
    "ReduceLogSumExp": _Reduction(_log_sum_exp),
    "ReduceMax": _Reduction(_largest),
    "ReduceMean": _Reduction(_mean),
    "ReduceMin": _Reduction(_smallest),
    "ReduceProd": _Reduction(_product, of_nothing=1),
    "ReduceSum": _Reduction(reduced_sum, of_nothing=0),
    "ReduceSumSquare": _Reduction(_squares, lambda x: Mul(x, x), 0),
}


def _by_attribute(reduction: _Reduction) -> Importer:
    return lambda node: _reduced(node, reduction, node.integers("axes"))


def _by_operand(reduction: _Reduction) -> Importer:
    def read(node: Node) -> Op:
        axes = node.known_integers(1, "axes") or None
        if axes is None and node.integer("noop_with_empty_axes"):
            return reduction.of_none(node.x)
        return _reduced(node, reduction, axes)

    return read


for _name, _reduction in _REDUCTIONS.items():
    importer(_name)(_by_attribute(_reduction))
    importer(_name, since=13 if _name == "ReduceSum" else 18)(_by_operand(_reduction))


def _reduced(node: Node, reduction: _Reduction, axes: Axes | None) -> Op:
    rank = node.x.type.rank
    reduced = tuple(range(rank)) if not axes else tuple(sorted(node.axes(axes, rank)))
    x = node.x if rank else Reshape(node.x, (1,))
    shape = tuple(1 if i in reduced else d for i, d in enumerate(node.x.type.shape))
    if node.x.type.size == 0 and 0 not in shape:
        if reduction.of_nothing is None:
            raise node.unsupported("an empty operand")
        result: Op = Constant(np.full(shape, reduction.of_nothing, x.type.dtype))
    else:
        result = reduction.over(x, reduced or (0,))
    if node.integer("keepdims") and rank:
        return result
    return reshaped(result, [d for i, d in enumerate(shape) if i not in reduced])
