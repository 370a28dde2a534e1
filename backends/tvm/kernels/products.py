"""The kernel table of CPUs: convolutions and products with constant int8 weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
from qcompiler.backends.tvm.kernels.recognized import recognized_product
from qcompiler.backends.tvm.table import Match
from qcompiler.ops import Skeleton

Choose = Callable[[Conv2d | Matmul, Isa, Epilogue], Cut | None]
"""Which of `kernels.cpu.cuts` a product gets; None leaves it to the cost model."""


@dataclass(frozen=True)
class Products:
    """ConvInteger (channels last) and MatMulInteger, with what follows element by element."""

    name: str = "cpu product"
    choose: Choose | None = None

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel of `kernels.cpu` for the best instruction set of the target."""
        product = recognized_product(found)
        if product is None:
            return None
        region, problem, leaves = product.region, product.problem, product.leaves
        isa = best_isa(target)
        types = tuple((o.type.shape, o.type.dtype) for o in region.operands)
        vector = vector_epilogue(region, leaves.__getitem__)
        codes = vector_codes(region, leaves.__getitem__)
        rows = table_rows(region)
        epilogue = Epilogue(types, region.root.type.dtype, region.value, vector, codes, rows)
        cut = None if self.choose is None else self.choose(problem, isa, epilogue)
        packed = pack(problem, isa, product.weight, product.bias, cut=cut)
        return Match(
            (found.key, isa, vector is None, codes is None, cut),
            lambda: build(problem, isa, epilogue, cut=cut),
            (product.x, *packed, *product.operands),
        )


def best_isa(target: Target, *, one_pixel: bool = False) -> Isa:
    """The fastest instruction set that the target has.

    Args:
        target: TVM's form.
        one_pixel: Only those whose dot instruction takes one row at a time (`Isa.pixels` is 1).
    """
    for isa in ISAS:
        has = all(codegen.target_has_features(feature, target) for feature in isa.features)
        if has and not (one_pixel and isa.pixels > 1):
            return isa
    raise AssertionError("the generic instruction set needs nothing")


CPU = (Products(),)
"""The rules, in order of preference."""
