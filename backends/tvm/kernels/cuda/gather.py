"""Copies into shared memory: rows of the left operand, columns of the packed weight.

The left operand is never expanded to a matrix: each chunk is read where the window finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from tvm.tirx.script import builder as T  # noqa: N812

from . import instructions as ptx
from .instructions import Expr
from .plan import CHUNK, MMA_DEPTH, Plan

OLDEST_ASYNC = 80
"""The first architecture with asynchronous copies and with `mma` of 32 terms."""


@dataclass(frozen=True)
class Block:
    """What the threads of a block know.

    Attributes:
        plan: The kernel.
        architecture: 75, 80, …
        x: Flat left operand.
        weight: Flat packed weight.
        shared: int8 shared memory.
        thread: threadIdx.x.
        row: First row of the block.
        column: First column of the block.
    """

    plan: Plan
    architecture: int
    x: Expr
    weight: Expr
    shared: Expr
    thread: Expr
    row: Expr
    column: Expr

    @property
    def is_async(self) -> bool:
        """Whether copies need no waiting."""
        return self.architecture >= OLDEST_ASYNC


def swizzled(plan: Plan, row: Expr, chunk: Expr) -> Expr:
    """Byte offset of a chunk in the rows of a stage.

    `ldmatrix` reads one chunk of eight rows at a time; the exclusive or spreads them over all
    banks.
    """
    chunks = plan.tile.depth // CHUNK
    rows_per_line = 8 // chunks
    return row * plan.tile.depth + T.bitwise_xor(chunk, row // rows_per_line % chunks) * CHUNK


def copy_stage(block: Block, step: Expr, stage: Expr) -> None:
    """Start the copies of one step of the depth into one stage."""
    base = T.bind(stage * block.plan.tile.stage_bytes)
    _copy_rows(block, step, base)
    _copy_columns(block, step, base + block.plan.tile.rows * block.plan.tile.depth)


def _each(total: int, threads: int, thread: Expr) -> list[tuple[Expr, Expr | None]]:
    """Numbers below `total` for this thread, each with the test that it is one, where needed."""
    rounds = -(-total // threads)
    numbers = [thread + i * threads for i in range(rounds)]
    return [(n, n < total if (i + 1) * threads > total else None) for i, n in enumerate(numbers)]


def _copy_rows(block: Block, step: Expr, base: Expr) -> None:
    plan, tile = block.plan, block.plan.tile
    size = plan.vector if plan.vector > 1 else CHUNK
    per_row = tile.depth // size
    for number, exists in _each(tile.rows * per_row, tile.threads, block.thread):
        row, part = number // per_row, number % per_row
        chunk, inside = part * size // CHUNK, part * size % CHUNK
        target = base + swizzled(plan, row, chunk) + inside
        k = step * tile.depth + part * size

        def copy(row: Expr = row, target: Expr = target, k: Expr = k) -> None:
            if plan.vector == 1:
                _gather_bytes(block, T.bind(block.row + row), T.bind(k), target)
            else:
                valid, offset = _source(plan, T.bind(block.row + row), T.bind(k))
                to = (block.shared, target)
                copy_chunk(block.is_async, size, to, (block.x, offset), valid)

        _guarded(exists, copy)


def _copy_columns(block: Block, step: Expr, base: Expr) -> None:
    plan, tile = block.plan, block.plan.tile
    steps = tile.depth // MMA_DEPTH
    per_column = steps * 16 * MMA_DEPTH // CHUNK
    panels, all_steps, nbytes = plan.packed_shape
    for number, exists in _each(tile.columns // 16 * per_column, tile.threads, block.thread):

        def copy(number: Expr = number) -> None:
            panel = T.bind(block.column // 16 + number // per_column)
            offset = (panel * all_steps + step * steps) * nbytes + number % per_column * CHUNK
            to = (block.shared, base + number * CHUNK)
            copy_chunk(block.is_async, CHUNK, to, (block.weight, offset), panel < panels)

        _guarded(exists, copy)


def _guarded(test: Expr | None, body: Callable[[], None]) -> None:
    if test is None:
        body()
        return
    with T.If(test), T.Then():
        body()


def copy_chunk(
    is_async: bool,
    size: int,
    target: tuple[Expr, Expr],
    source: tuple[Expr, Expr],
    valid: Expr | None,
) -> None:
    """Copy 4, 8 or 16 bytes to shared memory, or zeros where the source is not valid.

    Args:
        is_async: Whether the copy is to be waited for.
        size: Bytes.
        target: int8 shared buffer and place.
        source: 8-bit global buffer and place, aligned to `size` where valid.
        valid: None if it always is.
    """
    shared, place = target
    buffer, offset = source
    offset = T.bind(offset if valid is None else T.Select(valid, offset, 0))
    if is_async:
        count = size if valid is None else T.Select(valid, size, 0)
        ptx.cp_async(size, shared[place], buffer[offset], count)
        return
    words = size // 4
    vector = "int32" if words == 1 else f"int32x{words}"
    value = T.reinterpret(vector, buffer[T.Ramp(offset, 1, size)])
    if valid is not None:
        zero = T.int32(0) if words == 1 else T.broadcast(T.int32(0), words)
        value = T.if_then_else(valid, value, zero)
    T.buffer_store(shared, T.reinterpret(f"int8x{size}", value), [T.Ramp(place, 1, size)])


def _gather_bytes(block: Block, row: Expr, k: Expr, target: Expr) -> None:
    """A chunk whose bytes lie apart, or at odd addresses."""
    place = T.bind(target)
    found = T.alloc_buffer((CHUNK,), "int8", scope="local", layout=None)
    for i in range(CHUNK):
        valid, offset = _source(block.plan, row, T.bind(k + i))
        code = T.cast(block.x[offset if valid is None else T.Select(valid, offset, 0)], "int8")
        T.buffer_store(found, code if valid is None else T.Select(valid, code, T.int8(0)), [i])
    lanes = T.Ramp(0, 1, CHUNK)
    T.buffer_store(block.shared, found[lanes], [T.Ramp(place, 1, CHUNK)])


def _source(plan: Plan, row: Expr, k: Expr) -> tuple[Expr | None, Expr]:
    """Where term k of a row of the matrix product lies in x, and whether it exists (else 0)."""
    conv = plan.conv
    _, height, width, channels = conv.x_shape
    _, oh, ow, _ = conv.out_shape
    (sh, sw), (dh, dw), (top, left, bottom, right) = conv.strides, conv.dilations, conv.pads
    tests = []
    if plan.rows % plan.tile.rows:
        tests.append(row < plan.rows)
    if plan.depth % plan.tile.depth:
        tests.append(k < plan.depth)
    line = T.bind(row // ow)
    y0, x0 = line % oh * sh - top, row % ow * sw - left
    tap, place = k // plan.run, k % plan.run
    if plan.run == channels * conv.kernel[1] and not (left or right):
        y, x = T.bind(y0 + tap * dh), x0
    else:
        y, x = T.bind(y0 + tap // conv.kernel[1] * dh), T.bind(x0 + tap % conv.kernel[1] * dw)
        if left or right:
            tests += [x >= 0, x < width]
    if top or bottom:
        tests += [y >= 0, y < height]
    offset = ((line // oh * height + y) * width + x) * channels + place
    return reduce(T.And, tests) if tests else None, offset
