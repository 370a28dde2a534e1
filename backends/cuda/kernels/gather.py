"""Copies into shared memory: rows of the left operand, columns of the packed weight.

The left operand is never expanded to a matrix: each chunk is read where the window finds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce

from tvm.tirx.script import builder as T  # noqa: N812

from . import instructions as ptx
from .generation import Generation
from .instructions import Expr
from .plan import CHUNK, MMA_DEPTH, Plan


@dataclass(frozen=True)
class Block:
    """What the threads of a block know.

    Attributes:
        plan: The kernel.
        generation: The oldest that must run it.
        x: Flat left operand.
        weight: Flat packed weight.
        shared: int8 shared memory.
        thread: threadIdx.x.
        row: First row of the block.
        column: First column of the block.
    """

    plan: Plan
    generation: Generation
    x: Expr
    weight: Expr
    shared: Expr
    thread: Expr
    row: Expr
    column: Expr


def swizzled(plan: Plan, row: Expr, chunk: Expr) -> Expr:
    """Byte offset of a chunk in the rows of a stage.

    `ldmatrix` reads one chunk of eight rows at a time; the exclusive or spreads them over all
    banks.
    """
    chunks = plan.tile.depth // CHUNK
    rows_per_line = 8 // chunks
    return row * plan.tile.depth + T.bitwise_xor(chunk, row // rows_per_line % chunks) * CHUNK


@dataclass
class Later:
    """Copies that go through registers: loaded now, stored when there is time to wait for them.

    Attributes:
        registers: int32, four for each chunk.
        stores: What is left to do; each emits one store.
    """

    registers: Expr
    stores: list[Callable[[], None]] = field(default_factory=list)

    def put(self, shared: Expr, target: Expr, value: Expr, size: int, exists: Expr | None) -> None:
        """Keep `size` bytes, as int32 words, that belong at a place in shared memory."""
        first, words = 4 * len(self.stores), size // 4
        span = [T.Ramp(first, 1, words)] if words > 1 else [T.int32(first)]
        T.buffer_store(self.registers, value, span)

        def store() -> None:
            found = T.reinterpret(f"int8x{size}", self.registers[span[0]])
            _guarded(exists, lambda: T.buffer_store(shared, found, [T.Ramp(target, 1, size)]))

        self.stores.append(store)

    def finish(self) -> None:
        """Emit the stores."""
        for store in self.stores:
            store()
        self.stores.clear()


def later(block: Block) -> Later:
    """Registers for the copies of one stage that are not asynchronous."""
    rows, columns = (len(_each(n, block.plan.tile.threads, 0)) for n in _copies(block.plan))
    chunks = (0 if block.generation.asynchronous else columns) + (0 if _rows_async(block) else rows)
    registers = T.alloc_buffer((max(4 * chunks, 1),), "int32", scope="local", layout=None)
    return Later(registers)


def _rows_async(block: Block) -> bool:
    return block.generation.asynchronous and block.plan.vector > 1


def _copies(plan: Plan) -> tuple[int, int]:
    """Copies of a stage's rows and of its columns."""
    size = plan.vector if plan.vector > 1 else CHUNK
    return plan.tile.rows * plan.tile.depth // size, plan.tile.columns * plan.tile.depth // CHUNK


def copy_stage(block: Block, step: Expr, base: Expr, waiting: Later) -> None:
    """Start the copies of one step of the depth into the stage that begins at `base`."""
    _copy_rows(block, step, base, waiting)
    _copy_columns(block, step, base + block.plan.tile.rows * block.plan.tile.depth, waiting)


