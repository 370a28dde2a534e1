"""What kernels are told, whatever the target: products with their constants, and attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qcompiler.backends.tvm.layout import AttentionShape, Layout
from qcompiler.backends.tvm.problem import Conv2d, Matmul
from qcompiler.backends.tvm.table import Pointwise, anchored, pointwise
from qcompiler.backends.tvm.te import Expr, const
from qcompiler.graph import Constant, Input, Op
from qcompiler.ops import (
    Attention,
    Average,
    ConvInteger,
    MatMulInteger,
    Reciprocal,
    Requantize,
    Skeleton,
    Transpose,
)
from qcompiler.types import TensorType


@dataclass(frozen=True)
class RecognizedProduct:
    """A convolution or product with constant weights, and what follows element by element.

    Attributes:
        end: What follows.
        problem: What is computed.
        x: The codes.
        weight: int8, as the op has it.
        bias: int32, zeros where the op has none.
    """

    end: Pointwise
    problem: Conv2d | Matmul
    x: Op
    weight: np.ndarray
    bias: np.ndarray


def recognized_product(found: Skeleton) -> RecognizedProduct | None:
    """The product that an op is; None for other ops, layouts and computed weights."""
    region = anchored(found, (ConvInteger, MatMulInteger))
    if region is None:
        return None
    anchor, end = region
    x, weight, *bias = map(found.fed, anchor.operands)
    problem = _problem(anchor)
    arrays = [c.array for c in (weight, *bias) if isinstance(c, Constant)]
    if problem is None or len(arrays) != 1 + len(bias):
        return None
    biases = arrays[1] if bias else np.zeros(problem.out_shape[-1], np.int32)
    return RecognizedProduct(end, problem, x, arrays[0], biases)


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
    layout, end = _result(found.root)
    match end:
        case Attention() as attention:
            pass
        case Requantize((Attention() as attention,)):
            pass
        case _:
            return None
    query, key, value = attention.query, attention.key, attention.value
    sources = (*map(_memory, (query, key, value)), *attention.fields(("mask", "table")))
    known = all(isinstance(x, (Input, Constant)) for x in (*sources, *attention.terms))
    if not known or attention.table.type.dtype != "uint8":
        return None
    (code,) = attention.region.outputs.values()
    score, *terms = attention.region.inputs
    read: dict[Op, Op] = dict(zip(terms, map(found.fed, attention.terms), strict=True))
    codes = pointwise(code, (score,))
    weighted = Input(TensorType("int32", attention.type.shape), name="weighted", sources=())
    factor = Input(TensorType("int64", (*attention.type.shape[:-1], 1)), name="factor", sources=())
    average: Op = Average(weighted, factor)
    if end is not attention:
        average = end.with_operands((average, *end.operands[1:]))
    shape = AttentionShape(
        _layout(query),
        _layout(key),
        _layout(value),
        layout,
        query.type.dtype,
        code.type.dtype,
        end.type.dtype,
        None if attention.mask is None else attention.mask.type.shape,
    )
    return RecognizedAttention(
        shape,
        replace(codes, leaves=tuple(read.get(x, x) for x in codes.leaves)),
        pointwise(average, (weighted, factor)),
        tuple(map(found.fed, sources)),
    )


def reciprocal(total: Expr) -> Expr:
    """`Reciprocal` of one element; its constants are no operands."""
    x = Input(TensorType("int32", ()), name="total", sources=())
    found = pointwise(Reciprocal(x), (x,))
    numbers = [const(int(c.array), c.type.dtype) for c in found.leaves if isinstance(c, Constant)]
    known = replace(found, variables=(*found.variables, *found.operands), operands=())
    return known.value((total, *numbers), (), ())


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
