"""One block of rows of attention, from its scores to its stored averages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Epilogue, Expr
from qcompiler.backends.tvm.recognized import reciprocal
from qcompiler.backends.tvm.table import Pointwise
from qcompiler.backends.tvm.te import load

from .attention_pack import Packed, flat, unravel
from .attention_plan import AttentionPlan, ceil_div, cut
from .dot import SIGN_BIT, Tile, needs_flip, operand_dtype
from .lookup import BYTES, permute, quarters
from .loops import spans


@dataclass(frozen=True)
class Scratch:
    """What a block of rows goes through; one row behind the other.

    Attributes:
        rows: Queries as the dot instruction wants them; None where it reads them in place.
        sums: int32 accumulators, of the scores and then of the averages.
        codes: Of the scores.
        exponentials: Zero beyond the last key.
        keep: uint8, 255 where the mask holds; None without mask.
        reciprocals: int64, one per row.
    """

    rows: Expr | None
    sums: Expr
    codes: Expr
    exponentials: Expr
    keep: Expr | None
    reciprocals: Expr


@dataclass(frozen=True)
class Block:
    """Emits the work on one block of rows; see `build_attention` for the names."""

    plan: AttentionPlan
    codes: Epilogue
    average: Pointwise
    query: Expr
    keys: Packed
    values: Packed
    mask: Expr | None
    table: Expr

    @property
    def in_place(self) -> bool:
        """Whether the dot instruction can read queries where they lie."""
        layout, isa = self.plan.problem.query, self.plan.isa
        contiguous = layout.stride(-1) == 1 and layout.shape[-1] % isa.group == 0
        flips = needs_flip(isa, self.plan.problem.query_dtype)
        return contiguous and not isa.widened and not flips

    def scratch(self) -> Scratch:
        """Allocate for one task."""
        plan, isa = self.plan, self.plan.isa
        p = plan.problem
        rows, width = plan.rows, plan.columns
        widest = max(width, plan.vectors[1] * isa.lanes)

        def buffer(size: int, dtype: str) -> Expr:
            return T.alloc_buffer((size,), dtype, layout=None)

        return Scratch(
            rows=None
            if self.in_place
            else buffer(rows * plan.steps[0] * isa.group, operand_dtype(isa, p.query_dtype)),
            sums=buffer(rows * widest, "int32"),
            codes=buffer(rows * width, p.codes_dtype),
            exponentials=buffer(rows * width, operand_dtype(isa, "uint8")),
            keep=None if self.mask is None else buffer(width, "uint8"),
            reciprocals=buffer(rows, "int64"),
        )

    def emit(
        self,
        item: Expr,
        scratch: Scratch,
        code_operands: list[Expr],
        average_operands: list[Expr],
        out: Expr,
    ) -> None:
        """The block `item`, counted over heads and blocks of rows."""
        plan = self.plan
        p, lanes = plan.problem, plan.isa.lanes
        m, _, _, e = p.extents
        head = T.bind(item // plan.blocks)
        first = T.bind(T.min(item % plan.blocks * plan.rows, m - plan.rows))
        place = unravel(head, p.leading)

        self._codes(head, place, first, scratch, code_operands)
        # In a loop of their own: a load right behind narrower stores of the same bytes stalls.
        with T.serial(plan.rows) as r:
            if scratch.keep is not None:
                self._masks((*place, T.bind(first + r)), scratch.keep)
            self._exponentials(r, scratch)
        self._averages(head, scratch)
        stride = plan.vectors[1] * lanes
        with T.serial(plan.rows) as r:
            row = T.bind(first + r)
            factor = T.bind(scratch.reciprocals[r])
            for start, width, blocks in spans(e, lanes):
                with T.serial(blocks) as block, T.vectorized(width) as lane:
                    column = start + block * width + lane
                    index = (*place, row, column)
                    elements = (scratch.sums[r * stride + column], factor)
                    value = self.average.value(elements, average_operands, index)
                    T.buffer_store(out, value, list(p.result.index(index)))

    def _codes(
        self,
        head: Expr,
        place: tuple[Expr, ...],
        first: Expr,
        scratch: Scratch,
        operands: list[Expr],
    ) -> None:
        """Scores, and their codes where these can be had from registers."""
        plan, isa = self.plan, self.plan.isa
        p, lanes, epilogue = plan.problem, isa.lanes, self.codes
        n, group, steps = p.extents[1], isa.group, plan.steps[0]
        lowest = T.cast(T.int32(-128 if p.codes_dtype == "int8" else 0), p.codes_dtype)
        for r in range(plan.rows):
            tail = [T.Ramp((r + 1) * plan.columns - BYTES, 1, BYTES)]
            T.buffer_store(scratch.codes, T.broadcast(lowest, BYTES), tail)
        source = flat(self.query, p.query, p.query_dtype)
        base, stride = T.bind(p.query.offset((*place, first, 0))), p.query.stride(-2)
        if scratch.rows is not None:
            self._copy(source, base, scratch.rows)
            source, base, stride = scratch.rows, 0, steps * group

        def row(r: int, step: Expr) -> Expr:
            return source[T.Ramp(base + r * stride + step * group, 1, group)]

        def into(r: int, vector: int, total: Expr) -> None:
            column = vector * lanes
            span = [T.Ramp(r * plan.columns + column, 1, lanes)]
            if epilogue.vector is None or column + lanes > n:
                T.buffer_store(scratch.sums, total, span)
                return
            code = epilogue.vector(total, operands, (*place, first + r, T.int32(column)), lanes)
            T.buffer_store(scratch.codes, code, span)

        self._tiles(head, self.keys, 0, row, False, into)
        start = 0 if epilogue.vector is None else n // lanes * lanes
        with T.serial(plan.rows) as r:
            index = (*place, T.bind(first + r))
            for begin, width, blocks in spans(n - start, lanes):
                with T.serial(blocks) as block, T.vectorized(width) as lane:
                    column = start + begin + block * width + lane
                    at = r * plan.columns + column
                    code = epilogue.value(scratch.sums[at], operands, (*index, column))
                    T.buffer_store(scratch.codes, code, [at])

    def _copy(self, source: Expr, base: Expr, rows: Expr) -> None:
        """Queries with the sign and the width that the dot instruction takes, 0 beyond the last.

        A repeated key meets what lies beyond the depth.
        """
        plan, isa = self.plan, self.plan.isa
        layout, dtype = plan.problem.query, plan.problem.query_dtype
        depth, width = layout.shape[-1], plan.steps[0] * isa.group
        kind = operand_dtype(isa, dtype)
        flip = T.cast(T.int32(SIGN_BIT if needs_flip(isa, dtype) else 0), dtype)
        with T.serial(plan.rows) as r:
            for start, count, blocks in spans(depth, BYTES):
                with T.serial(blocks) as block, T.vectorized(count) as lane:
                    k = start + block * count + lane
                    code = source[base + r * layout.stride(-2) + k * layout.stride(-1)]
                    flipped = T.bitwise_xor(code, flip)
                    T.buffer_store(rows, T.cast(flipped, kind), [r * width + k])
            for k in range(depth, width):
                T.buffer_store(rows, T.cast(flip, kind), [r * width + k])

    def _averages(self, head: Expr, scratch: Scratch) -> None:
        plan, isa = self.plan, self.plan.isa

        def row(r: int, step: Expr) -> Expr:
            at = r * plan.columns + step * isa.group
            return scratch.exponentials[T.Ramp(at, 1, isa.group)]

        def into(r: int, vector: int, total: Expr) -> None:
            at = (r * plan.vectors[1] + vector) * isa.lanes
            T.buffer_store(scratch.sums, total, [T.Ramp(at, 1, isa.lanes)])

        self._tiles(head, self.values, 1, row, needs_flip(isa, "uint8"), into)

    def _tiles(
        self,
        head: Expr,
        packed: Packed,
        which: int,
        row: Callable[[int, Expr], Expr],
        flips: bool,
        into: Callable[[int, int, Expr], None],
    ) -> None:
        """All sums of a product for the block's rows; `into(row, vector, sums)` stores them."""
        plan, isa = self.plan, self.plan.isa
        lanes, most = isa.lanes, (plan.key_vectors, plan.value_vectors)[which]
        for begin, count in cut(plan.vectors[which], most):

            def column(step: Expr, vector: int, begin: int = begin) -> Expr:
                width = lanes * isa.group
                return packed.columns[head, step, T.Ramp((begin + vector) * width, 1, width)]

            def start(vector: int, begin: int = begin) -> Expr:
                assert packed.starts is not None
                return packed.starts[head, T.Ramp((begin + vector) * lanes, 1, lanes)]

            def store(r: int, vector: int, total: Expr, begin: int = begin) -> None:
                into(r, begin + vector, total)

            tile = Tile(isa, plan.rows, count, plan.steps[which], flips)
            tile.sums(row, column, start if packed.starts is not None else None, store)

    def _masks(self, place: tuple[Expr, ...], keep: Expr) -> None:
        for start, width, blocks in spans(self.plan.problem.extents[1], BYTES):
            with T.serial(blocks) as block, T.vectorized(width) as lane:
                column = start + block * width + lane
                kept = load(self.mask, (*place, column))
                T.buffer_store(keep, T.Select(kept, T.uint8(255), T.uint8(0)), [column])

    def _exponentials(self, r: Expr, scratch: Scratch) -> None:
        """Exponentials of a row, and the reciprocal of their sum."""
        plan, isa = self.plan, self.plan.isa
        n, dtype = plan.problem.extents[1], plan.problem.codes_dtype
        blocks = plan.columns // BYTES
        lowest = T.broadcast(T.cast(T.int32(-128 if dtype == "int8" else 0), dtype), BYTES)
        base = r * plan.columns

        def codes(block: Expr) -> Expr:
            found = scratch.codes[T.Ramp(base + block * BYTES, 1, BYTES)]
            if scratch.keep is None:
                return found
            kept = scratch.keep[T.Ramp(block * BYTES, 1, BYTES)]
            return T.Select(kept != T.broadcast(T.uint8(0), BYTES), found, lowest)

        largest = T.alloc_buffer((BYTES,), dtype, layout=None)
        span = [T.Ramp(0, 1, BYTES)]
        T.buffer_store(largest, lowest, span)
        with T.serial(blocks) as block:
            T.buffer_store(largest, T.max(largest[span[0]], codes(block)), span)
        sign = "u" if dtype == "uint8" else "s"
        top = T.bind(
            T.call_llvm_pure_intrin(dtype, f"llvm.vector.reduce.{sign}max", largest[span[0]])
        )
        # 255 + code − top, which fits 8 bits for every key that counts.
        lift = T.bind(T.uint8(255) - T.reinterpret("uint8", top))

        stored = operand_dtype(isa, "uint8")
        if isa.permutes:
            table = quarters(self.table)
            with T.serial(blocks) as block:
                index = T.reinterpret(f"uint8x{BYTES}", codes(block)) + T.broadcast(lift, BYTES)
                found = permute(table, T.bind(index), "uint8")
                if scratch.keep is not None:
                    found = T.bitwise_and(found, scratch.keep[T.Ramp(block * BYTES, 1, BYTES)])
                T.buffer_store(
                    scratch.exponentials, found, [T.Ramp(base + block * BYTES, 1, BYTES)]
                )
            self._clear(scratch, base, n, keep=True)
        else:
            self._clear(scratch, base, n, keep=False)
            with T.serial(n) as column:
                code = T.reinterpret("uint8", scratch.codes[base + column]) + lift
                found = self.table[T.cast(code, "int32")]
                if scratch.keep is not None:
                    found = T.bitwise_and(found, scratch.keep[column])
                T.buffer_store(scratch.exponentials, T.cast(found, stored), [base + column])
        total = self._total(base, scratch)
        T.buffer_store(scratch.reciprocals, reciprocal(total), [r])

    def _clear(self, scratch: Scratch, base: Expr, n: int, keep: bool) -> None:
        """Zeros beyond the last key, in the last vector of a row."""
        columns = self.plan.columns
        if columns == n:
            return
        stored = operand_dtype(self.plan.isa, "uint8")
        span = T.Ramp(base + columns - BYTES, 1, BYTES)
        zeros = T.broadcast(T.cast(T.int32(0), stored), BYTES)
        if keep:
            inside = T.Ramp(T.int32(0), 1, BYTES) < T.broadcast(n - columns + BYTES, BYTES)
            zeros = T.Select(inside, scratch.exponentials[span], zeros)
        T.buffer_store(scratch.exponentials, zeros, [span])

    def _total(self, base: Expr, scratch: Scratch) -> Expr:
        """The sum of a row of exponentials."""
        plan, isa = self.plan, self.plan.isa
        lanes = isa.lanes
        by_dot = isa.takes == "uint8" and lanes * isa.group == BYTES
        step = BYTES if by_dot else lanes
        total = T.alloc_buffer((lanes,), "int32", layout=None)
        span = [T.Ramp(0, 1, lanes)]
        T.buffer_store(total, T.broadcast(T.int32(0), lanes), span)
        with T.serial(ceil_div(plan.problem.extents[1], step)) as i:
            found = scratch.exponentials[T.Ramp(base + i * step, 1, step)]
            if by_dot:
                ones = T.broadcast(T.int8(1), BYTES)
                kind = f"int32x{lanes}"
                value = T.call_llvm_pure_intrin(kind, isa.dot, total[span[0]], found, ones)
            else:
                value = total[span[0]] + T.cast(found, f"int32x{lanes}")
            T.buffer_store(total, value, span)
        return T.bind(T.call_llvm_pure_intrin("int32", "llvm.vector.reduce.add", total[span[0]]))
