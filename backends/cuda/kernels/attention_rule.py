"""The rule for attention: one launch from query, key and value to the result."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.target import Target

from qcompiler.backends.tvm.recognized import recognized_attention
from qcompiler.backends.tvm.table import Match
from qcompiler.ops import Skeleton

from .attention import build_attention
from .attention_plan import attention_plan
from .generation import best_generation


@dataclass(frozen=True)
class Attentions:
    """`Attention`, with the transposes and the requantization around it."""

    name: str = "cuda attention"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """One launch; None if a head's keys do not fit shared memory."""
        parts, oldest = recognized_attention(found), best_generation(target)
        if parts is None or oldest is None:
            return None
        shape, plan = parts.shape, attention_plan(parts.shape, oldest)
        if plan is None:
            return None
        return Match(
            (found.key, oldest),
            lambda: build_attention(shape, plan, oldest, parts.codes, parts.average),
            parts.arguments,
        )
