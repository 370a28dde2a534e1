"""The rule for depthwise convolutions, ahead of that for products."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.target import Target

from qcompiler.backends.tvm.problem import Conv2d, Epilogue
from qcompiler.backends.tvm.recognized import recognized_product
from qcompiler.backends.tvm.table import Match
from qcompiler.ops import Skeleton

from .depthwise import build_depthwise
from .isa import best_isa
from .requantize import table_rows, vector_codes, vector_epilogue
from .strips import pack_depthwise, strips


@dataclass(frozen=True)
class Depthwise:
    """ConvInteger (channels last) of each channel with a filter of its own."""

    name: str = "cpu depthwise"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel of `depthwise` for the best instruction set of the target."""
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
