"""The kernel table of CPUs: depthwise convolutions, ahead of the general ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.target import Target, codegen

from qcompiler.backends.tvm.kernels.cpu import ISAS, Conv2d, Epilogue, Isa
from qcompiler.backends.tvm.kernels.cpu.depthwise import build_depthwise
from qcompiler.backends.tvm.kernels.cpu.requantize import table_rows, vector_codes, vector_epilogue
from qcompiler.backends.tvm.kernels.cpu.strips import pack_depthwise, strips
from qcompiler.backends.tvm.table import Match, anchored
from qcompiler.graph import Constant, Op
from qcompiler.ops import ConvInteger, Skeleton


@dataclass(frozen=True)
class Depthwise:
    """ConvInteger (channels last) of each channel with a filter of its own."""

    name: str = "cpu depthwise"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel of `kernels.cpu.depthwise` for the best instruction set of the target."""
        region = anchored(found, (ConvInteger,))
        if region is None or not isinstance(conv := region.anchor, ConvInteger):
            return None
        leaves: dict[Op, Op] = dict(zip(found.graph.inputs, found.leaves, strict=True))
        x, weight, *bias = (leaves[operand] for operand in conv.operands)
        constants = [c for c in (weight, *bias) if isinstance(c, Constant)]
        if not conv.channels_last or len(constants) != 1 + len(bias):
            return None
        window = conv.window
        problem = Conv2d(
            conv.x.type.shape,  # type: ignore[arg-type]  # rank 4
            conv.x.type.dtype,
            conv.weight.type.shape[0],
            window.kernel,
            window.strides,
            window.pads,
            window.dilations,
            conv.groups,
        )
        plan = strips(problem, _isa(target))
        if plan is None:
            return None
        biases = constants[1].array if bias else np.zeros(problem.out_channels, np.int32)
        types = tuple((o.type.shape, o.type.dtype) for o in region.operands)
        vector = vector_epilogue(region, leaves.__getitem__)
        one_table = table_rows(region) is None
        codes = vector_codes(region, leaves.__getitem__) if one_table else None
        epilogue = Epilogue(types, region.root.type.dtype, region.value, vector, codes)
        return Match(
            (found.key, plan, vector is None, codes is None),
            lambda: build_depthwise(plan, epilogue),
            (
                x,
                *pack_depthwise(plan, constants[0].array, biases),
                *(leaves[operand] for operand in region.operands),
            ),
        )


def _isa(target: Target) -> Isa:
    """The fastest instruction set of the target whose dots take one pixel."""
    return next(
        isa
        for isa in ISAS
        if isa.pixels == 1 and all(codegen.target_has_features(f, target) for f in isa.features)
    )


CPU = (Depthwise(),)
"""The rules, in order of preference."""
