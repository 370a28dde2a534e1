"""The second half of attention: from codes to exponentials, and their averages of the values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm.tirx.script import builder as T  # noqa: N812

from . import instructions as ptx
from .attention_block import WARPS, Block, registers
from .attention_plan import ceil
from .elements import Shaped
from .instructions import Expr
from .plan import CHUNK, MMA_DEPTH
from .reduction import mma


def exponentials(block: Block) -> None:
    """One warp per row: the maximum, the exponentials in place of the codes, their sum."""
    plan = block.plan
    m, n, _, _ = block.problem.extents
    codes, table = plan.places.codes, plan.places.table
    words = ceil(plan.codes // 4, 32)
    with T.serial(plan.rows // WARPS) as turn:
        row = T.bind(turn * WARPS + block.warp)
        index = (*block.place, T.min(block.first + row, m - 1))
        found, keep, largest, total = (
            T.alloc_buffer((size,), dtype, scope="local", layout=None)
            for size, dtype in (
                (4 * words, "int32"),
                (4 * words, "bool"),
                (1, "int32"),
                (1, "int32"),
            )
        )
        T.buffer_store(largest, T.int32(0), [0])
        T.buffer_store(total, T.int32(0), [0])
        for word in range(words):
            column = T.bind((word * 32 + block.lane) * 4)
            at = T.Ramp(codes + row * plan.code_stride + column, 1, 4)
            quad = T.reinterpret("uint32", block.shared[at])
            quad = T.bind(T.if_then_else(column < plan.keys, quad, T.uint32(0)))
            for i in range(4):
                kept: Expr = column + i < n
                if block.mask is not None:
                    kept = T.And(kept, block.mask[(*index, T.min(column + i, n - 1))])
                code = T.cast(
                    T.bitwise_and(T.shift_right(quad, T.uint32(8 * i)), T.uint32(255)), "int32"
                )
                T.buffer_store(keep, kept, [4 * word + i])
                T.buffer_store(found, code, [4 * word + i])
                code = T.Select(keep[4 * word + i], found[4 * word + i], 0)
                T.buffer_store(largest, T.max(largest[0], code), [0])
        for distance in (16, 8, 4, 2, 1):
            other = _shuffle(largest[0], distance)
            T.buffer_store(largest, T.max(largest[0], other), [0])
        for word in range(words):
            column = T.bind((word * 32 + block.lane) * 4)
            quad_out = T.alloc_buffer((4,), "uint8", scope="local", layout=None)
            for i in range(4):
                kept = keep[4 * word + i]
                at = T.bind(T.Select(kept, found[4 * word + i] - largest[0] + 255, 0))
                value = T.cast(T.reinterpret("uint8", block.shared[table + at]), "int32")
                value = T.bind(T.Select(kept, value, 0))
                T.buffer_store(total, total[0] + value, [0])
                T.buffer_store(quad_out, T.cast(value, "uint8"), [i])
            with T.If(column < plan.codes), T.Then():
                at = T.Ramp(codes + row * plan.code_stride + column, 1, 4)
                value = T.reinterpret("int8x4", quad_out[T.Ramp(0, 1, 4)])
                T.buffer_store(block.shared, value, [at])
        for distance in (16, 8, 4, 2, 1):
            T.buffer_store(total, total[0] + _shuffle(total[0], distance), [0])
        with T.If(block.lane == 0), T.Then():
            T.buffer_store(block.reciprocals, block.scalars.reciprocal(total[0]), [row])
    block.sync()


def averages(block: Block, operands: Sequence[Shaped], out: Expr) -> None:
    """Warps share out tiles of 16 rows by 16 elements; each takes all keys."""
    plan = block.plan
    values, codes = plan.places.values, plan.places.codes
    across = plan.columns // 16
    tiles = plan.rows // 16 * across
    with T.serial(ceil(tiles, WARPS)) as turn:
        tile = T.bind(turn * WARPS + block.warp)
        with T.If(tile < tiles), T.Then():
            row, column = T.bind(tile // across * 16), T.bind(tile % across * 16)
            sums = registers(8)
            for i in range(8):
                T.buffer_store(sums, T.int32(0), [i])
            with T.serial(plan.codes // MMA_DEPTH) as step:
                left, right = registers(4), registers(4)
                own = row + block.lane % 16
                at = codes + own * plan.code_stride + step * MMA_DEPTH + block.lane // 16 * CHUNK
                ptx.ldmatrix_x4([left[r] for r in range(4)], block.shared[at])
                own = column + block.lane // 16 * 8 + block.lane % 8
                at = values + own * plan.code_stride + step * MMA_DEPTH
                at = at + block.lane // 8 % 2 * CHUNK
                ptx.ldmatrix_x4([right[r] for r in range(4)], block.shared[at])
                for half in range(2):
                    mma(
                        block.architecture,
                        "uint8",
                        [sums[4 * half + r] for r in range(4)],
                        [left[r] for r in range(4)],
                        [right[2 * half + r] for r in range(2)],
                    )
            for half in range(2):
                for upper in range(2):
                    _store_averages(
                        block,
                        [sums[4 * half + 2 * upper + i] for i in range(2)],
                        row + upper * 8 + block.lane // 4,
                        column + half * 8 + block.lane % 4 * 2,
                        operands,
                        out,
                    )


def _store_averages(
    block: Block, pair: list[Expr], row: Expr, column: Expr, operands: Sequence[Shaped], out: Expr
) -> None:
    m, _, _, e = block.problem.extents
    row, column = T.bind(row), T.bind(column)
    with T.If(T.And(block.first + row < m, column < e)), T.Then():
        found = T.alloc_buffer((2,), block.problem.dtype, scope="local", layout=None)
        for i in range(2):
            index = (*block.place, block.first + row, column + i)
            value = block.scalars.average(pair[i], block.reciprocals[row], operands, index)
            T.buffer_store(found, value, [i])
        layout = block.problem.result
        start = layout.offset((*block.place, block.first + row, column))
        strides = [layout.stride(axis) for axis in range(len(layout.shape) - 1)]
        if layout.stride(-1) == 1 and math.gcd(2, *strides) == 2:
            T.buffer_store(out, found[T.Ramp(0, 1, 2)], [T.Ramp(start, 1, 2)])
        else:
            for i in range(2):
                T.buffer_store(out, found[i], [start + i * layout.stride(-1)])


def _shuffle(value: Expr, distance: int) -> Expr:
    return T.tvm_warp_shuffle_xor(T.uint32(0xFFFFFFFF), value, distance, 32, 32)
