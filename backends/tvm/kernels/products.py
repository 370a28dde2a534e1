"""The kernel table of CPUs: convolutions and products with constant int8 weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.target import Target, codegen

from qcompiler.backends.tvm.kernels.cpu import (
    ISAS,
    Conv2d,
    Cut,
    Epilogue,
    Isa,
    Matmul,
    build,
    pack,
)
from qcompiler.backends.tvm.kernels.cpu.requantize import table_rows, vector_codes, vector_epilogue
from qcompiler.backends.tvm.table import Match, anchored
from qcompiler.graph import Constant, Op
from qcompiler.ops import ConvInteger, MatMulInteger, Skeleton

Choose = Callable[[Conv2d | Matmul, Isa, Epilogue], Cut | None]
"""Which of `kernels.cpu.cuts` a product gets; None leaves it to the cost model."""


@dataclass(frozen=True)
class Products:
    """ConvInteger (channels last) and MatMulInteger, with what follows element by element."""

    name: str = "cpu product"
    choose: Choose | None = None

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel of `kernels.cpu` for the best instruction set of the target."""
        region = anchored(found, (ConvInteger, MatMulInteger))
        if region is None:
            return None
        leaves: dict[Op, Op] = dict(zip(found.graph.inputs, found.leaves, strict=True))
        x, weight, *bias = (leaves[operand] for operand in region.anchor.operands)
        problem = _problem(region.anchor)
        if problem is None or not all(isinstance(c, Constant) for c in (weight, *bias)):
            return None
        isa = best_isa(target)
        operands = tuple(leaves[operand] for operand in region.operands)
        types = tuple((o.type.shape, o.type.dtype) for o in region.operands)
        vector = vector_epilogue(region, leaves.__getitem__)
        codes = vector_codes(region, leaves.__getitem__)
        rows = table_rows(region)
        epilogue = Epilogue(types, region.root.type.dtype, region.value, vector, codes, rows)
        cut = None if self.choose is None else self.choose(problem, isa, epilogue)
        packed = _packed(problem, isa, weight, bias, cut)
        return Match(
            (found.key, isa, vector is None, codes is None, cut),
            lambda: build(problem, isa, epilogue, cut=cut),
            (x, *packed, *operands),
        )


def best_isa(target: Target) -> Isa:
    """The fastest instruction set that the target has."""
    for isa in ISAS:
        if all(codegen.target_has_features(feature, target) for feature in isa.features):
            return isa
    raise AssertionError("the generic instruction set needs nothing")


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


def _packed(
    problem: Conv2d | Matmul, isa: Isa, weight: Op, bias: list[Op], cut: Cut | None
) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(weight, Constant)
    values = np.zeros(problem.out_shape[-1], np.int32)
    if bias:
        assert isinstance(bias[0], Constant)
        values = bias[0].array
    return pack(problem, isa, weight.array, values, cut)


CPU = (Products(),)
"""The rules, in order of preference."""
