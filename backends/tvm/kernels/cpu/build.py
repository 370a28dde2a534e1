"""One TIR function per problem: copy with borders where needed, then tiles of dot products.

The reduction of a tile is written with every accumulator as a buffer of one vector, which LLVM
keeps in a register.  The finished tile then goes through a small int32 buffer on the stack into
the epilogue, one vectorised loop over output channels per pixel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from .isa import Isa
from .pack import flips_sign, packed_dtype, packed_shapes
from .plan import Plan, make_plan
from .problem import Conv2d, Epilogue, Expr, Matmul

_SIGN_BITS = -0x7F7F7F80  # 0x80808080 as int32


def build(problem: Conv2d | Matmul, isa: Isa, epilogue: Epilogue, name: str = "main") -> PrimFunc:
    """Generate the kernel of a problem.

    Args:
        problem: The convolution or product.
        isa: The instruction set; the compilation target must have its features.
        epilogue: What is stored for each accumulator.
        name: Global symbol of the function.

    Returns:
        A function of x, packed weight, packed bias (see `pack`), the epilogue's operands, out.
        ``out`` must not share memory with any other argument: border tiles are computed twice.
    """
    plan = make_plan(problem, isa)
    weight_shape, bias_shape = packed_shapes(plan)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            T.func_attr({"global_symbol": name, "tirx.noalias": True})
            x = _argument("x", problem.x_shape, problem.x_dtype)
            weight = _argument("weight", weight_shape, packed_dtype(plan))
            bias = _argument("bias", bias_shape, "int32")
            operands = [
                _argument(f"operand{i}", shape, dtype)
                for i, (shape, dtype) in enumerate(epilogue.operands)
            ]
            out = _argument("out", problem.out_shape, epilogue.dtype)
            source = _flat(x, math.prod(problem.x_shape), problem.x_dtype)
            if plan.copied:
                source = _copy_with_borders(plan, source)
            with T.parallel(_tile_count(plan)) as index:
                tile = _bind_tile(plan, index)
                sums = _accumulate(plan, tile, source, weight, bias)
                _store(plan, tile, sums, epilogue, operands, out)
    return builder.get()


def _argument(name: str, shape: Sequence[int], dtype: str) -> Expr:
    return T.arg(name, T.buffer(tuple(shape), dtype, layout=None))


def _flat(buffer: Expr, size: int, dtype: str) -> Expr:
    return T.decl_buffer((size,), dtype, data=buffer.data, layout=None)


def _copy_with_borders(plan: Plan, x: Expr) -> Expr:
    """A copy of the input with its padding, in the plan's source dtype.

    The last vector of a ragged reduction reads up to one group past the end; those elements stay
    unwritten because zero weights meet them.
    """
    n, h, w, c = plan.conv.x_shape
    top, left, _, _ = plan.conv.pads
    rows, line = plan.source_rows, plan.source_cols * c
    before = min(left * c, line)
    copied = min(w * c, line - before)
    source = T.alloc_buffer((n * rows * line + plan.isa.group,), plan.source_dtype, layout=None)
    zero = T.IntImm(plan.source_dtype, 0)
    with T.parallel(n * rows) as index:
        row = T.bind(index % rows - top)
        start = T.bind(index * line)
        with T.If(T.And(row >= 0, row < h)):
            with T.Then():
                with T.serial(before) as i:
                    T.buffer_store(source, zero, [start + i])
                with T.serial(copied) as i:
                    value = x[((index // rows) * h + row) * (w * c) + i]
                    T.buffer_store(source, T.cast(value, plan.source_dtype), [start + before + i])
                with T.serial(line - before - copied) as i:
                    T.buffer_store(source, zero, [start + before + copied + i])
            with T.Else(), T.serial(line) as i:
                T.buffer_store(source, zero, [start + i])
    return source


@dataclass(frozen=True)
class _Tile:
    """Where a register tile lies, as bound variables.

    Attributes:
        image: Of the batch.
        row: First output row.
        col: First output column.
        panel: Panel of output channels, counted over all groups.
        group: Its group.
        channel: First output channel, counted in the group.
    """

    image: Expr
    row: Expr
    col: Expr
    panel: Expr
    group: Expr
    channel: Expr


def _tile_count(plan: Plan) -> int:
    n, oh, ow, _ = plan.conv.out_shape
    return n * -(-oh // plan.tile[0]) * -(-ow // plan.tile[1]) * plan.groups * plan.panels


def _bind_tile(plan: Plan, index: Expr) -> _Tile:
    _, oh, ow, _ = plan.conv.out_shape
    rows, cols = plan.tile
    down, across = -(-oh // rows), -(-ow // cols)
    panels = plan.groups * plan.panels
    spatial = _tile_count(plan) // panels
    if math.prod(packed_shapes(plan)[0]) > math.prod(plan.conv.x_shape):
        panel, pixel = T.bind(index // spatial), T.bind(index % spatial)  # weights are read once
    else:
        panel, pixel = T.bind(index % panels), T.bind(index // panels)
    return _Tile(
        image=T.bind(pixel // (down * across)),
        row=T.bind(T.min(pixel // across % down * rows, oh - rows)),
        col=T.bind(T.min(pixel % across * cols, ow - cols)),
        panel=panel,
        group=T.bind(panel // plan.panels),
        channel=T.bind(
            T.min(panel % plan.panels * plan.panel_lanes, plan.group_outputs - plan.panel_lanes)
        ),
    )


def _accumulate(plan: Plan, tile: _Tile, source: Expr, weight: Expr, bias: Expr) -> list[Expr]:
    """Reduce a tile over taps and depth; its int32 sums, [pixels · lanes] per channel vector."""
    conv, isa = plan.conv, plan.isa
    lanes = min(plan.panel_width, isa.lanes)
    vectors = range(plan.panel_width // lanes)
    pixels = [(i, j) for i in range(plan.tile[0]) for j in range(plan.tile[1])]
    sums = [T.alloc_buffer((len(pixels) * lanes,), "int32", layout=None) for _ in vectors]
    accumulators = [
        [T.alloc_buffer((lanes,), "int32", layout=None) for _ in vectors] for _ in pixels
    ]
    for vector in vectors:
        for accumulator in accumulators:
            start = bias[tile.panel, T.Ramp(vector * lanes, 1, lanes)]
            T.buffer_store(accumulator[vector], start, [T.Ramp(0, 1, lanes)])

    channels = conv.x_shape[3]
    row = tile.image * plan.source_rows + tile.row * conv.strides[0]
    base = (row * plan.source_cols + tile.col * conv.strides[1]) * channels
    first = tile.channel if conv.depthwise else tile.group * (channels // conv.groups)
    base = T.bind(base + first)
    group = 1 if conv.depthwise else isa.group
    with T.grid(*(extent for extent, _ in plan.taps), plan.steps) as (*taps, step):
        tap = taps[0]
        offset = taps[0] * plan.taps[0][1]
        if len(taps) > 1:
            tap = tap * plan.taps[1][0] + taps[1]
            offset = offset + taps[1] * plan.taps[1][1]
        offset = base + offset + step * group
        k = tap * plan.steps + step
        for (i, j), accumulator in zip(pixels, accumulators, strict=True):
            away = (i * conv.strides[0] * plan.source_cols + j * conv.strides[1]) * channels
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
    bytes_ = T.reinterpret(f"uint8x{4 * lanes}", T.broadcast(few, lanes))
    return T.call_llvm_pure_intrin(wide, plan.isa.dot, total, bytes_, weights)


def _store(
    plan: Plan, tile: _Tile, sums: list[Expr], epilogue: Epilogue, operands: list[Expr], out: Expr
) -> None:
    """Send a tile's sums through the epilogue."""
    rows, cols = plan.tile
    lanes = min(plan.panel_width, plan.isa.lanes)
    with T.serial(rows * cols) as pixel:
        row, col = T.bind(tile.row + pixel // cols), T.bind(tile.col + pixel % cols)
        place = _out_place(plan, out, tile.image, row, col)
        for vector, total in enumerate(sums):
            first = T.bind(tile.group * plan.group_outputs + tile.channel + vector * lanes)
            with T.vectorized(min(lanes, plan.panel_lanes)) as lane:
                index = (*place, first + lane)
                value = epilogue.value(total[pixel * lanes + lane], operands, index)
                T.buffer_store(out, value, list(index))


def _out_place(plan: Plan, out: Expr, image: Expr, row: Expr, col: Expr) -> tuple[Expr, ...]:
    """Output index of a pixel; that of a product is spread over the axes it was flattened from."""
    shape = tuple(int(extent) for extent in out.shape)
    if shape == plan.conv.out_shape:
        return image, row, col
    place = []
    for extent in reversed(shape[1:-1]):
        place.append(T.bind(col % extent))
        col = T.bind(col // extent)
    return (col, *reversed(place))
