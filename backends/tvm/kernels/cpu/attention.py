"""Attention in one function: scores, integer softmax and weighted average per block of rows.

Keys and values of every head are packed first, once, for the dot instruction.  Then each block of
rows goes all the way: its scores against all keys, their codes, the exponentials of the codes by a
byte table, and the average of the values, in a few kilobytes that never leave the first cache.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.kernels.layout import Layout

from .dot import SIGN_BIT, Tile, multiply_add, needs_flip, operand_dtype
from .isa import Isa
from .lookup import BYTES, permute, quarters
from .loops import spans
from .problem import Epilogue, Expr

_TASKS = 16  # iterations of the parallel loop: even shares of up to 16 threads
_PARALLEL_CYCLES = 8000  # below, waking another thread takes longer than it saves
_DOTS_PER_CYCLE = 2
_LOAD_CYCLES = 0.3  # beside the dot products
_DOT_LATENCY = 4
_SOFTMAX_CYCLES = 6  # per vector of scores
_TILE_CYCLES = 20  # of filling and storing the accumulators, what does not overlap


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
        mask: Shape of the mask, which broadcasts to [..., m, n]; None for none.
    """

    query: Layout
    key: Layout
    value: Layout
    result: Layout
    query_dtype: str
    codes_dtype: str
    mask: tuple[int, ...] | None

    @property
    def leading(self) -> tuple[int, ...]:
        """Batch and heads."""
        return self.query.shape[:-2]

    @property
    def heads(self) -> int:
        """Their product."""
        return math.prod(self.leading)

    @property
    def extents(self) -> tuple[int, int, int, int]:
        """m, n, d and e."""
        (m, d), (n, e) = self.query.shape[-2:], self.value.shape[-2:]
        return m, n, d, e


@dataclass(frozen=True)
class Scalars:
    """What happens to single elements.

    Attributes:
        codes: From a score to its code, at an index of the scores; with the operands it reads.
        mask: The mask's element there: `mask(buffer, index)`.
        reciprocal: From a row's total of exponentials to its int64 reciprocal.
        average: From a weighted sum and the reciprocal to the result, at an index of it.
        operands: Shape and dtype of the buffers for `average`.
        dtype: Of the result.
    """

    codes: Epilogue
    mask: Callable[[Expr, tuple[Expr, ...]], Expr]
    reciprocal: Callable[[Expr], Expr]
    average: Callable[[Expr, Expr, Sequence[Expr], tuple[Expr, ...]], Expr]
    operands: tuple[tuple[tuple[int, ...], str], ...]
    dtype: str


