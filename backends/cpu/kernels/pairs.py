"""The reduction of one tile by products of two pixels by two channels (Arm i8mm).

``smmla c, a, b`` adds to the 2·2 matrix c the product of a, eight elements of each of two pixels,
and b, eight weights of each of two channels (Arm Architecture Reference Manual, C7.2); ``usmmla``
takes unsigned a.
"""

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Expr

from .plan import Plan
from .reduction import pixel_distance, source_base, tap_loops
from .tile import Tile


def accumulate_pairs(plan: Plan, tile: Tile, source: Expr, weight: Expr, bias: Expr) -> Expr:
    """Reduce a tile over taps and depth; its int32 sums, [pixels · panel's channels]."""
    isa, cols = plan.isa, plan.tile[1]
    count = plan.tile[0] * cols
    pairs = [(p, min(p + 1, count - 1)) for p in range(0, count, 2)]  # the last may be one twice
    channels, size = isa.channels, isa.pixels * isa.group
    whole = T.Ramp(0, 1, isa.lanes)
    accumulators = [
        [T.alloc_buffer((isa.lanes,), "int32", layout=None) for _ in range(plan.vectors)]
        for _ in pairs
    ]
    for accumulator in accumulators:
        for vector, total in enumerate(accumulator):
            start = bias[tile.panel, T.Ramp(vector * channels, 1, channels)]
            T.buffer_store(total, _joined(start, start), [whole])

    dot = isa.int8_dot if plan.conv.x_dtype == "int8" else isa.dot
    base = source_base(plan, tile)
    with tap_loops(plan, plan.steps) as (tap, offset, step):
        offset = base + offset + step * isa.group
        k = tap * plan.steps + step
        for pair, accumulator in zip(pairs, accumulators, strict=True):
            rows = [
                source[T.Ramp(offset + pixel_distance(plan, *divmod(p, cols)), 1, isa.group)]
                for p in pair
            ]
            for vector, total in enumerate(accumulator):
                weights = weight[tile.panel, k, T.Ramp(vector * size, 1, size)]
                value = T.call_llvm_pure_intrin(
                    f"int32x{isa.lanes}", dot, total[whole], _joined(*rows), weights
                )
                T.buffer_store(total, value, [whole])

    sums = T.alloc_buffer((count * plan.panel_width,), "int32", layout=None)
    for pair, accumulator in zip(pairs, accumulators, strict=True):
        for row, p in enumerate(pair):
            for vector, total in enumerate(accumulator):
                part = total[T.Ramp(row * channels, 1, channels)]
                place = p * plan.panel_width + vector * channels
                T.buffer_store(sums, part, [T.Ramp(place, 1, channels)])
    return sums


def _joined(first: Expr, second: Expr) -> Expr:
    """Two vectors behind one another."""
    lanes = 2 * int(str(first.ty.dtype).rpartition("x")[2])
    return tirx.Shuffle([first, second], [tirx.const(i, "int32") for i in range(lanes)])
