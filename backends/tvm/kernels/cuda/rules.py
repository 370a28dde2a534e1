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

from .build import build_product, pack_product


def architecture(target: Target) -> int:
    """The number of the oldest architecture that the target's code must run on: 75, 80, …"""
    return int(str(target.attrs["arch"]).removeprefix("sm_").rstrip("af"))


@dataclass(frozen=True)
class Products:
    """ConvInteger (channels last) and MatMulInteger with constant weights, and what follows."""

    name: str = "cuda product"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A tensor core kernel; None for groups, layouts and weights that it has no form for."""
        region = anchored(found, (ConvInteger, MatMulInteger))
        if region is None:
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
            (found.key, architecture(target)),
            _builder(region, problem, architecture(target)),
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


CUDA = (Products(),)
"""The rules, in order of preference."""
