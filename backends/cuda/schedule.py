"""The default GPU schedule: a thread per element, or a block of threads per long reduction."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx

from qcompiler.backends.tvm.stages import Block, each_stage, operations

THREADS = 256
"""Of a block, at most."""

WARP = 32

BUSY = 1 << 14
"""Elements from which on a GPU is busy with one thread for each."""

WORTH_SHARING = 8
"""Threads from which on a block for each element is better than a thread."""


def schedule(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Schedule any function that `te.create_prim_func` made, for any GPU.

    Elementwise stages are inlined into their consumers; each stage that is left becomes a launch.
    """
    return each_stage(function, _elementwise, _reduction)


def _elementwise(sch: s_tir.Schedule, block: Block) -> None:
    _thread_per_element(sch, block)


def _thread_per_element(sch: s_tir.Schedule, block: Block) -> Any:
    """Bind the loops; returns the innermost."""
    element = _one_loop(sch, block)
    threads = min(THREADS, -(-int(sch.get(element).extent) // WARP) * WARP)
    outer, inner = sch.split(element, [None, threads])
    sch.bind(outer, "blockIdx.x")
    sch.bind(inner, "threadIdx.x")
    return inner


def _one_loop(sch: s_tir.Schedule, block: Block) -> Any:
    loops = list(sch.get_loops(block)) or [sch.add_unit_loop(block)]
    return sch.fuse(*loops) if len(loops) > 1 else loops[0]


def _reduction(sch: s_tir.Schedule, block: Block, epilogue: Block) -> None:
    """Compute the reduction where its epilogue needs it, in registers."""
    elements = operations(sch, epilogue)
    threads = _sharing(operations(sch, block) // elements)
    if elements < BUSY and threads >= WORTH_SHARING:
        _block_per_element(sch, block, epilogue, threads)
        return
    place = _thread_per_element(sch, epilogue)
    sch.compute_at(block, place)
    sch.set_scope(block, 0, "local")
    if reduced := _reduced_loops(sch, block):
        sch.decompose_reduction(block, reduced[0])


def _sharing(terms: int) -> int:
    """How many threads share a reduction: each takes equally many terms, and at least as many as
    the first must add up in the end.

    A split with a rest would need a condition, which TVM's compute_at forgets behind rfactor.
    """
    equal = (n for n in range(1, THREADS + 1) if terms % n == 0 and n * n <= terms)
    return max(equal, default=1)


def _block_per_element(sch: s_tir.Schedule, block: Block, epilogue: Block, threads: int) -> None:
    """Each thread of a block sums some of the terms into shared memory; the first sums those."""
    reduced = _reduced_loops(sch, block)
    term = sch.fuse(*reduced) if len(reduced) > 1 else reduced[0]
    _, part = sch.split(term, [None, threads])
    parts = sch.rfactor(part, 0)
    place = _one_loop(sch, epilogue)
    sch.bind(place, "blockIdx.x")
    one = sch.add_unit_loop(epilogue)
    sch.compute_at(block, one)
    sch.set_scope(block, 0, "local")
    sch.compute_at(parts, place)
    sch.set_scope(parts, 0, "shared")
    _, first = sch.split(one, [None, threads])  # after compute_at: its bounds are exact before
    sch.bind(first, "threadIdx.x")
    _, thread, *own = sch.get_loops(parts)
    sch.bind(thread, "threadIdx.x")
    sch.decompose_reduction(parts, own[0])
    sch.decompose_reduction(block, sch.get_loops(block)[-1])


def _reduced_loops(sch: s_tir.Schedule, block: Block) -> list[Any]:
    number = sum(v.iter_type == tirx.IterVar.CommReduce for v in sch.get(block).iter_vars)
    loops = list(sch.get_loops(block))
    return loops[len(loops) - number :]
