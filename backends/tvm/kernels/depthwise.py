"""The kernel table of CPUs: depthwise convolutions, ahead of the general ones."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.target import Target

from qcompiler.backends.tvm.kernels.cpu import Conv2d, Epilogue
from qcompiler.backends.tvm.kernels.cpu.depthwise import build_depthwise
from qcompiler.backends.tvm.kernels.cpu.requantize import table_rows, vector_codes, vector_epilogue
from qcompiler.backends.tvm.kernels.cpu.strips import pack_depthwise, strips
from qcompiler.backends.tvm.kernels.products import best_isa
from qcompiler.backends.tvm.kernels.recognized import recognized_product
from qcompiler.backends.tvm.table import Match
from qcompiler.ops import Skeleton


@dataclass(frozen=True)
class Depthwise:
    """ConvInteger (channels last) of each channel with a filter of its own."""

    name: str = "cpu depthwise"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel of `kernels.cpu.depthwise` for the best instruction set of the target."""
        product = recognized_product(found)
        if product is None or not isinstance(product.problem, Conv2d):
            return None
        region, leaves = product.region, product.leaves
        plan = strips(product.problem, best_isa(target, one_pixel=True))
        if plan is None:
            return None
        types = tuple((o.type.shape, o.type.dtype) for o in region.operands)
        vector = vector_epilogue(region, leaves.__getitem__)
        one_table = table_rows(region) is None
        codes = vector_codes(region, leaves.__getitem__) if one_table else None
        epilogue = Epilogue(types, region.root.type.dtype, region.value, vector, codes)
        return Match(
            (found.key, plan, vector is None, codes is None),
            lambda: build_depthwise(plan, epilogue),
            (
                product.x,
                *pack_depthwise(plan, product.weight, product.bias),
                *product.operands,
            ),
        )


CPU = (Depthwise(),)
"""The rules, in order of preference."""