@dataclass(frozen=True)
class _Plan:
    """How the work is cut: rows of a block, and vectors of columns per tile of both products."""

    problem: Attention
    isa: Isa
    rows: int
    key_vectors: int
    value_vectors: int
    cycles: float

    @property
    def columns(self) -> int:
        """Keys, padded to whole vectors of codes and of accumulators."""
        unit = math.lcm(BYTES, self.isa.lanes)
        return _ceil(self.problem.extents[1], unit) * unit

    @property
    def steps(self) -> tuple[int, int]:
        """Dot instructions per score, and per average."""
        _, n, d, _ = self.problem.extents
        return _ceil(d, self.isa.group), _ceil(n, self.isa.group)

    @property
    def vectors(self) -> tuple[int, int]:
        """Vectors of keys, and of a value's elements."""
        _, n, _, e = self.problem.extents
        return _ceil(n, self.isa.lanes), _ceil(e, self.isa.lanes)

    @property
    def blocks(self) -> int:
        """Blocks of rows of one head."""
        return _ceil(self.problem.extents[0], self.rows)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _cut(total: int, most: int) -> list[tuple[int, int]]:
    """Parts (first, count) as equal as possible, of at most `most`."""
    parts = _ceil(total, most)
    bounds = [total * i // parts for i in range(parts + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(bounds)]


def _plan(problem: Attention, isa: Isa) -> _Plan:
    """The quickest cut by a count of instructions."""
    m = problem.extents[0]

    def cycles(plan: _Plan) -> float:
        total = 0.0
        for steps, vectors, most in zip(
            plan.steps, plan.vectors, (plan.key_vectors, plan.value_vectors), strict=True
        ):
            for _, count in _cut(vectors, most):
                dots = max(plan.rows * count / _DOTS_PER_CYCLE, _DOT_LATENCY)
                total += steps * (dots + (plan.rows + count) * _LOAD_CYCLES) + _TILE_CYCLES
        total += plan.rows * plan.vectors[0] * _SOFTMAX_CYCLES
        return total * plan.blocks * problem.heads

    choices = [
        _Plan(problem, isa, rows, keys, values, 0.0)
        for rows in range(1, min(m, isa.registers) + 1)
        for keys in range(1, 5)
        for values in range(1, 5)
        if all(rows * v + v + 1 <= isa.registers for v in (keys, values))
    ]
    best = min(choices, key=cycles)
    return _Plan(problem, isa, best.rows, best.key_vectors, best.value_vectors, cycles(best))


def build_attention(problem: Attention, isa: Isa, scalars: Scalars, name: str = "main") -> PrimFunc:
    """Generate the kernel.

    Args:
        problem: Shapes and layouts.
        isa: The instruction set; the compilation target must have its features, and `Isa.pixels`
            must be 1.
        scalars: What happens to single elements.
        name: Global symbol of the function.

    Returns:
        A function of query, key, value, the mask if there is one, the table of exponentials
        uint8 [256], the operands of the codes, those of the average, out.
    """
    plan = _plan(problem, isa)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        query = _argument("query", problem.query.memory, problem.query_dtype)
        key = _argument("key", problem.key.memory, "int8")
        value = _argument("value", problem.value.memory, "int8")
        mask = None if problem.mask is None else _argument("mask", problem.mask, "bool")
        table = _argument("table", (256,), "uint8")
        code_operands, average_operands = (
            [_argument(f"{kind}{i}", *operand) for i, operand in enumerate(operands)]
            for kind, operands in (
                ("code", scalars.codes.operands),
                ("average", scalars.operands),
            )
        )
        out = _argument("out", problem.result.memory, scalars.dtype)
        keys, values = _packed(plan, key, value)
        block = _Block(plan, scalars, query, keys, values, mask, table)
        items = problem.heads * plan.blocks
        tasks = min(items, _TASKS)
        with _loop(tasks, plan.cycles > _PARALLEL_CYCLES) as task:
            scratch = block.scratch()
            first = T.bind(items * task // tasks)
            with T.serial(T.bind(items * (task + 1) // tasks) - first) as i:
                item = T.bind(first + i)
                block.emit(item, scratch, code_operands, average_operands, out)
    return builder.get()


def _argument(name: str, shape: Sequence[int], dtype: str) -> Expr:
    return T.arg(name, T.buffer(tuple(shape), dtype, layout=None))


def _loop(extent: int, parallel: bool) -> Expr:
    return T.parallel(extent) if parallel else T.serial(extent)


def _flat(buffer: Expr, layout: Layout, dtype: str) -> Expr:
    return T.decl_buffer((math.prod(layout.memory),), dtype, data=buffer.data, layout=None)


def _unravel(index: Expr, extents: Sequence[int]) -> tuple[Expr, ...]:
    """The index of each axis from that of all together."""
    found = []
    for extent in reversed(extents):
        found.append(T.bind(index % extent))
        index = T.bind(index // extent)
    return tuple(reversed(found))


@dataclass(frozen=True)
class _Packed:
    """Columns for the dot instruction.

    Attributes:
        columns: [heads, steps, columns · group].
        starts: int32 [heads, columns], what accumulators begin with; None for 0.
    """

    columns: Expr
    starts: Expr | None


def _packed(plan: _Plan, key: Expr, value: Expr) -> tuple[_Packed, _Packed]:
    """Emit the packing of all heads."""
    p, isa = plan.problem, plan.isa
    dtypes = (p.query_dtype, "uint8")
    packed = []
    for vectors, steps, dtype in zip(plan.vectors, plan.steps, dtypes, strict=True):
        shape = (p.heads, steps, vectors * isa.lanes * isa.group)
        columns = T.alloc_buffer(shape, operand_dtype(isa, "int8"), layout=None)
        starts = None
        if needs_flip(isa, dtype):
            starts = T.alloc_buffer((p.heads, vectors * isa.lanes), "int32", layout=None)
        packed.append(_Packed(columns, starts))
    with _loop(p.heads, plan.cycles > _PARALLEL_CYCLES) as head:
        place = _unravel(head, p.leading)
        sources = ((p.key, key), (p.value, value))
        for (layout, buffer), into, dtype in zip(sources, packed, dtypes, strict=True):
            _pack(isa, layout, _flat(buffer, layout, "int8"), place, head, into)
            if into.starts is not None:
                _add_up(isa, into, head, -128 if dtype == "int8" else 128)
    return packed[0], packed[1]


def _pack(
    isa: Isa, layout: Layout, source: Expr, place: tuple[Expr, ...], head: Expr, into: _Packed
) -> None:
    """Bring [k, columns] to [k / group, columns, group]; what lies outside repeats the last."""
    depth, columns = layout.shape[-2:]
    group, lanes = isa.group, isa.lanes
    dtype = operand_dtype(isa, "int8")
    steps = _ceil(depth, group)
    base = T.bind(layout.offset((*place, 0, 0)))
    down, across = layout.stride(-2), layout.stride(-1)
    if down == 1 and depth % group == 0:
        with T.grid(columns, steps) as (column, step):
            run = source[T.Ramp(base + column * across + step * group, 1, group)]
            span = T.Ramp(column * group, 1, group)
            T.buffer_store(into.columns, _widened(run, dtype, group), [head, step, span])
        return
    whole = columns // lanes if across == 1 else 0
    with T.serial(steps) as step:
        rows = [T.bind(base + T.min(step * group + i, depth - 1) * down) for i in range(group)]
        if whole:
            with T.serial(whole) as vector:
                runs = [source[T.Ramp(row + vector * lanes, 1, lanes)] for row in rows]
                order = [i * lanes + lane for lane in range(lanes) for i in range(group)]
                mixed = T.Shuffle(runs, order) if group > 1 else runs[0]
                span = T.Ramp(vector * lanes * group, 1, lanes * group)
                T.buffer_store(
                    into.columns, _widened(mixed, dtype, lanes * group), [head, step, span]
                )
        with T.grid(columns - whole * lanes, group) as (column, i):
            row = base + T.min(step * group + i, depth - 1) * down
            element = source[row + (whole * lanes + column) * across]
            T.buffer_store(
                into.columns,
                T.cast(element, dtype),
                [head, step, (whole * lanes + column) * group + i],
            )


def _widened(codes: Expr, dtype: str, lanes: int) -> Expr:
    return T.cast(codes, f"{dtype}x{lanes}") if dtype != "int8" else codes


def _add_up(isa: Isa, packed: _Packed, head: Expr, factor: int) -> None:
    """starts = factor · Σ of each column."""
    _, steps, width = (int(d) for d in packed.columns.shape)
    lanes, group = isa.lanes, isa.group
    with T.serial(width // (lanes * group)) as vector:
        total = T.alloc_buffer((lanes,), "int32", layout=None)
        span = [T.Ramp(0, 1, lanes)]
        T.buffer_store(total, T.broadcast(T.int32(0), lanes), span)
        ones = T.broadcast(T.cast(T.int32(1), isa.takes), group)
        with T.serial(steps) as step:
            columns = packed.columns[head, step, T.Ramp(vector * lanes * group, 1, lanes * group)]
            T.buffer_store(total, multiply_add(isa, total[span[0]], ones, columns), span)
        starts = total[span[0]] * T.broadcast(T.int32(factor), lanes)
        T.buffer_store(packed.starts, starts, [head, T.Ramp(vector * lanes, 1, lanes)])


@dataclass(frozen=True)
class _Scratch:
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
class _Block:
    """Emits the work on one block of rows."""

    plan: _Plan
    scalars: Scalars
    query: Expr
    keys: _Packed
    values: _Packed
    mask: Expr | None
    table: Expr

    @property
    def in_place(self) -> bool:
        """Whether the dot instruction can read queries where they lie."""
        layout, isa = self.plan.problem.query, self.plan.isa
        contiguous = layout.stride(-1) == 1 and layout.shape[-1] % isa.group == 0
        flips = needs_flip(isa, self.plan.problem.query_dtype)
        return contiguous and not isa.widened and not flips

    def scratch(self) -> _Scratch:
        """Allocate for one task."""
        plan, isa = self.plan, self.plan.isa
        p = plan.problem
        rows, width = plan.rows, plan.columns
        widest = max(width, plan.vectors[1] * isa.lanes)

        def buffer(size: int, dtype: str) -> Expr:
            return T.alloc_buffer((size,), dtype, layout=None)

        return _Scratch(
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
        scratch: _Scratch,
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
        place = _unravel(head, p.leading)

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
            reciprocal = T.bind(scratch.reciprocals[r])
            for start, width, blocks in spans(e, lanes):
                with T.serial(blocks) as block, T.vectorized(width) as lane:
                    column = start + block * width + lane
                    index = (*place, row, column)
                    value = self.scalars.average(
                        scratch.sums[r * stride + column], reciprocal, average_operands, index
                    )
                    T.buffer_store(out, value, list(p.result.index(index)))

    def _codes(
        self,
        head: Expr,
        place: tuple[Expr, ...],
        first: Expr,
        scratch: _Scratch,
        operands: list[Expr],
    ) -> None:
        """Scores, and their codes where these can be had from registers."""
        plan, isa = self.plan, self.plan.isa
        p, lanes, epilogue = plan.problem, isa.lanes, self.scalars.codes
        n, group, steps = p.extents[1], isa.group, plan.steps[0]
        lowest = T.cast(T.int32(-128 if p.codes_dtype == "int8" else 0), p.codes_dtype)
        for r in range(plan.rows):
            tail = [T.Ramp((r + 1) * plan.columns - BYTES, 1, BYTES)]
            T.buffer_store(scratch.codes, T.broadcast(lowest, BYTES), tail)
        source = _flat(self.query, p.query, p.query_dtype)
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

    def _averages(self, head: Expr, scratch: _Scratch) -> None:
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
        packed: _Packed,
        which: int,
        row: Callable[[int, Expr], Expr],
        flips: bool,
        into: Callable[[int, int, Expr], None],
    ) -> None:
        """All sums of a product for the block's rows; `into(row, vector, sums)` stores them."""
        plan, isa = self.plan, self.plan.isa
        lanes, most = isa.lanes, (plan.key_vectors, plan.value_vectors)[which]
        for begin, count in _cut(plan.vectors[which], most):

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
                kept = self.scalars.mask(self.mask, (*place, column))
                T.buffer_store(keep, T.Select(kept, T.uint8(255), T.uint8(0)), [column])

    def _exponentials(self, r: Expr, scratch: _Scratch) -> None:
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
        T.buffer_store(scratch.reciprocals, self.scalars.reciprocal(total), [r])

    def _clear(self, scratch: _Scratch, base: Expr, n: int, keep: bool) -> None:
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

    def _total(self, base: Expr, scratch: _Scratch) -> Expr:
        """The sum of a row of exponentials."""
        plan, isa = self.plan, self.plan.isa
        lanes = isa.lanes
        by_dot = isa.takes == "uint8" and lanes * isa.group == BYTES
        step = BYTES if by_dot else lanes
        total = T.alloc_buffer((lanes,), "int32", layout=None)
        span = [T.Ramp(0, 1, lanes)]
        T.buffer_store(total, T.broadcast(T.int32(0), lanes), span)
        with T.serial(_ceil(plan.problem.extents[1], step)) as i:
            found = scratch.exponentials[T.Ramp(base + i * step, 1, step)]
            if by_dot:
                ones = T.broadcast(T.int8(1), BYTES)
                kind = f"int32x{lanes}"
                value = T.call_llvm_pure_intrin(kind, isa.dot, total[span[0]], found, ones)
            else:
                value = total[span[0]] + T.cast(found, f"int32x{lanes}")
            T.buffer_store(total, value, span)
        return T.bind(T.call_llvm_pure_intrin("int32", "llvm.vector.reduce.add", total[span[0]]))
