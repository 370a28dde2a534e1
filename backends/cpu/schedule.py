"""The default CPU schedule: one loop nest per reduction with its epilogue inside, in parallel."""

from __future__ import annotations

import math
from typing import Any

from tvm import s_tir, tirx

from qcompiler.backends.tvm.stages import Block, each_stage, operations

VECTOR = 64
"""Most elements of a vectorized loop: four 512-bit vectors of int32."""

LEAST_VECTOR = 8
PARALLEL_WORK = 1 << 14
"""Scalar operations below which waking the thread pool costs more than it saves."""

FEW = 1 << 10
"""Elements of a stage whose text rather than its work is to be kept short."""


def schedule(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Schedule any function that `te.create_prim_func` made, for any CPU.

    Elementwise stages are inlined into their consumers; a reduction is computed where its
    elementwise consumer needs it, a few elements at a time.
    """
    return each_stage(function, _elementwise, _reduction, few=FEW)


def _is_flat(sch: s_tir.Schedule, block: Block) -> bool:
    """Whether every operand is either a scalar or read at the index of the result."""
    stage = sch.get(block)
    variables = [v.var for v in stage.iter_vars]
    return all(
        math.prod(int(d) for d in read.source.shape) == 1
        or (
            len(read.region) == len(variables)
            and all(span.min.same_as(v) for span, v in zip(read.region, variables, strict=True))
        )
        for read in stage.reads
    )


def _elementwise(sch: s_tir.Schedule, block: Block) -> None:
    loops = list(sch.get_loops(block))
    if not loops:
        return
    extent = int(sch.get(loops[-1]).extent)
    if math.gcd(extent, VECTOR) < LEAST_VECTOR and _is_flat(sch, block):
        loops = [sch.fuse(*loops)]
        extent = int(sch.get(loops[-1]).extent)
    width = math.gcd(extent, VECTOR)
    *outer, last = loops
    if width >= LEAST_VECTOR:
        last, inner = sch.split(last, [None, width])
        sch.vectorize(inner)
        outer.append(last)
    _parallel(sch, outer, operations(sch, block))


def _parallel(sch: s_tir.Schedule, loops: list[Any], work: int) -> Any:
    if not loops:
        return None
    fused = sch.fuse(*loops)
    if work >= PARALLEL_WORK:
        sch.parallel(fused)
    return fused


def _reduction(sch: s_tir.Schedule, block: Block, epilogue: Block) -> None:
    """Compute the reduction inside the epilogue's loops, for some elements of the last axis."""
    work = operations(sch, block)
    reductions = sum(v.iter_type == tirx.IterVar.CommReduce for v in sch.get(block).iter_vars)
    loops = list(sch.get_loops(epilogue))
    if not loops:
        return
    extent = int(sch.get(loops[-1]).extent)
    width = math.gcd(extent, VECTOR)
    if width < LEAST_VECTOR:
        width = extent if extent <= 16 * VECTOR else 1
    *outer, last = loops
    last, inner = sch.split(last, [None, width])
    place = _parallel(sch, [*outer, last], work)
    if LEAST_VECTOR <= width <= VECTOR:
        sch.vectorize(inner)
    sch.compute_at(block, place)
    own = list(sch.get_loops(block))[1:]
    spatial, reduced = own[: len(own) - reductions], own[len(own) - reductions :]
    sch.reorder(*reduced, *spatial)
    if spatial and LEAST_VECTOR <= width <= VECTOR:
        sch.vectorize(spatial[-1])
    if reduced:
        sch.decompose_reduction(block, reduced[0])
