"""The reduction of one tile, in vector registers."""

from collections.abc import Iterator
from contextlib import contextmanager

from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Expr

from .pack import flips_sign
from .plan import Plan
from .tile import Tile

_SIGN_BITS = -0x7F7F7F80  # 0x80808080 as int32
_LINE = 64  # of the cache; elements of a packed weight have a byte or two
_TO_LEVEL_2 = (T.int32(0), T.int32(2), T.int32(1))  # read; locality; data


def source_base(plan: Plan, tile: Tile) -> Expr:
    """Element of the source that the first tap of a tile's first pixel reads first."""
    conv = plan.conv
    channels = conv.x_shape[3]
    row = tile.image * plan.source_rows + tile.row * conv.strides[0]
    base = (row * plan.source_cols + tile.col * conv.strides[1]) * channels
    first = tile.channel if conv.depthwise else tile.group * (channels // conv.groups)
    return T.bind(base + first)


@contextmanager
def tap_loops(plan: Plan, steps: int) -> Iterator[tuple[Expr, Expr, Expr]]:
    """Loops over taps and steps: number of the tap, its distance in the source, and step."""
    with T.grid(*(extent for extent, _ in plan.taps), steps) as (*taps, step):
        tap = taps[0]
        offset = taps[0] * plan.taps[0][1]
        if len(taps) > 1:
            tap = tap * plan.taps[1][0] + taps[1]
            offset = offset + taps[1] * plan.taps[1][1]
        yield tap, offset, step


def accumulate(plan: Plan, tile: Tile, source: Expr, weight: Expr, bias: Expr) -> list[Expr]:
    """Reduce a tile over taps and depth; its int32 sums, [pixels · lanes] per channel vector."""
    conv, isa = plan.conv, plan.isa
    lanes = plan.sum_lanes
    vectors = range(plan.panel_width // lanes)
    cols = plan.tile[1]
    pixels = [divmod(p, cols) for p in range(plan.tile[0] * cols)]
    sums = [T.alloc_buffer((len(pixels) * lanes,), "int32", layout=None) for _ in vectors]
    accumulators = [
        [T.alloc_buffer((lanes,), "int32", layout=None) for _ in vectors] for _ in pixels
    ]
    for vector in vectors:
        for accumulator in accumulators:
            start = bias[tile.panel, T.Ramp(vector * lanes, 1, lanes)]
            T.buffer_store(accumulator[vector], start, [T.Ramp(0, 1, lanes)])

    base = source_base(plan, tile)
    group = 1 if conv.depthwise else isa.group
    with tap_loops(plan, plan.steps) as (tap, offset, step):
        offset = base + offset + step * group
        k = tap * plan.steps + step
        if not conv.depthwise:
            _prefetch(plan, tile, weight, k)
        for (i, j), accumulator in zip(pixels, accumulators, strict=True):
            away = pixel_distance(plan, i, j)
            for vector, total in enumerate(accumulator):
                span = T.Ramp(vector * lanes * group, 1, lanes * group)
                value = _dot(
                    plan,
                    lanes,
                    total[T.Ramp(0, 1, lanes)],
                    source,
                    offset + away,
                    weight[tile.panel, k, span],
                )
                T.buffer_store(total, value, [T.Ramp(0, 1, lanes)])

    for p, accumulator in enumerate(accumulators):
        for vector, total in enumerate(accumulator):
            whole = total[T.Ramp(0, 1, lanes)]
            T.buffer_store(sums[vector], whole, [T.Ramp(p * lanes, 1, lanes)])
    return sums


def _prefetch(plan: Plan, tile: Tile, weight: Expr, k: Expr) -> None:
    """Ask for what the next panel needs at this step.

    A panel is read from a distant cache by its first tile only, which would wait for it.
    """
    following = T.min(tile.panel + 1, plan.groups * plan.panels - 1)
    for element in range(0, plan.panel_width * plan.isa.group, _LINE):
        address = T.address_of(weight[following, k, element])
        T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", address, *_TO_LEVEL_2))


def pixel_distance(plan: Plan, row: int, col: int) -> int:
    """Elements of the source between output pixels that lie so many rows and columns apart."""
    conv = plan.conv
    pixels = row * conv.strides[0] * plan.source_cols + col * conv.strides[1]
    return pixels * conv.x_shape[3]


def _dot(plan: Plan, lanes: int, total: Expr, source: Expr, offset: Expr, weights: Expr) -> Expr:
    """``total`` plus the products of the weights with the source at an offset."""
    wide = f"int32x{lanes}"
    if plan.conv.depthwise:
        return total + T.cast(source[T.Ramp(offset, 1, lanes)], wide) * T.cast(weights, wide)
    if not plan.isa.dot:
        return total + T.broadcast(T.cast(source[offset], "int32"), lanes) * T.cast(weights, wide)
    few = T.reinterpret("int32", source[T.Ramp(offset, 1, plan.isa.group)])
    if plan.isa.widened:
        pairs = T.reinterpret(f"int16x{2 * lanes}", T.broadcast(few, lanes))
        return total + T.call_llvm_pure_intrin(wide, plan.isa.dot, pairs, weights)
    if flips_sign(plan):
        few = T.bitwise_xor(few, T.int32(_SIGN_BITS))
    bytes_ = T.reinterpret(f"{plan.isa.takes}x{4 * lanes}", T.broadcast(few, lanes))
    return T.call_llvm_pure_intrin(wide, plan.isa.dot, total, bytes_, weights)
