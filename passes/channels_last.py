"""ChannelsLast: convolutions of codes with their channels innermost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Constant, Graph, Op, Rule
from qcompiler.invariants import channels_last, unfused
from qcompiler.ops import (
    Composite,
    Concat,
    ConvInteger,
    Dequantize,
    Divide,
    Elementwise,
    Gather,
    Lookup,
    MaxPool,
    Pad,
    Quantize,
    ReduceSum,
    Requantize,
    Reshape,
    Slice,
    Table,
    Transpose,
)
from qcompiler.passes.base import Preserves, RewritePass
from qcompiler.passes.canonicalize import drop_identity, merge_movement
from qcompiler.types import TensorType

TO_LAST = (0, 2, 3, 1)
TO_FIRST = (0, 3, 1, 2)


@dataclass(frozen=True)
class ChannelsLast(RewritePass):
    """Give convolutions and pools of codes the layout [n, h, w, c].

    Each gets transposes around it, which move down through elementwise ops until they meet and
    cancel.  A product then reads the codes that it sums side by side, as dot-product instructions
    want them.

    >>> from qcompiler.graph import Input
    >>> from qcompiler.ops import Window
    >>> x = Input(TensorType("uint8", (1, 4, 4, 4)), name="x")
    >>> graph = Graph((x,), {"y": MaxPool(x, Window((2, 2), (2, 2)))})
    >>> print(ChannelsLast()(graph))
    graph(%x: uint8[1x4x4x4]) {
      %transpose: uint8[1x4x4x4] = transpose(%x, permutation=[0, 2, 3, 1])
      %max_pool: uint8[1x2x2x4] = max_pool(%transpose, window=2x2/2x2, channels_last=True)
      %transpose_1: uint8[1x4x2x2] = transpose(%max_pool, permutation=[0, 3, 1, 2])
      return y=%transpose_1
    }
    """

    requires = (unfused,)
    ensures = (channels_last,)
    preserves: ClassVar[Preserves] = "bits"

    def rules(self) -> tuple[Rule, ...]:
        """New layouts, then transposes downwards."""
        return (to_channels_last, sink_transpose, drop_identity, merge_movement)

    def run(self, graph: Graph) -> Graph:
        """Rewrite until nothing changes; a graph in this layout already stays as it is."""
        if not any(channels_last(graph)):
            return graph
        return super().run(graph)


def to_channels_last(node: Op) -> Op | None:
    """op(x) → transpose(op(transpose(x)))."""
    if not isinstance(node, (ConvInteger, MaxPool)) or node.channels_last:
        return None
    last = dataclasses.replace(node, x=Transpose(node.x, TO_LAST), channels_last=True)
    return Transpose(last, TO_FIRST)


def sink_transpose(node: Op) -> Op | None:
    """f(transpose(x), …) → transpose(f(x, …)) for whatever treats all axes alike."""
    permutation = _permutation(node)
    if permutation is None:
        return None
    inverse = tuple(int(i) for i in np.argsort(permutation))
    match node:
        case Pad(x, before, after):
            inner: Op = dataclasses.replace(
                node,
                x=_undone(x, permutation),
                before=_permuted(before, inverse),
                after=_permuted(after, inverse),
            )
        case Slice(x, starts, stops, steps):
            ranges = (_permuted(v, inverse) for v in (starts, stops, steps))
            inner = Slice(_undone(x, permutation), *ranges)
        case Gather(table, Constant() as indices, axis) if indices.type.rank == 1:
            inner = Gather(_undone(table, permutation), indices, permutation[axis])
        case ReduceSum(x, axes):
            inner = ReduceSum(_undone(x, permutation), tuple(permutation[a] for a in axes))
        case Concat(inputs, axis):
            inner = Concat(tuple(_undone(x, permutation) for x in inputs), permutation[axis])
        case Lookup(index, table):
            inner = Lookup(_undone(index, permutation), table)
        case Table(x, rows=rows):
            new_rows = None if rows is None else _undone(rows, permutation)
            inner = dataclasses.replace(node, x=_undone(x, permutation), rows=new_rows)
        case Requantize(quantization=q) | Quantize(quantization=q):
            undone = [_undone(x, permutation) for x in node.operands]
            inner = node.with_operands(undone, quantization=q.transposed(inverse))
        case Dequantize() | Divide() | Elementwise():
            inner = node.with_operands(_undone(x, permutation) for x in node.operands)
        case _:
            return None
    return Transpose(inner, permutation)


def _permutation(node: Op) -> tuple[int, ...] | None:
    """The transpose in front of the op, if all operands have the same or none matters."""
    if isinstance(node, Composite) and not isinstance(
        node, (Requantize, Table, Divide, Quantize, Dequantize)
    ):
        return None
    found = {
        x.permutation if isinstance(x, Transpose) else None
        for x in node.operands
        if not isinstance(x, Constant) and not _is_line(x)
    }
    # All or none: an operand without the transpose would need the opposite one.
    permutation = found.pop() if len(found) == 1 else None
    return permutation if permutation and len(permutation) == node.type.rank else None


def _is_line(x: Op) -> bool:
    """Whether at most one axis is longer than 1: any transpose of it is a reshape."""
    return sum(d != 1 for d in x.type.shape) <= 1


def _permuted(values: tuple[int, ...], inverse: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(values[i] for i in inverse)


def _undone(x: Op, permutation: tuple[int, ...]) -> Op:
    """The operand before the transpose; constants are transposed now, values later."""
    inverse, q = tuple(int(i) for i in np.argsort(permutation)), x.type.quantization
    if isinstance(x, Transpose) and x.permutation == permutation:
        return x.x
    if x.type.rank and not isinstance(x, Constant) and _is_line(x):
        shape = (1,) * (len(permutation) - x.type.rank) + x.type.shape
        return Reshape(x, tuple(shape[i] for i in inverse))
    if x.type.rank == 0 or (isinstance(x, Constant) and x.is_scalar and q is None):
        return x
    if isinstance(x, Constant):
        missing = len(permutation) - x.type.rank
        full = x.array.reshape((1,) * missing + x.array.shape)
        array = np.ascontiguousarray(full.transpose(inverse))
        if q is None:
            return Constant(array)
        if q.axis is not None:
            q = dataclasses.replace(q, axis=q.axis + missing).transposed(inverse)
        return Constant(array, TensorType(x.type.dtype, array.shape, q))
    return Transpose(x, inverse)
