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
from .requantize import table_end, vector_epilogue
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
        region = product.region
        plan = strips(product.problem, best_isa(target, one_pixel=True))
        if plan is None:
            return None
        types = tuple((o.type.shape, o.type.dtype) for o in region.operands)
        vector, table = vector_epilogue(region), table_end(region)
        if table is not None and table.rows is not None:
            table = None  # channels with tables of their own are looked up one by one
        epilogue = Epilogue(types, region.root.type.dtype, region.value, vector, table)
        return Match(
            (found.key, plan, vector is None, table is None or table.codes is None),
            lambda: build_depthwise(plan, epilogue),
            (
                product.x,
                *pack_depthwise(plan, product.weight, product.bias),
                *product.operands,
            ),
        )
