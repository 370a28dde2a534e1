"""Importers of reductions over axes that an attribute or, later, an operand names."""

from __future__ import annotations

import math
from collections.abc import Callable

from qcompiler.frontends.onnx_node import Importer, Node, importer
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.graph import Op
from qcompiler.ops import MaxPool, Mul, ReduceMean, Reshape, Sqrt, Transpose, Window, scalar
from qcompiler.types import FLOAT

Axes = tuple[int, ...]


def _sum(x: Op, axes: Axes) -> Op:
    mean = ReduceMean(x, axes)
    return Mul(mean, scalar(mean.count, FLOAT))


def _largest(x: Op, axes: Axes) -> Op:
    kept = tuple(i for i in range(x.type.rank) if i not in axes)
    behind = x if axes == tuple(range(len(kept), x.type.rank)) else Transpose(x, (*kept, *axes))
    count = math.prod(x.type.shape[i] for i in axes)
    pooled = MaxPool(Reshape(behind, (1, x.type.size // count, count, 1)), Window((count, 1)))
    return Reshape(pooled, tuple(1 if i in axes else d for i, d in enumerate(x.type.shape)))


_REDUCTIONS: dict[str, Callable[[Op, Axes], Op]] = {
    "ReduceL2": lambda x, axes: Sqrt(_sum(Mul(x, x), axes)),
    "ReduceMax": _largest,
    "ReduceMean": ReduceMean,
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda x, axes: _sum(Mul(x, x), axes),
}


def _by_attribute(reduce: Callable[[Op, Axes], Op]) -> Importer:
    return lambda node: _reduced(node, reduce, node.integers("axes"))


def _by_operand(reduce: Callable[[Op, Axes], Op]) -> Importer:
    def read(node: Node) -> Op:
        axes = node.known_integers(1, "axes") or None
        if axes is None and node.integer("noop_with_empty_axes"):
            if node.op_type in ("ReduceL2", "ReduceSumSquare"):  # the definition has changed
                raise node.unsupported("noop_with_empty_axes and no axes")
            return node.x
        return _reduced(node, reduce, axes)

    return read


for _name, _reduce in _REDUCTIONS.items():
    importer(_name)(_by_attribute(_reduce))
    importer(_name, since=13 if _name == "ReduceSum" else 18)(_by_operand(_reduce))


def _reduced(node: Node, reduce: Callable[[Op, Axes], Op], axes: Axes | None) -> Op:
    rank = node.x.type.rank
    reduced = tuple(range(rank)) if not axes else tuple(sorted(node.axes(axes, rank)))
    x = node.x if rank else Reshape(node.x, (1,))
    result = reduce(x, reduced or (0,))
    if node.integer("keepdims") and rank:
        return result
    return reshaped(result, [d for i, d in enumerate(node.x.type.shape) if i not in reduced])
