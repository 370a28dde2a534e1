"""The first half of attention: operands to shared memory, scores to codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.layout import AttentionShape
from qcompiler.backends.tvm.table import Pointwise

from . import instructions as ptx
from .attention_plan import TABLE, AttentionPlan, ceil
from .elements import Shaped
from .gather import copy_async, loaded
from .generation import Generation
from .instructions import Expr
from .plan import CHUNK, MMA_DEPTH

WARPS = 4
THREADS = 32 * WARPS


@dataclass(frozen=True)
class Block:
    """Emits the phases of one block; see `build_attention` for the names."""

    problem: AttentionShape
    plan: AttentionPlan
    generation: Generation
    codes: Pointwise
    average: Pointwise
    shared: Expr
    reciprocals: Expr
    thread: Expr
    place: tuple[Expr, ...]
    first: Expr
    mask: Shaped | None

    @property
    def lane(self) -> Expr:
        """The thread's place in its warp."""
        return self.thread % 32

    @property
    def warp(self) -> Expr:
        """The thread's warp."""
        return self.thread // 32

    def sync(self) -> None:
        """All threads of the block meet."""
        T.evaluate(T.tvm_storage_sync("shared"))

    def stage_queries_and_keys(self, query: Expr, key: Expr, table: Expr) -> None:
        """Start to copy both operands of the scores, zeros where they end, and the table."""
        p, plan = self.problem, self.plan
        m, n, _, _ = p.extents
        places = plan.places
        self._stage(query, p.query.offset((*self.place, self.first, 0)), p.query.stride(-2),
                    places.queries, plan.rows, m - self.first)  # fmt: skip
        self._stage(key, p.key.offset((*self.place, 0, 0)), p.key.stride(-1), places.keys,
                    plan.keys, n)  # fmt: skip
        with T.If(self.thread < TABLE // 4), T.Then():
            word = table[T.Ramp(self.thread * 4, 1, 4)]
            at = T.Ramp(places.table + self.thread * 4, 1, 4)
            T.buffer_store(self.shared, T.reinterpret("int8x4", word), [at])
        if self.generation.asynchronous:
            ptx.cp_async_commit()

    def wait(self) -> None:
        """What was copied has arrived, for all threads."""
        if self.generation.asynchronous:
            ptx.cp_async_wait(0)
        self.sync()

    def _stage(
        self, buffer: Expr, base: Expr, stride: int, target: int, rows: int, exist: Expr
    ) -> None:
        plan = self.plan
        base = T.bind(base)
        per_row = plan.depth // plan.vector
        with T.serial(ceil(rows * per_row, THREADS)) as turn:
            number = T.bind(turn * THREADS + self.thread)
            row, k = T.bind(number // per_row), T.bind(number % per_row * plan.vector)
            valid = T.And(row < exist, k < self.problem.extents[2])
            into = target + self._row_place(row, k // CHUNK) + k % CHUNK

            def copy(row: Expr = row, k: Expr = k, valid: Expr = valid, into: Expr = into) -> None:
                source = (buffer, base + row * stride + k)
                if self.generation.asynchronous:
                    copy_async(plan.vector, (self.shared, into), source, valid)
                    return
                value = T.reinterpret(f"int8x{plan.vector}", loaded(plan.vector, source, valid))
                T.buffer_store(self.shared, value, [T.Ramp(into, 1, plan.vector)])

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
        queries, keys = plan.places.queries, plan.places.keys
        left = registers(tiles * steps * 4)
        for i in range(tiles):
            for step in range(steps):
                row = i * 16 + self.lane % 16
                at = T.bind(queries + self._row_place(row, step * 2 + self.lane // 16))
                first = (i * steps + step) * 4
                ptx.ldmatrix_x4([left[first + r] for r in range(4)], self.shared[at])
        turns = ceil(plan.keys // 16, WARPS)
        with T.serial(turns) as turn:
            tile = T.bind(turn * WARPS + self.warp)
            with T.If(tile < plan.keys // 16), T.Then():
                right = registers(4 * steps)
                for step in range(steps):
                    # Matrices: first eight keys, both halves of the depth; the other eight.
                    row = tile * 16 + self.lane // 16 * 8 + self.lane % 8
                    at = T.bind(keys + self._row_place(row, step * 2 + self.lane // 8 % 2))
                    ptx.ldmatrix_x4([right[4 * step + r] for r in range(4)], self.shared[at])
                for i in range(tiles):
                    for half in range(2):
                        sums = registers(4)
                        for r in range(4):
                            T.buffer_store(sums, T.int32(0), [r])
                        for step in range(steps):
                            first = (i * steps + step) * 4
                            self.generation.mma(
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
                code = self.codes.value((sums[2 * upper + i],), operands, index)
                code = T.cast(code, "int32") - lowest
                T.buffer_store(pair, T.cast(code, "uint8"), [i])
            at = self.plan.places.codes + own * self.plan.code_stride + column + self.lane % 4 * 2
            value = T.reinterpret("int8x2", pair[T.Ramp(0, 1, 2)])
            T.buffer_store(self.shared, value, [T.Ramp(at, 1, 2)])

    def stage_values(self, value: Expr) -> None:
        """Values as [e, n]: blocks of 4×4 bytes change places in registers."""
        plan, layout = self.plan, self.problem.value
        _, n, _, e = self.problem.extents
        base = T.bind(layout.offset((*self.place, 0, 0)))
        across, down = plan.columns // 4, plan.codes // 4
        near = math.gcd(across, 4)  # lanes along a value: whole sectors of global memory
        with T.serial(ceil(across * down, THREADS)) as turn:
            number = T.bind(turn * THREADS + self.thread)
            column = T.bind((number % near + number // near // down * near) * 4)
            key = T.bind(number // near % down * 4)
            with T.If(number < across * down), T.Then():
                words = registers(4)
                for i in range(4):
                    inside = T.And(key + i < n, column < e)
                    at = T.Select(inside, base + (key + i) * layout.stride(-2) + column, 0)
                    word = T.reinterpret("int32", value[T.Ramp(at, 1, 4)])
                    T.buffer_store(words, T.Select(inside, word, 0), [i])
                ptx.transpose_4x4([words[i] for i in range(4)])
                for i in range(4):
                    at = plan.places.values + (column + i) * plan.code_stride + key
                    word = T.reinterpret("int8x4", words[i])
                    T.buffer_store(self.shared, word, [T.Ramp(at, 1, 4)])


def registers(count: int) -> Expr:
    """int32 registers of a thread."""
    return T.alloc_buffer((count,), "int32", scope="local", layout=None)
