"""The rule for attention: what of the recognised ops becomes what of the kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.target import Target

from qcompiler.backends.tvm.kernels.cpu.layout import Layout
from qcompiler.backends.tvm.table import Match, pointwise, scalar_value
from qcompiler.backends.tvm.te import const
from qcompiler.graph import Constant, Input, Op
from qcompiler.ops import Fused, Reciprocal, Requantize, Skeleton, Transpose, attention_of
from qcompiler.types import TensorType

from .attention import build_attention
from .attention_plan import Attention, Scalars, attention_plan
from .instructions import Expr
from .plan import generation


@dataclass(frozen=True)
class FusedAttention:
    """Attention as `qcompiler.ops.attention` recognises it."""

    name: str = "cuda attention"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """One launch; None if a head's keys do not fit shared memory."""
        recognised = attention_of(found.node)
        oldest = generation(target)
        if recognised is None or oldest is None:
            return None
        assert isinstance(found.node, Fused)
        parts, root = recognised
        query, key, value = parts.scores.x, parts.scores.weight, parts.weighted.weight
        mask, table = parts.exponentials.mask, parts.exponentials.values
        layout, inner = _result(root)
        plain = inner is parts.average or (
            isinstance(inner, Requantize) and inner.operands[0] is parts.average
        )
        sources = [_memory(x) for x in (query, key, value)] + ([] if mask is None else [mask])
        known = all(isinstance(x, (Input, Constant)) for x in sources)
        if not plain or not known or table.type.dtype != "uint8":
            return None
        codes = pointwise(parts.codes, (parts.scores,))
        average = pointwise(inner, (parts.weighted, parts.average.reciprocal))
        problem = Attention(
            _layout(query),
            _layout(key),
            _layout(value),
            layout,
            query.type.dtype,
            parts.codes.type.dtype,
            root.type.dtype,
            None if mask is None else mask.type.shape,
            (codes.types, average.types),
        )
        plan = attention_plan(problem, oldest)
        if plan is None:
            return None
        scalars = Scalars(
            code=lambda score, buffers, index: codes.value((score,), buffers, index),
            reciprocal=_reciprocal,
            average=lambda total, factor, buffers, index: average.value(
                (total, factor), buffers, index
            ),
        )
        outer = dict(zip(found.node.region.inputs, found.node.inputs, strict=True))
        arguments = (*sources, table, *codes.leaves, *average.leaves)
        return Match(
            (found.key, oldest),
            lambda: build_attention(problem, plan, oldest, scalars),
            tuple(outer.get(x, x) if isinstance(x, Input) else x for x in arguments),
        )


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


def _reciprocal(total: Expr) -> Expr:
    """`Reciprocal` of one element; its constants are no operands."""
    x = Input(TensorType("int32", ()), name="total", sources=())
    found = pointwise(Reciprocal(x), (x,))
    numbers = [const(int(c.array), c.type.dtype) for c in found.leaves if isinstance(c, Constant)]
    elements: dict[Op, Expr] = dict(
        zip((*found.variables, *found.operands), (total, *numbers), strict=True)
    )
    return scalar_value(found.root, elements, {}, ())
