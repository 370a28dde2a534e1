"""The rule for attention: one kernel from query, key and value to the result."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.target import Target

from qcompiler.backends.tvm.recognized import recognized_attention
from qcompiler.backends.tvm.table import Match
from qcompiler.ops import Skeleton

from .attention import build_attention
from .isa import best_isa
from .requantize import vector_end


@dataclass(frozen=True)
class Attentions:
    """`Attention`, with the transposes and the requantization around it."""

    name: str = "cpu attention"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel for the best instruction set that multiplies one row at a time."""
        parts = recognized_attention(found)
        if parts is None:
            return None
        isa, codes = best_isa(target, one_pixel=True), vector_end(parts.codes)
        return Match(
            (found.key, isa, *codes.forms),
            lambda: build_attention(parts.shape, isa, codes, parts.average),
            parts.arguments,
        )
