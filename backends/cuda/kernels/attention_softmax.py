"""The second half of attention: from codes to exponentials, and their averages of the values."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.recognized import reciprocal

from . import instructions as ptx
from .attention_block import WARPS, Block, registers
from .attention_plan import ceil
from .elements import Shaped
from .instructions import Expr
from .plan import CHUNK, MMA_DEPTH

GROUP = 8
"""Lanes that share a row: a warp has four at once, and reduces each in three steps."""


def exponentials(block: Block) -> None:
    """Eight lanes per row: the maximum, the exponentials in place of the codes, their sum."""
    plan = block.plan
    m, _, _, _ = block.problem.extents
    codes, table = plan.places.codes, plan.places.table
    words = plan.codes // (4 * GROUP)
    member = block.lane % GROUP
    with T.serial(plan.rows // (WARPS * 32 // GROUP)) as turn:
        row = T.bind((turn * WARPS + block.warp) * (32 // GROUP) + block.lane // GROUP)
        index = (*block.place, T.min(block.first + row, m - 1))
        largest, total = registers(1), registers(1)
        T.buffer_store(largest, T.int32(0), [0])
        T.buffer_store(total, T.int32(0), [0])
        with T.serial(words) as word:
            column = T.bind((word * GROUP + member) * 4)
            for code, keep in _kept_codes(block, row, column, index):
                T.buffer_store(largest, T.max(largest[0], T.Select(keep, code, 0)), [0])
        for distance in (4, 2, 1):
            T.buffer_store(largest, T.max(largest[0], _shuffle(largest[0], distance)), [0])
        with T.serial(words) as word:
            column = T.bind((word * GROUP + member) * 4)
            quad = T.alloc_buffer((4,), "uint8", scope="local", layout=None)
            for i, (code, keep) in enumerate(_kept_codes(block, row, column, index)):
                at = T.bind(T.Select(keep, code - largest[0] + 255, 0))
                value = T.cast(T.reinterpret("uint8", block.shared[table + at]), "int32")
                value = T.bind(T.Select(keep, value, 0))
                T.buffer_store(total, total[0] + value, [0])
                T.buffer_store(quad, T.cast(value, "uint8"), [i])
            at = T.Ramp(codes + row * plan.code_stride + column, 1, 4)
            T.buffer_store(block.shared, T.reinterpret("int8x4", quad[T.Ramp(0, 1, 4)]), [at])
        for distance in (4, 2, 1):
            T.buffer_store(total, total[0] + _shuffle(total[0], distance), [0])
        with T.If(member == 0), T.Then():
            T.buffer_store(block.reciprocals, reciprocal(total[0]), [row])
    block.sync()


def _kept_codes(
    block: Block, row: Expr, column: Expr, index: tuple[Expr, ...]
) -> list[tuple[Expr, Expr]]:
    """Four neighbouring codes of a row, and whether each counts."""
    plan = block.plan
    n = block.problem.extents[1]
    at = T.Ramp(plan.places.codes + row * plan.code_stride + column, 1, 4)
    quad = T.reinterpret("uint32", block.shared[at])
    if plan.keys < plan.codes:
        quad = T.if_then_else(column < plan.keys, quad, T.uint32(0))
    quad, found = T.bind(quad), []
    for i in range(4):
        keep: Expr = column + i < n
        if block.mask is not None:
            keep = T.And(keep, block.mask[(*index, T.min(column + i, n - 1))])
        code = T.bitwise_and(T.shift_right(quad, T.uint32(8 * i)), T.uint32(255))
        found.append((T.bind(T.cast(code, "int32")), T.bind(keep)))
    return found


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
                    block.generation.mma(
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
            elements = (pair[i], block.reciprocals[row])
            value = block.average.value(elements, operands, index)
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
