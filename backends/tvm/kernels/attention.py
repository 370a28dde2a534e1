"""The kernel table of CPUs for attention: one kernel from query, key and value to the result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.target import Target, codegen

from qcompiler.backends.tvm.kernels.cpu import ISAS, Epilogue, Isa
from qcompiler.backends.tvm.kernels.cpu.attention import Attention as Problem
from qcompiler.backends.tvm.kernels.cpu.attention import Scalars, build_attention
from qcompiler.backends.tvm.kernels.cpu.layout import Layout
from qcompiler.backends.tvm.kernels.cpu.requantize import vector_epilogue
from qcompiler.backends.tvm.table import Anchored, Match, pointwise, scalar_value
from qcompiler.backends.tvm.te import Expr, const, load
from qcompiler.graph import Constant, Input, Op
from qcompiler.ops import (
    Attention,
    Fused,
    Reciprocal,
    Requantize,
    Skeleton,
    Transpose,
    attention_of,
)
from qcompiler.types import TensorType


@dataclass(frozen=True)
class FusedAttention:
    """Attention as `qcompiler.ops.attention` recognises it."""

    name: str = "cpu attention"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel for the best instruction set that multiplies one row at a time."""
        recognised = attention_of(found.node)
        if recognised is None:
            return None
        assert isinstance(found.node, Fused)
        outer: dict[Op, Op] = dict(zip(found.node.region.inputs, found.node.inputs, strict=True))
        parts, root = recognised
        return _match(found, parts, root, outer, _vector_isa(target))


def _vector_isa(target: Target) -> Isa:
    for isa in ISAS:
        has = all(codegen.target_has_features(feature, target) for feature in isa.features)
        if has and isa.pixels == 1:
            return isa
    raise AssertionError("the generic instruction set needs nothing")


def _match(
    found: Skeleton, parts: Attention, root: Op, outer: dict[Op, Op], isa: Isa
) -> Match | None:
    query, key, value = parts.scores.x, parts.scores.weight, parts.weighted.weight
    mask, table = parts.exponentials.mask, parts.exponentials.values
    layout, inner = _result(root)
    plain = inner is parts.average or (
        isinstance(inner, Requantize) and inner.operands[0] is parts.average
    )
    operands = [_memory(x) for x in (query, key, value)]
    if mask is not None:
        operands.append(mask)
    known = all(isinstance(x, (Input, Constant)) for x in operands)
    if not plain or not known or table.type.dtype != "uint8":
        return None
    problem = Problem(
        _layout(query),
        _layout(key),
        _layout(value),
        layout,
        query.type.dtype,
        parts.codes.type.dtype,
        None if mask is None else mask.type.shape,
    )
    codes = pointwise(parts.codes, (parts.scores,))
    average = pointwise(inner, (parts.weighted, parts.average.reciprocal))
    region = Anchored(codes.variables[0], codes.operands, codes.root)
    fed: dict[Op, Op] = dict(zip(codes.operands, codes.leaves, strict=True))
    vector = vector_epilogue(region, fed.__getitem__)
    scalars = Scalars(
        codes=Epilogue(codes.types, parts.codes.type.dtype, region.value, vector),
        mask=load,
        reciprocal=_reciprocal,
        average=lambda total, factor, buffers, index: average.value(
            (total, factor), buffers, index
        ),
        operands=average.types,
        dtype=root.type.dtype,
    )
    arguments = (*operands, table, *codes.leaves, *average.leaves)
    return Match(
        (found.key, isa, vector is None),
        lambda: build_attention(problem, isa, scalars),
        tuple(outer.get(x, x) for x in arguments),
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
    numbers = [const(c.array[()], c.type.dtype) for c in found.leaves if isinstance(c, Constant)]
    elements = dict(zip((*found.variables, *found.operands), (total, *numbers), strict=True))
    return scalar_value(found.root, elements, {}, ())


CPU = (FusedAttention(),)
"""The rules, in order of preference."""
