"""The rule for attention: one kernel from query, key and value to the result."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.target import Target

from qcompiler.backends.tvm.problem import Epilogue
from qcompiler.backends.tvm.recognized import RecognizedAttention, reciprocal, recognized_attention
from qcompiler.backends.tvm.table import Anchored, Match
from qcompiler.backends.tvm.te import load
from qcompiler.ops import Skeleton

from .attention import build_attention
from .attention_block import Scalars
from .isa import best_isa
from .requantize import vector_epilogue


@dataclass(frozen=True)
class FusedAttention:
    """Attention as `qcompiler.ops.attention` recognises it."""

    name: str = "cpu attention"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel for the best instruction set that multiplies one row at a time."""
        parts = recognized_attention(found)
        if parts is None:
            return None
        isa = best_isa(target, one_pixel=True)
        scalars = _scalars(parts)
        return Match(
            (found.key, isa, scalars.codes.vector is None),
            lambda: build_attention(parts.shape, isa, scalars),
            parts.arguments,
        )


def _scalars(parts: RecognizedAttention) -> Scalars:
    codes, average = parts.codes, parts.average
    region = Anchored(codes.variables[0], codes.operands, codes.root, codes.skeleton)
    return Scalars(
        codes=Epilogue(codes.types, parts.shape.codes_dtype, region.value, vector_epilogue(region)),
        mask=load,
        reciprocal=reciprocal,
        average=lambda total, factor, buffers, index: average.value(
            (total, factor), buffers, index
        ),
        operands=average.types,
    )
