"""The end of a block: sums meet in shared memory, and leave it row by row in whole vectors.

Fragments give a lane two neighbouring outputs.  Through shared memory it gets four, all lanes of a
warp read and write whole lines, and the parts of a split depth are added on the way.  What depends
on the channel only is loaded once for all rows of the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Epilogue

from .elements import LANES, Operand, Reader, applied, store_lanes
from .gather import Block
from .instructions import Expr
from .reduction import Warp


def store_block(
    block: Block,
    warp: Warp,
    sums: Expr,
    bias: Expr,
    epilogue: Epilogue,
    operands: Sequence[Expr],
    out: Expr,
    out_shape: tuple[int, ...],
) -> None:
    """Send the sums of a block through the epilogue into the flat output of that shape."""
    plan, tile = block.plan, block.plan.tile
    vectors = tile.columns // LANES
    column = T.bind(block.column + block.thread % vectors * LANES)
    ragged = plan.columns % tile.columns != 0
    reader = Reader(out_shape, T.Select(column < plan.columns, column, 0) if ragged else column)
    known = [Operand(b, s, d) for b, (s, d) in zip(operands, epilogue.operands, strict=True)]
    read = {i: known[i] for i in epilogue.by_element}
    fixed = {i: reader.load(o) for i, o in read.items() if not o.leading}
    start = reader.load(Operand(bias, (plan.columns,), "int32"))
    rows = tile.rows // tile.passes
    band = tile.warp_rows // tile.passes  # rows of a warp's tile in one pass
    for number in range(tile.passes):
        T.evaluate(T.tvm_storage_sync("shared"))
        _deposit(block, warp, sums, number, band)
        T.evaluate(T.tvm_storage_sync("shared"))
        with T.serial(-(-rows * vectors // tile.threads)) as turn:
            own = T.bind((turn * tile.threads + block.thread) // vectors)
            row = block.row + own // band * tile.warp_rows + number * band + own % band
            row = T.bind(row)
            with T.If(_inside(block, own, row, column, rows)), T.Then():
                total = _sums(block, own, rows)
                varying = {i: reader.load(o, row) for i, o in read.items() if o.leading}
                accumulators = (T.bind(total[lane] + start[lane]) for lane in range(LANES))
                loaded = {**fixed, **varying}
                values = applied(epilogue, known, loaded, accumulators, len(out_shape))
                store_lanes(out, row, column, plan.columns, values, epilogue.dtype)


def _deposit(block: Block, warp: Warp, sums: Expr, number: int, band: int) -> None:
    """Put one pass of the warps' sums into shared memory, each part of the depth by itself."""
    tile = block.plan.tile
    fragments, across = band // 16, tile.warp_columns // 8
    part = warp.part * (tile.rows // tile.passes)
    first = T.bind(part + warp.row // tile.warp_rows * band + warp.lane // 4)
    for i in range(fragments):
        for j in range(across):
            for half in range(2):
                index = ((number * fragments + i) * across + j) * 4 + 2 * half
                row = first + i * 16 + half * 8
                column = warp.column + j * 8 + warp.lane % 4 * 2
                place = (row * tile.sum_columns + column) * 4
                pair = T.reinterpret("int8x8", sums[T.Ramp(index, 1, 2)])
                T.buffer_store(block.shared, pair, [T.Ramp(place, 1, 8)])


def _sums(block: Block, row: Expr, rows: int) -> Expr:
    """The thread's four sums, over all parts of the depth."""
    tile = block.plan.tile
    total = T.alloc_buffer((LANES,), "int32", scope="local", layout=None)
    lanes = T.Ramp(0, 1, LANES)
    place = T.bind((row * tile.sum_columns + block.thread % (tile.columns // LANES) * LANES) * 4)
    for part in range(tile.split):
        at = place + part * rows * tile.sum_columns * 4
        value = T.reinterpret("int32x4", block.shared[T.Ramp(at, 1, 16)])
        T.buffer_store(total, value if part == 0 else total[lanes] + value, [lanes])
    return total


def _inside(block: Block, own: Expr, row: Expr, column: Expr, rows: int) -> Expr:
    plan, tile = block.plan, block.plan.tile
    tests = [row < plan.rows, column < plan.columns]
    if rows * tile.columns // LANES % tile.threads:
        tests.append(own < rows)
    return reduce(T.And, tests)
