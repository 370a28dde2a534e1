"""The sums of a block: fragments from shared memory, products on the tensor cores."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script import builder as T  # noqa: N812

from . import instructions as ptx
from .gather import Block, copy_stage, later, swizzled
from .instructions import Expr
from .plan import CHUNK, MMA_DEPTH, Tile


@dataclass(frozen=True)
class Warp:
    """Where a warp works, in its block.

    Attributes:
        lane: threadIdx.x modulo 32.
        row: First row of its tile.
        column: First column of its tile.
        part: Which of the `split` parts of a stage's depth it takes.
    """

    lane: Expr
    row: Expr
    column: Expr
    part: Expr


def bind_warp(tile: Tile, thread: Expr) -> Warp:
    """The place of a thread's warp: parts of the depth outermost, columns innermost."""
    warp = T.bind(thread // 32)
    across, down = tile.columns // tile.warp_columns, tile.rows // tile.warp_rows
    return Warp(
        lane=T.bind(thread % 32),
        row=T.bind(warp // across % down * tile.warp_rows),
        column=T.bind(warp % across * tile.warp_columns),
        part=T.bind(warp // (across * down)),
    )


def accumulate(block: Block, warp: Warp) -> Expr:
    """int32 registers [warp_rows / 16 · warp_columns / 8 · 4] with the sums of the warp's part.

    Stage s of the ring is computed on while stages s + 1 … are on their way; the barrier before
    each computation also says that everybody has left the stage that is filled next.
    """
    plan, tile = block.plan, block.plan.tile
    count = tile.warp_rows // 16 * tile.warp_columns // 8 * 4
    sums = _registers(count)
    for i in range(count):
        T.buffer_store(sums, T.int32(0), [i])
    ahead = tile.stages - 1 if block.generation.asynchronous else 1
    for step in range(ahead):
        if step < plan.depth_tiles:
            waiting = later(block)
            copy_stage(block, T.int32(step), T.int32(step * tile.stage_bytes), waiting)
            waiting.finish()
        if block.generation.asynchronous:
            ptx.cp_async_commit()
    with T.serial(plan.depth_tiles) as step:
        if block.generation.asynchronous:
            ptx.cp_async_wait(ahead - 1)
        T.evaluate(T.tvm_storage_sync("shared"))
        waiting = later(block)
        into = T.bind((step + ahead) % tile.stages * tile.stage_bytes)
        with T.If(step + ahead < plan.depth_tiles), T.Then():
            copy_stage(block, step + ahead, into, waiting)
        if block.generation.asynchronous:
            ptx.cp_async_commit()
        base = T.bind(step % tile.stages * tile.stage_bytes)
        for i in range(tile.steps):
            _multiply(block, warp, sums, base, T.bind(warp.part * tile.steps + i))
        if waiting.stores:
            with T.If(step + ahead < plan.depth_tiles), T.Then():
                waiting.finish()
    if block.generation.asynchronous:
        ptx.cp_async_wait(0)
    return sums


def _registers(count: int) -> Expr:
    return T.alloc_buffer((count,), "int32", scope="local", layout=None)


def _multiply(block: Block, warp: Warp, sums: Expr, base: Expr, step: Expr) -> None:
    """Add the products of 32 terms of the stage."""
    plan, tile = block.plan, block.plan.tile
    down, across = tile.warp_rows // 16, tile.warp_columns // 16
    left, right = _registers(4 * down), _registers(4 * across)
    for i in range(down):
        row = warp.row + i * 16 + warp.lane % 16
        chunk = step * (MMA_DEPTH // CHUNK) + warp.lane // 16
        place = T.bind(base + swizzled(plan, row, chunk))
        ptx.ldmatrix_x4([left[4 * i + r] for r in range(4)], block.shared[place])
    steps = tile.depth // MMA_DEPTH
    columns = base + tile.rows * tile.depth
    for j in range(across):
        panel = warp.column // 16 + j
        place = T.bind(columns + (panel * steps + step) * (16 * MMA_DEPTH) + warp.lane * CHUNK)
        value = T.reinterpret("int32x4", block.shared[T.Ramp(place, 1, CHUNK)])
        T.buffer_store(right, value, [T.Ramp(4 * j, 1, 4)])
    for i in range(down):
        for j in range(2 * across):
            first = (i * 2 * across + j) * 4
            d = [sums[first + r] for r in range(4)]
            a = [left[4 * i + r] for r in range(4)]
            mma = block.generation.mma
            mma(plan.conv.x_dtype, d, a, [right[2 * j], right[2 * j + 1]])
