"""What a kernel for attention is told: its operands, where they lie, and its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompiler.backends.tvm.kernels.layout import AttentionShape, Layout
from qcompiler.backends.tvm.table import Pointwise, pointwise, scalar_value
from qcompiler.backends.tvm.te import Expr, const
from qcompiler.graph import Constant, Input, Op
from qcompiler.ops import (
    Fused,
    Reciprocal,
    Requantize,
    Skeleton,
    Transpose,
    attention_of,
)
from qcompiler.types import TensorType


@dataclass(frozen=True)
class RecognizedAttention:
    """Attention as one kernel, whatever the target.

    Attributes:
        shape: What is computed where.
        codes: From a score to its code.
        average: From a weighted sum and the reciprocal of its row's total to the result.
        sources: Query, key, value, the mask if there is one, and the table of exponentials uint8
            [256]; the operands of `codes` and of `average` follow as arguments.
    """

    shape: AttentionShape
    codes: Pointwise
    average: Pointwise
    sources: tuple[Op, ...]

    @property
    def arguments(self) -> tuple[Op, ...]:
        """All that a kernel reads."""
        return (*self.sources, *self.codes.leaves, *self.average.leaves)


def recognized_attention(found: Skeleton) -> RecognizedAttention | None:
    """The attention that an op is; None if it is none, or its exponentials are not 8-bit."""
    recognised = attention_of(found.node)
    if recognised is None:
        return None
    assert isinstance(found.node, Fused)
    parts, root = recognised
    query, key, value = parts.scores.x, parts.scores.weight, parts.weighted.weight
    mask, table = parts.exponentials.mask, parts.exponentials.values
    layout, inner = _result(root)
    plain = inner is parts.average or (
        isinstance(inner, Requantize) and inner.operands[0] is parts.average
    )
    masks = () if mask is None else (mask,)
    sources = (*map(_memory, (query, key, value)), *masks)
    known = all(isinstance(x, (Input, Constant)) for x in sources)
    if not plain or not known or table.type.dtype != "uint8":
        return None
    outer: dict[Op, Op] = dict(zip(found.node.region.inputs, found.node.inputs, strict=True))

    def outside(expression: Pointwise) -> Pointwise:
        leaves = tuple(outer.get(x, x) for x in expression.leaves)
        return Pointwise(expression.variables, expression.operands, leaves, expression.root)

    shape = AttentionShape(
        _layout(query),
        _layout(key),
        _layout(value),
        layout,
        query.type.dtype,
        parts.codes.type.dtype,
        root.type.dtype,
        None if mask is None else mask.type.shape,
    )
    return RecognizedAttention(
        shape,
        outside(pointwise(parts.codes, (parts.scores,))),
        outside(pointwise(inner, (parts.weighted, parts.average.reciprocal))),
        tuple(outer.get(x, x) for x in (*sources, table)),
    )


def reciprocal(total: Expr) -> Expr:
    """`Reciprocal` of one element; its constants are no operands."""
    x = Input(TensorType("int32", ()), name="total", sources=())
    found = pointwise(Reciprocal(x), (x,))
    numbers = [const(int(c.array), c.type.dtype) for c in found.leaves if isinstance(c, Constant)]
    elements: dict[Op, Expr] = dict(
        zip((*found.variables, *found.operands), (total, *numbers), strict=True)
    )
    return scalar_value(found.root, elements, {}, ())


def _memory(x: Op) -> Op:
    """What lies in memory of an operand, before the transpose in front of the product."""
    return x.x if isinstance(x, Transpose) else x


def _layout(x: Op) -> Layout:
    straight = tuple(range(x.type.rank))
    return Layout(_memory(x).type.shape, x.permutation if isinstance(x, Transpose) else straight)


def _result(root: Op) -> tuple[Layout, Op]:
    """How the result lies in memory, and the op whose value it is."""
    if not isinstance(root, Transpose):
        return Layout(root.type.shape, tuple(range(root.type.rank))), root
    return Layout(root.type.shape, tuple(int(i) for i in np.argsort(root.permutation))), root.x
