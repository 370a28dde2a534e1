"""What default schedules share: stages to inline, and what each that remains is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad

MOST_REPEATED = 32
"""Operands of an expression that may be written out more than once."""

MOST_REPEATED_OF_FEW = 2
"""The same where a stage has few elements: TVM's simplification of long texts takes seconds, and
its memory nothing."""

_CHEAP = 2
"""Operands of an expression that may be computed anew for each element that reads it: a border, or
a cast of a channel's multiplier."""

Block = Any
"""A schedule's reference to a stage; TVM ships no types."""


def each_stage(
    function: tirx.PrimFunc,
    elementwise: Callable[[s_tir.Schedule, Block], None],
    reduction: Callable[[s_tir.Schedule, Block, Block], None],
    *,
    few: int = 0,
) -> tirx.PrimFunc:
    """Inline what can be, and schedule each stage that remains.

    Args:
        function: As `te.create_prim_func` made it.
        elementwise: Schedules a stage without reduction.
        reduction: Schedules a reduction together with the stage that stores its elements, which
            computes nothing, or what follows element by element.
        few: Stages of at most so many elements are not written out repeatedly.
    """
    sch = s_tir.Schedule(tvm.IRModule({"main": function}), enable_check=False)
    _inline(sch, few)
    done: list[str] = []
    for block in _blocks(sch):
        name = _name(sch, block)
        if name in done:
            continue
        if not _is_reduction(sch, block):
            elementwise(sch, block)
            continue
        consumers = list(sch.get_consumers(block))
        if (
            len(consumers) == 1
            and _name(sch, consumers[0]) not in done
            and _same_elements(sch, block, consumers[0])
        ):
            epilogue = consumers[0]
        else:
            epilogue = sch.cache_write(block, 0, "global")
        done.append(_name(sch, epilogue))
        reduction(sch, block, epilogue)
    return sch.mod["main"]


def _blocks(sch: s_tir.Schedule) -> list[Block]:
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def _name(sch: s_tir.Schedule, block: Block) -> str:
    return str(sch.get(block).name_hint)


def _is_reduction(sch: s_tir.Schedule, block: Block) -> bool:
    return any(v.iter_type == tirx.IterVar.CommReduce for v in sch.get(block).iter_vars)


def operations(sch: s_tir.Schedule, block: Block) -> int:
    """How many scalar operations the stage has."""
    return math.prod(int(v.dom.extent) for v in sch.get(block).iter_vars)


def _inline(sch: s_tir.Schedule, few: int) -> None:
    """Inline elementwise stages unless that repeats much work or text.

    A stage that is used twice is written out twice: chains of such stages would grow exponentially.
    """
    for block in _blocks(sch):
        consumers = list(sch.get_consumers(block))
        if _is_reduction(sch, block) or not consumers:
            continue
        size = len(_loads(sch, block))  # with all that was inlined into it
        written = sch.get(block).writes[0].source
        uses = sum(x.source.same_as(written) for c in consumers for x in _loads(sch, c))
        repeated = any(operations(sch, c) > operations(sch, block) for c in consumers)
        most = MOST_REPEATED_OF_FEW if operations(sch, block) <= few else MOST_REPEATED
        if (size <= _CHEAP or not repeated) and (size <= most or uses == 1):
            sch.compute_inline(block)


def _loads(sch: s_tir.Schedule, block: Block) -> list[TensorLoad]:
    """Every operand in the stage's code."""
    found: list[TensorLoad] = []
    tvm_ffi.structural_walk(sch.get(block).body, (TensorLoad, found.append), order="post")
    return found


def _same_elements(sch: s_tir.Schedule, block: Block, consumer: Block) -> bool:
    """Whether each element of the consumer needs that one element of the block."""
    if _is_reduction(sch, consumer):
        return False
    written = sch.get(block).writes[0].source
    variables = [v.var for v in sch.get(consumer).iter_vars]
    reads = [r for r in sch.get(consumer).reads if r.source.same_as(written)]
    return (
        len(reads) == 1
        and [int(d) for d in written.shape]
        == [int(v.dom.extent) for v in sch.get(consumer).iter_vars]
        and all(
            span.min.same_as(v) or (int(d) == 1 and isinstance(span.min, tirx.IntImm))
            for span, v, d in zip(reads[0].region, variables, written.shape, strict=True)
        )
    )
