"""The rule for attention: what of the recognised ops becomes what of the kernel."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tvm.target import Target

from qcompiler.backends.tvm.recognized import reciprocal, recognized_attention
from qcompiler.backends.tvm.table import Match
from qcompiler.ops import Skeleton

from .attention import build_attention
from .attention_plan import Attention, Scalars, attention_plan
from .generation import best_generation


@dataclass(frozen=True)
class FusedAttention:
    """Attention as `qcompiler.ops.attention` recognises it."""

    name: str = "cuda attention"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """One launch; None if a head's keys do not fit shared memory."""
        parts, oldest = recognized_attention(found), best_generation(target)
        if parts is None or oldest is None:
            return None
        codes, average = parts.codes, parts.average
        fields = {f.name: getattr(parts.shape, f.name) for f in dataclasses.fields(parts.shape)}
        problem = Attention(**fields, operands=(codes.types, average.types))
        plan = attention_plan(problem, oldest)
        if plan is None:
            return None
        scalars = Scalars(
            code=lambda score, buffers, index: codes.value((score,), buffers, index),
            reciprocal=reciprocal,
            average=lambda total, factor, buffers, index: average.value(
                (total, factor), buffers, index
            ),
        )
        return Match(
            (found.key, oldest),
            lambda: build_attention(problem, plan, oldest, scalars),
            parts.arguments,
        )
