"""The rule for depthwise convolutions, ahead of that for products."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.target import Target

from qcompiler.backends.tvm.problem import Conv2d
from qcompiler.backends.tvm.recognized import recognized_product
from qcompiler.backends.tvm.table import Match
from qcompiler.ops import Skeleton

from .depthwise import build_depthwise
from .isa import best_isa
from .requantize import vector_end
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
        plan = strips(product.problem, best_isa(target, one_pixel=True))
        if plan is None:
            return None
        epilogue = vector_end(product.end, rows=False)
        packed = pack_depthwise(plan, product.weight, product.bias)
        return Match(
            (found.key, plan, *epilogue.forms),
            lambda: build_depthwise(plan, epilogue),
            (product.x, *packed, *product.end.leaves),
        )
