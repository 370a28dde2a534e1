"""Keys and values of all heads in the order of the dot instruction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.layout import Layout
from qcompiler.backends.tvm.problem import Expr

from .attention_plan import AttentionPlan, ceil_div
from .dot import multiply_add, needs_flip, operand_dtype
from .isa import Isa
from .loops import PARALLEL_CYCLES, either_loop


def flat(buffer: Expr, layout: Layout, dtype: str) -> Expr:
    """The memory of an array as a vector."""
    return T.decl_buffer((math.prod(layout.memory),), dtype, data=buffer.data, layout=None)


def unravel(index: Expr, extents: Sequence[int]) -> tuple[Expr, ...]:
    """The index of each axis from that of all together."""
    found = []
    for extent in reversed(extents):
        found.append(T.bind(index % extent))
        index = T.bind(index // extent)
    return tuple(reversed(found))


@dataclass(frozen=True)
class Packed:
    """Columns for the dot instruction.

    Attributes:
        columns: [heads, steps, columns · group].
        starts: int32 [heads, columns], what accumulators begin with; None for 0.
    """

    columns: Expr
    starts: Expr | None


def packed_columns(plan: AttentionPlan, key: Expr, value: Expr) -> tuple[Packed, Packed]:
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
        packed.append(Packed(columns, starts))
    with either_loop(p.heads, plan.cycles > PARALLEL_CYCLES) as head:
        place = unravel(head, p.leading)
        sources = ((p.key, key), (p.value, value))
        for (layout, buffer), into, dtype in zip(sources, packed, dtypes, strict=True):
            _pack(isa, layout, flat(buffer, layout, "int8"), place, head, into)
            if into.starts is not None:
                _add_up(isa, into, head, -128 if dtype == "int8" else 128)
    return packed[0], packed[1]


def _pack(
    isa: Isa, layout: Layout, source: Expr, place: tuple[Expr, ...], head: Expr, into: Packed
) -> None:
    """Bring [k, columns] to [k / group, columns, group]; what lies outside repeats the last."""
    depth, columns = layout.shape[-2:]
    group, lanes = isa.group, isa.lanes
    dtype = operand_dtype(isa, "int8")
    steps = ceil_div(depth, group)
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


def _add_up(isa: Isa, packed: Packed, head: Expr, factor: int) -> None:
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