def _each(total: int, threads: int, thread: Expr) -> list[tuple[Expr, Expr | None]]:
    """Numbers below `total` for this thread, each with the test that it is one, where needed."""
    rounds = -(-total // threads)
    numbers = [thread + i * threads for i in range(rounds)]
    return [(n, n < total if (i + 1) * threads > total else None) for i, n in enumerate(numbers)]


def _copy_rows(block: Block, step: Expr, base: Expr, waiting: Later) -> None:
    plan, tile = block.plan, block.plan.tile
    size = plan.vector if plan.vector > 1 else CHUNK
    per_row = tile.depth // size
    for number, exists in _each(_copies(plan)[0], tile.threads, block.thread):
        row, part = number // per_row, number % per_row
        chunk, inside = part * size // CHUNK, part * size % CHUNK
        target = base + swizzled(plan, row, chunk) + inside
        k = step * tile.depth + part * size

        def copy(
            row: Expr = block.row + row,
            target: Expr = target,
            k: Expr = k,
            exists: Expr | None = exists,
        ) -> None:
            if plan.vector > 1:
                valid, offset = _source(plan, T.bind(row), T.bind(k))
                _copy(block, size, target, (block.x, offset), valid, exists, waiting)
            elif plan.shifted:
                found = _shifted_chunk(block, T.bind(row), T.bind(k))
                waiting.put(block.shared, target, found, CHUNK, exists)
            else:
                found = _gathered_chunk(block, T.bind(row), T.bind(k))
                waiting.put(block.shared, target, found, CHUNK, exists)

        _guarded(exists, copy)


def _copy_columns(block: Block, step: Expr, base: Expr, waiting: Later) -> None:
    plan, tile = block.plan, block.plan.tile
    steps = tile.depth // MMA_DEPTH
    per_column = steps * 16 * MMA_DEPTH // CHUNK
    panels, all_steps, nbytes = plan.packed_shape
    for number, exists in _each(_copies(plan)[1], tile.threads, block.thread):

        def copy(number: Expr = number, exists: Expr | None = exists) -> None:
            panel = T.bind(block.column // 16 + number // per_column)
            offset = (panel * all_steps + step * steps) * nbytes + number % per_column * CHUNK
            source = (block.weight, offset)
            _copy(block, CHUNK, base + number * CHUNK, source, panel < panels, exists, waiting)

        _guarded(exists, copy)


def _guarded(test: Expr | None, body: Callable[[], None]) -> None:
    if test is None:
        body()
        return
    with T.If(test), T.Then():
        body()


def _copy(
    block: Block,
    size: int,
    target: Expr,
    source: tuple[Expr, Expr],
    valid: Expr | None,
    exists: Expr | None,
    waiting: Later,
) -> None:
    """Copy `size` bytes, or zeros where the source is not valid."""
    if block.generation.asynchronous:
        copy_async(size, (block.shared, target), source, valid)
    else:
        waiting.put(block.shared, target, loaded(size, source, valid), size, exists)


def copy_async(
    size: int, target: tuple[Expr, Expr], source: tuple[Expr, Expr], valid: Expr | None
) -> None:
    """Copy 4, 8 or 16 bytes to shared memory, or zeros where the source is not valid.

    Args:
        size: Bytes.
        target: int8 shared buffer and place.
        source: 8-bit global buffer and place, aligned to `size` where valid.
        valid: None if it always is.
    """
    (shared, place), (buffer, offset) = target, source
    offset = T.bind(offset if valid is None else T.Select(valid, offset, 0))
    ptx.cp_async(
        size, shared[place], buffer[offset], size if valid is None else T.Select(valid, size, 0)
    )


def loaded(size: int, source: tuple[Expr, Expr], valid: Expr | None) -> Expr:
    """4, 8 or 16 bytes of global memory as int32 words, or zeros; as in `copy_async`."""
    buffer, offset = source
    offset = T.bind(offset if valid is None else T.Select(valid, offset, 0))
    words = size // 4
    vector = "int32" if words == 1 else f"int32x{words}"
    value = T.reinterpret(vector, buffer[T.Ramp(offset, 1, size)])
    if valid is None:
        return value
    zero = T.int32(0) if words == 1 else T.broadcast(T.int32(0), words)
    return T.if_then_else(valid, value, zero)


def _gathered_chunk(block: Block, row: Expr, k: Expr) -> Expr:
    """A chunk whose bytes lie apart."""
    found = T.alloc_buffer((CHUNK,), "int8", scope="local", layout=None)
    for i in range(CHUNK):
        valid, offset = _source(block.plan, row, T.bind(k + i))
        code = T.cast(block.x[offset if valid is None else T.Select(valid, offset, 0)], "int8")
        T.buffer_store(found, code if valid is None else T.Select(valid, code, T.int8(0)), [i])
    return T.reinterpret("int32x4", found[T.Ramp(0, 1, CHUNK)])


def _shifted_chunk(block: Block, row: Expr, k: Expr) -> Expr:
    """A chunk that starts at any byte: five aligned words, shifted into four.

    What follows the run's end meets zero weights, so it may be anything; at the tensor's end there
    may be no whole word.
    """
    size = math.prod(block.plan.conv.x_shape)
    valid, offset = _source(block.plan, row, k)
    start = T.bind(offset if valid is None else T.Select(valid, offset, 0))
    words = T.alloc_buffer((CHUNK // 4 + 1,), "uint32", scope="local", layout=None)
    found = T.alloc_buffer((CHUNK // 4,), "uint32", scope="local", layout=None)
    aligned = T.bind(start // 4)
    last = (size - 4) // 4
    with T.If(aligned + CHUNK // 4 <= last):
        with T.Then():
            for i in range(CHUNK // 4 + 1):
                word = T.reinterpret("uint32", block.x[T.Ramp((aligned + i) * 4, 1, 4)])
                T.buffer_store(words, word, [i])
        with T.Else():
            for i in range(CHUNK // 4 + 1):
                word = T.uint32(0)
                for j in range(4):
                    place = (aligned + i) * 4 + j
                    code = T.cast(T.cast(block.x[T.min(place, size - 1)], "uint8"), "uint32")
                    word = T.bitwise_or(word, T.shift_left(code, T.uint32(8 * j)))
                T.buffer_store(words, word, [i])
    shift = T.bind(T.cast(start % 4 * 8, "uint64"))
    for i in range(CHUNK // 4):
        pair = T.bitwise_or(
            T.shift_left(T.cast(words[i + 1], "uint64"), T.uint64(32)), T.cast(words[i], "uint64")
        )
        word = T.cast(T.shift_right(pair, shift), "uint32")
        T.buffer_store(found, word if valid is None else T.Select(valid, word, T.uint32(0)), [i])
    return T.reinterpret("int32x4", found[T.Ramp(0, 1, CHUNK // 4)])


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
    tap, place = k // plan.filled, k % plan.filled
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
