"""The kernel table of CUDA targets: which ops have a kernel here, and its arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.target import Target
from tvm.tirx import PrimFunc

from qcompiler.backends.tvm.kernels.cpu import Conv2d, Epilogue, Matmul
from qcompiler.backends.tvm.table import Anchored, Match, anchored
from qcompiler.graph import Constant, Op
from qcompiler.ops import ConvInteger, MatMulInteger, Skeleton

from .attention_rule import FusedAttention
from .build import build_product, pack_product
from .plan import generation
from .rows import build_rows, row_plan


@dataclass(frozen=True)
class Products:
    """ConvInteger (channels last) and MatMulInteger with constant weights, and what follows."""

    name: str = "cuda product"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A tensor core kernel; None for groups, layouts and weights that it has no form for."""
        region = anchored(found, (ConvInteger, MatMulInteger))
        oldest = generation(target)
        if region is None or oldest is None:
            return None
        leaves: dict[Op, Op] = dict(zip(found.graph.inputs, found.leaves, strict=True))
        x, weight, *bias = (leaves[operand] for operand in region.anchor.operands)
        problem = _problem(region.anchor)
        if problem is None or not all(isinstance(c, Constant) for c in (weight, *bias)):
            return None
        assert isinstance(weight, Constant)
        values = np.zeros(problem.out_shape[-1], np.int32)
        if bias:
            assert isinstance(bias[0], Constant)
            values = bias[0].array
        operands = tuple(leaves[operand] for operand in region.operands)
        return Match(
            (found.key, oldest),
            _builder(region, problem, oldest),
            (x, pack_product(problem, weight.array), values, *operands),
        )


def _problem(anchor: Op) -> Conv2d | Matmul | None:
    match anchor:
        case ConvInteger(x=x, weight=weight, window=window, channels_last=True, groups=1):
            return Conv2d(
                x.type.shape,  # type: ignore[arg-type]  # rank 4
                x.type.dtype,
                weight.type.shape[0],
                window.kernel,
                window.strides,
                window.pads,
                window.dilations,
            )
        case MatMulInteger(x=x, weight=weight) if weight.type.rank == 2:
            return Matmul(x.type.shape, x.type.dtype, weight.type.shape[1])
        case _:
            return None


def _builder(region: Anchored, problem: Conv2d | Matmul, target: int) -> Callable[[], PrimFunc]:
    types = tuple((x.type.shape, x.type.dtype) for x in region.operands)
    epilogue = Epilogue(types, region.root.type.dtype, region.value)
    return lambda: build_product(problem, target, epilogue)


@dataclass(frozen=True)
class Rows:
    """Reductions of the last axis with all that is elementwise before and behind them."""

    name: str = "cuda rows"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel with one or more warps per row."""
        plan = row_plan(found.graph)
        if plan is None:
            return None
        leaves = dict(zip(found.graph.inputs, found.leaves, strict=True))
        numbers: dict[Op, int] = {}
        for x, leaf in leaves.items():
            if isinstance(leaf, Constant) and leaf.array.ndim == 0 and _is_simple(leaf.array):
                numbers[x] = int(leaf.array)
        return Match(
            (found.key, tuple(numbers.get(x) for x in leaves)),
            lambda: build_rows(found.graph, plan, numbers),
            tuple(leaf for x, leaf in leaves.items() if x not in numbers),
        )


def _is_simple(number: np.ndarray) -> bool:
    """Whether a number is likely the same in many layers, so that it may go into the code.

    Shifts and what fixed-point bodies are made of, 2^k, 2^k − 1 and 3·2^k, are; the numbers of one
    layer, such as ε, stay arguments, or each layer would have a kernel of its own.
    """
    size = abs(int(number))
    odd = size // (size & -size) if size else 0
    return size <= 64 or odd in (1, 3) or size & (size + 1) == 0


CUDA = (FusedAttention(), Products(), Rows())
"""The rules, in order of preference."""
