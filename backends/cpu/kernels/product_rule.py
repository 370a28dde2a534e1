"""The rule for convolutions and products with constant int8 weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.target import Target

from qcompiler.backends.tvm.problem import Conv2d, Epilogue, Matmul
from qcompiler.backends.tvm.recognized import recognized_product
from qcompiler.backends.tvm.table import Match
from qcompiler.ops import Skeleton

from .build import build
from .cost import Cut
from .isa import Isa, best_isa
from .pack import pack
from .requantize import vector_end

Choose = Callable[[Conv2d | Matmul, Isa, Epilogue], Cut | None]
"""Which of `plan.cuts` a product gets; None leaves it to the cost model."""


@dataclass(frozen=True)
class Products:
    """ConvInteger (channels last) and MatMulInteger, with what follows element by element."""

    name: str = "cpu product"
    choose: Choose | None = None

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel of `build` for the best instruction set of the target."""
        product = recognized_product(found)
        if product is None:
            return None
        problem, isa, epilogue = product.problem, best_isa(target), vector_end(product.end)
        cut = None if self.choose is None else self.choose(problem, isa, epilogue)
        packed = pack(problem, isa, product.weight, product.bias, cut=cut)
        return Match(
            (found.key, isa, *epilogue.forms, cut),
            lambda: build(problem, isa, epilogue, cut=cut),
            (product.x, *packed, *product.end.leaves),
        )
