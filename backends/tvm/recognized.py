"""What kernels are told, whatever the target: products with their constants, and attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from qcompiler.backends.tvm.layout import AttentionShape, Layout
from qcompiler.backends.tvm.problem import Conv2d, Matmul
from qcompiler.backends.tvm.table import Anchored, Pointwise, anchored, pointwise, scalar_value
from qcompiler.backends.tvm.te import Expr, const
from qcompiler.graph import Constant, Input, Op
from qcompiler.ops import (
    ConvInteger,
    MatMulInteger,
    Reciprocal,
    Requantize,
    Skeleton,
    Transpose,
    attention_of,
)
from qcompiler.types import TensorType


@dataclass(frozen=True)
class RecognizedProduct:
    """A convolution or product with constant weights, and what follows element by element.

    Attributes:
        region: The skeleton around it.
        problem: What is computed.
        x: The codes.
        weight: int8, as the op has it.
        bias: int32, zeros where the op has none.
        leaves: What is fed to the skeleton's inputs.
    """

    region: Anchored
    problem: Conv2d | Matmul
    x: Op
    weight: np.ndarray
    bias: np.ndarray
    leaves: Mapping[Op, Op]

    @property
    def operands(self) -> tuple[Op, ...]:
        """What is fed to the operands of the elementwise end."""
        return tuple(self.leaves[operand] for operand in self.region.operands)


def recognized_product(found: Skeleton) -> RecognizedProduct | None:
    """The product that an op is; None for other ops, layouts and computed weights."""
    region = anchored(found, (ConvInteger, MatMulInteger))
    if region is None:
        return None
    leaves: dict[Op, Op] = dict(zip(found.graph.inputs, found.leaves, strict=True))
    x, weight, *bias = (leaves[operand] for operand in region.anchor.operands)
    problem = _problem(region.anchor)
    arrays = [c.array for c in (weight, *bias) if isinstance(c, Constant)]
    if problem is None or len(arrays) != 1 + len(bias):
        return None
    biases = arrays[1] if bias else np.zeros(problem.out_shape[-1], np.int32)
    return RecognizedProduct(region, problem, x, arrays[0], biases, leaves)


def _problem(anchor: Op) -> Conv2d | Matmul | None:
    match anchor:
        case ConvInteger(x=x, weight=weight, window=window, channels_last=True):
            return Conv2d(
                x.type.shape,  # type: ignore[arg-type]  # rank 4
                x.type.dtype,
                weight.type.shape[0],
                window.kernel,
                window.strides,
                window.pads,
                window.dilations,
                anchor.groups,
            )
        case MatMulInteger(x=x, weight=weight) if weight.type.rank == 2:
            return Matmul(x.type.shape, x.type.dtype, weight.type.shape[1])
        case _:
            return None


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
    parts, root = attention_of(found.root), found.root
    if parts is None:
        return None
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
    fed: dict[Op, Op] = dict(zip(found.graph.inputs, found.leaves, strict=True))
    outer: dict[Op, Op] = {x: fed[leaf] for x, leaf in found.parts.items() if isinstance(x, Input)}

    def outside(expression: Pointwise) -> Pointwise:
        leaves = tuple(outer.get(x, x) for x in expression.leaves)
        return replace(expression, leaves=leaves)

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
