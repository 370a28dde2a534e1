"""Attention in one launch: a block of query rows of one head goes all the way.

Keys are staged in shared memory and multiplied with the block's queries on the tensor cores; the
scores leave the accumulators as 8-bit codes, which a few hundred bytes per row hold.  One warp per
row then finds the maximum, replaces codes by exponentials and sums them.  Values take the place of
the keys, transposed, so that both products read rows of codes; averages go out from the registers.
Exact integers need the row's maximum before the first exponential, hence two passes over codes
that never leave shared memory (cf. FlashAttention, Dao et al. 2022, which rescales instead).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.kernels.cpu.layout import Layout

from . import instructions as ptx
from .build import argument
from .elements import Shaped
from .gather import copy_chunk
from .instructions import Expr
from .plan import CHUNK, MMA_DEPTH, STATIC_SHARED
from .reduction import mma

WARPS = 4
THREADS = 32 * WARPS
TABLE = 256
_BLOCKS = 216  # enough for two on each multiprocessor of a large card


@dataclass(frozen=True)
class Attention:
    """What one kernel computes; see `qcompiler.ops.attention`.

    Attributes:
        query: [..., m, d].
        key: [..., d, n].
        value: [..., n, e].
        result: [..., m, e].
        query_dtype: uint8 or int8; keys and values are int8.
        codes_dtype: uint8 or int8.
        dtype: Of the result.
        mask: Shape of the mask, which broadcasts to [..., m, n]; None for none.
        operands: Shape and dtype of the buffers that codes and averages are computed with.
    """

    query: Layout
    key: Layout
    value: Layout
    result: Layout
    query_dtype: str
    codes_dtype: str
    dtype: str
    mask: tuple[int, ...] | None
    operands: tuple[tuple[tuple[tuple[int, ...], str], ...], ...]

    @property
    def leading(self) -> tuple[int, ...]:
        """Batch and heads."""
        return self.query.shape[:-2]

    @property
    def extents(self) -> tuple[int, int, int, int]:
        """m, n, d and e."""
        (m, d), (n, e) = self.query.shape[-2:], self.value.shape[-2:]
        return m, n, d, e


@dataclass(frozen=True)
class Scalars:
    """What happens to single elements.

    Attributes:
        code: From a score to its code, with buffers, at an index of the scores.
        reciprocal: From a row's total of exponentials to its int64 reciprocal.
        average: From a weighted sum and the reciprocal to the result, with buffers, at an index.
    """

    code: Callable[[Expr, Sequence[Shaped], tuple[Expr, ...]], Expr]
    reciprocal: Callable[[Expr], Expr]
    average: Callable[[Expr, Expr, Sequence[Shaped], tuple[Expr, ...]], Expr]


@dataclass(frozen=True)
class AttentionPlan:
    """How the work is cut.

    Attributes:
        rows: Queries of a block, a multiple of 16.
        depth: Bytes of a query or key in shared memory, a multiple of 32.
        keys: Keys in shared memory, a multiple of 16.
        codes: Bytes of a row of codes, a multiple of 32.
        columns: Elements of an average, in shared memory, a multiple of 16.
        vector: Bytes of one copy of queries and keys.
    """

    rows: int
    depth: int
    keys: int
    codes: int
    columns: int
    vector: int

    @property
    def code_stride(self) -> int:
        """Bytes from a row of codes to the next: an odd number of chunks avoids conflicts."""
        return self.codes + CHUNK

    @property
    def places(self) -> tuple[int, int, int, int, int]:
        """Where queries, keys (later values), codes and the table begin, and where all ends."""
        queries = self.rows * self.depth
        staged = max(self.keys * self.depth, self.columns * self.code_stride)
        codes = queries + staged
        table = codes + self.rows * self.code_stride
        return 0, queries, codes, table, table + TABLE


def attention_plan(problem: Attention) -> AttentionPlan | None:
    """Cut a problem; None if it does not fit shared memory, or lies in memory at odd places."""
    m, n, d, e = problem.extents
    depth = _ceil(d, MMA_DEPTH) * MMA_DEPTH
    steps = [d, CHUNK]
    for layout, row in ((problem.query, -2), (problem.key, -1)):
        steps += [layout.stride(axis) for axis in range(len(layout.shape) - 2)] + [
            layout.stride(row)
        ]
    vector = math.gcd(*steps)
    values = [problem.value.stride(axis) for axis in range(len(problem.value.shape) - 1)]
    contiguous = (problem.query.stride(-1), problem.key.stride(-2), problem.value.stride(-1))
    if contiguous != (1, 1, 1) or vector < 4 or math.gcd(e, *values) % 4 or depth > 128:
        return None
    if depth == 96:
        depth = 128
    plans = [
        AttentionPlan(rows, depth, _ceil(n, 16) * 16, _ceil(n, 32) * 32, _ceil(e, 16) * 16, vector)
        for rows in (64, 32, 16)
    ]
    fitting = [p for p in plans if p.places[-1] + 8 * p.rows <= STATIC_SHARED]
    heads = math.prod(problem.leading)
    busy = [p for p in fitting if heads * _ceil(m, p.rows) >= _BLOCKS]
    return busy[0] if busy else fitting[-1] if fitting else None


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def build_attention(
    problem: Attention,
    plan: AttentionPlan,
    architecture: int,
    scalars: Scalars,
    name: str = "main",
) -> PrimFunc:
    """Generate the kernel.

    Args:
        problem: Shapes and layouts.
        plan: Its `attention_plan`.
        architecture: The oldest that must run it: 75, 80, …
        scalars: What happens to single elements.
        name: Global symbol of the function.

    Returns:
        A function of query, key, value, the mask if there is one, the table of exponentials
        uint8 [256], the operands of the codes, those of the average, out; all flat and aligned to
        16 bytes.
    """
    row_blocks = _ceil(problem.extents[0], plan.rows)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        query = argument("query", problem.query.memory, problem.query_dtype)
        key = argument("key", problem.key.memory, "int8")
        value = argument("value", problem.value.memory, "int8")
        mask = None
        if problem.mask is not None:
            mask = Shaped(problem.mask, argument("mask", problem.mask, "bool"))
        table = argument("table", (TABLE,), "uint8")
        operands = [
            [
                Shaped(shape, argument(f"{kind}{i}", shape, dtype))
                for i, (shape, dtype) in enumerate(o)
            ]
            for kind, o in zip(("code", "average"), problem.operands, strict=True)
        ]
        out = argument("out", problem.result.memory, problem.dtype)
        with (
            T.launch_thread("blockIdx.x", math.prod(problem.leading) * row_blocks) as number,
            T.launch_thread("threadIdx.x", THREADS) as thread,
        ):
            shared = T.alloc_buffer((plan.places[-1],), "int8", scope="shared", layout=None)
            reciprocals = T.alloc_buffer((plan.rows,), "int64", scope="shared", layout=None)
            place, head = [], T.bind(number // row_blocks)
            for extent in reversed(problem.leading):
                place.append(T.bind(head % extent))
                head = T.bind(head // extent)
            first = T.bind(number % row_blocks * plan.rows)
            block = _Block(
                problem, plan, architecture, scalars, shared, reciprocals, thread,
                tuple(reversed(place)), first, mask,
            )  # fmt: skip
            block.stage_queries_and_keys(query, key, table)
            block.scores(operands[0])
            block.stage_values(value)
            block.exponentials()
            block.averages(operands[1], out)
    return builder.get()


@dataclass(frozen=True)
class _Block:
    """Emits the phases of one block; see `build_attention` for the names."""

    problem: Attention
    plan: AttentionPlan
    architecture: int
    scalars: Scalars
    shared: Expr
    reciprocals: Expr
    thread: Expr
    place: tuple[Expr, ...]
    first: Expr
    mask: Shaped | None

    @property
    def lane(self) -> Expr:
        return self.thread % 32

    @property
    def warp(self) -> Expr:
        return self.thread // 32

    def sync(self) -> None:
        T.evaluate(T.tvm_storage_sync("shared"))

    def stage_queries_and_keys(self, query: Expr, key: Expr, table: Expr) -> None:
        """Copy both operands of the scores, zeros where they end, and the table."""
        p, plan = self.problem, self.plan
        m, n, _, _ = p.extents
        queries, keys, _, start, _ = plan.places
        self._stage(query, p.query.offset((*self.place, self.first, 0)), p.query.stride(-2),
                    queries, plan.rows, m - self.first)  # fmt: skip
        self._stage(key, p.key.offset((*self.place, 0, 0)), p.key.stride(-1), keys, plan.keys, n)
        with T.If(self.thread < TABLE // 4), T.Then():
            word = table[T.Ramp(self.thread * 4, 1, 4)]
            at = T.Ramp(start + self.thread * 4, 1, 4)
            T.buffer_store(self.shared, T.reinterpret("int8x4", word), [at])
        if self.architecture >= 80:
            ptx.cp_async_commit()
            ptx.cp_async_wait(0)
        self.sync()

    def _stage(
        self, buffer: Expr, base: Expr, stride: int, target: int, rows: int, exist: Expr
    ) -> None:
        plan = self.plan
        base = T.bind(base)
        per_row = plan.depth // plan.vector
        with T.serial(_ceil(rows * per_row, THREADS)) as turn:
            number = T.bind(turn * THREADS + self.thread)
            row, k = T.bind(number // per_row), T.bind(number % per_row * plan.vector)
            valid = T.And(row < exist, k < self.problem.extents[2])
            into = target + self._row_place(row, k // CHUNK) + k % CHUNK

            def copy(row: Expr = row, k: Expr = k, valid: Expr = valid, into: Expr = into) -> None:
                offset = base + row * stride + k
                copy_chunk(self.architecture >= 80, plan.vector, (self.shared, into),
                           (buffer, offset), valid)  # fmt: skip

            if rows * per_row % THREADS == 0:
                copy()
            else:
                with T.If(number < rows * per_row), T.Then():
                    copy()

    def _row_place(self, row: Expr, chunk: Expr) -> Expr:
        chunks = self.plan.depth // CHUNK
        return row * self.plan.depth + T.bitwise_xor(chunk, row // (8 // chunks) % chunks) * CHUNK

    def scores(self, operands: Sequence[Shaped]) -> None:
        """Every warp takes its share of the keys, sixteen at a time, for all rows."""
        plan, dtype = self.plan, self.problem.query_dtype
        tiles, steps = plan.rows // 16, plan.depth // MMA_DEPTH
        queries, keys, _, _, _ = plan.places
        left = _registers(tiles * steps * 4)
        for i in range(tiles):
            for step in range(steps):
                row = i * 16 + self.lane % 16
                at = T.bind(queries + self._row_place(row, step * 2 + self.lane // 16))
                first = (i * steps + step) * 4
                ptx.ldmatrix_x4([left[first + r] for r in range(4)], self.shared[at])
        turns = _ceil(plan.keys // 16, WARPS)
        with T.serial(turns) as turn:
            tile = T.bind(turn * WARPS + self.warp)
            with T.If(tile < plan.keys // 16), T.Then():
                right = _registers(4 * steps)
                for step in range(steps):
                    # Matrices: first eight keys, both halves of the depth; the other eight.
                    row = tile * 16 + self.lane // 16 * 8 + self.lane % 8
                    at = T.bind(keys + self._row_place(row, step * 2 + self.lane // 8 % 2))
                    ptx.ldmatrix_x4([right[4 * step + r] for r in range(4)], self.shared[at])
                for i in range(tiles):
                    for half in range(2):
                        sums = _registers(4)
                        for r in range(4):
                            T.buffer_store(sums, T.int32(0), [r])
                        for step in range(steps):
                            first = (i * steps + step) * 4
                            mma(
                                self.architecture,
                                dtype,
                                [sums[r] for r in range(4)],
                                [left[first + r] for r in range(4)],
                                [right[4 * step + 2 * half + r] for r in range(2)],
                            )
                        self._store_codes(sums, i * 16, tile * 16 + half * 8, operands)

    def _store_codes(self, sums: Expr, row: int, column: Expr, operands: Sequence[Shaped]) -> None:
        """Codes of a fragment, counted from the smallest that the dtype has."""
        m, n, _, _ = self.problem.extents
        lowest = -128 if self.problem.codes_dtype == "int8" else 0
        for upper in range(2):
            own = T.bind(row + upper * 8 + self.lane // 4)
            pair = T.alloc_buffer((2,), "uint8", scope="local", layout=None)
            for i in range(2):
                at = T.bind(column + self.lane % 4 * 2 + i)
                index = (*self.place, T.min(self.first + own, m - 1), T.min(at, n - 1))
                code = self.scalars.code(sums[2 * upper + i], operands, index)
                code = T.cast(code, "int32") - lowest
                T.buffer_store(pair, T.cast(code, "uint8"), [i])
            at = self.plan.places[2] + own * self.plan.code_stride + column + self.lane % 4 * 2
            value = T.reinterpret("int8x2", pair[T.Ramp(0, 1, 2)])
            T.buffer_store(self.shared, value, [T.Ramp(at, 1, 2)])

    def stage_values(self, value: Expr) -> None:
        """Values over the keys, [e, n]: blocks of 4×4 bytes change places in registers."""
        plan, layout = self.plan, self.problem.value
        _, n, _, e = self.problem.extents
        self.sync()
        base = T.bind(layout.offset((*self.place, 0, 0)))
        across, down = plan.columns // 4, plan.codes // 4
        near = math.gcd(across, 8)  # lanes along a value: whole sectors of global memory
        with T.serial(_ceil(across * down, THREADS)) as turn:
            number = T.bind(turn * THREADS + self.thread)
            column = T.bind((number % near + number // near // down * near) * 4)
            key = T.bind(number // near % down * 4)
            with T.If(number < across * down), T.Then():
                words = _registers(4)
                for i in range(4):
                    inside = T.And(key + i < n, column < e)
                    at = T.Select(inside, base + (key + i) * layout.stride(-2) + column, 0)
                    word = T.reinterpret("int32", value[T.Ramp(at, 1, 4)])
                    T.buffer_store(words, T.Select(inside, word, 0), [i])
                ptx.transpose_4x4([words[i] for i in range(4)])
                for i in range(4):
                    at = plan.places[1] + (column + i) * plan.code_stride + key
                    word = T.reinterpret("int8x4", words[i])
                    T.buffer_store(self.shared, word, [T.Ramp(at, 1, 4)])

    def exponentials(self) -> None:
        """One warp per row: the maximum, the exponentials in place of the codes, their sum."""
        plan = self.plan
        m, n, _, _ = self.problem.extents
        _, _, codes, table, _ = plan.places
        words = _ceil(plan.codes // 4, 32)
        with T.serial(plan.rows // WARPS) as turn:
            row = T.bind(turn * WARPS + self.warp)
            index = (*self.place, T.min(self.first + row, m - 1))
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
                column = T.bind((word * 32 + self.lane) * 4)
                at = T.Ramp(codes + row * plan.code_stride + column, 1, 4)
                quad = T.reinterpret("uint32", self.shared[at])
                quad = T.bind(T.if_then_else(column < plan.keys, quad, T.uint32(0)))
                for i in range(4):
                    kept: Expr = column + i < n
                    if self.mask is not None:
                        kept = T.And(kept, self.mask[(*index, T.min(column + i, n - 1))])
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
                column = T.bind((word * 32 + self.lane) * 4)
                quad_out = T.alloc_buffer((4,), "uint8", scope="local", layout=None)
                for i in range(4):
                    kept = keep[4 * word + i]
                    at = T.bind(T.Select(kept, found[4 * word + i] - largest[0] + 255, 0))
                    value = T.cast(T.reinterpret("uint8", self.shared[table + at]), "int32")
                    value = T.bind(T.Select(kept, value, 0))
                    T.buffer_store(total, total[0] + value, [0])
                    T.buffer_store(quad_out, T.cast(value, "uint8"), [i])
                with T.If(column < plan.codes), T.Then():
                    at = T.Ramp(codes + row * plan.code_stride + column, 1, 4)
                    value = T.reinterpret("int8x4", quad_out[T.Ramp(0, 1, 4)])
                    T.buffer_store(self.shared, value, [at])
            for distance in (16, 8, 4, 2, 1):
                T.buffer_store(total, total[0] + _shuffle(total[0], distance), [0])
            with T.If(self.lane == 0), T.Then():
                T.buffer_store(self.reciprocals, self.scalars.reciprocal(total[0]), [row])
        self.sync()

    def averages(self, operands: Sequence[Shaped], out: Expr) -> None:
        """Warps share out tiles of 16 rows by 16 elements; each takes all keys."""
        plan = self.plan
        _, values, codes, _, _ = plan.places
        across = plan.columns // 16
        tiles = plan.rows // 16 * across
        with T.serial(_ceil(tiles, WARPS)) as turn:
            tile = T.bind(turn * WARPS + self.warp)
            with T.If(tile < tiles), T.Then():
                row, column = T.bind(tile // across * 16), T.bind(tile % across * 16)
                sums = _registers(8)
                for i in range(8):
                    T.buffer_store(sums, T.int32(0), [i])
                with T.serial(plan.codes // MMA_DEPTH) as step:
                    left, right = _registers(4), _registers(4)
                    own = row + self.lane % 16
                    at = codes + own * plan.code_stride + step * MMA_DEPTH + self.lane // 16 * CHUNK
                    ptx.ldmatrix_x4([left[r] for r in range(4)], self.shared[at])
                    own = column + self.lane // 16 * 8 + self.lane % 8
                    at = values + own * plan.code_stride + step * MMA_DEPTH
                    at = at + self.lane // 8 % 2 * CHUNK
                    ptx.ldmatrix_x4([right[r] for r in range(4)], self.shared[at])
                    for half in range(2):
                        mma(
                            self.architecture,
                            "uint8",
                            [sums[4 * half + r] for r in range(4)],
                            [left[r] for r in range(4)],
                            [right[2 * half + r] for r in range(2)],
                        )
                for half in range(2):
                    for upper in range(2):
                        self._store_averages(
                            [sums[4 * half + 2 * upper + i] for i in range(2)],
                            row + upper * 8 + self.lane // 4,
                            column + half * 8 + self.lane % 4 * 2,
                            operands,
                            out,
                        )

    def _store_averages(
        self, pair: list[Expr], row: Expr, column: Expr, operands: Sequence[Shaped], out: Expr
    ) -> None:
        m, _, _, e = self.problem.extents
        row, column = T.bind(row), T.bind(column)
        with T.If(T.And(self.first + row < m, column < e)), T.Then():
            for i in range(2):
                index = (*self.place, self.first + row, column + i)
                value = self.scalars.average(pair[i], self.reciprocals[row], operands, index)
                T.buffer_store(out, value, [self.problem.result.offset(index)])


def _registers(count: int) -> Expr:
    return T.alloc_buffer((count,), "int32", scope="local", layout=None)


def _shuffle(value: Expr, distance: int) -> Expr:
    return T.tvm_warp_shuffle_xor(T.uint32(0xFFFFFFFF), value, distance, 32, 32)
