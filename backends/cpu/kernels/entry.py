"""The entry of a network: float images to codes with their channels last, borders included.

What `Quantize`, `Pad` and `Transpose` would do one after the other is one pass: each plane of an
image is quantized along its rows, and a shuffle puts the planes' codes side by side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm.ir.prim.expr import Shuffle
from tvm.script.ir_builder import IRBuilder
from tvm.target import Target
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.table import Match, Pointwise, on_leaves
from qcompiler.backends.tvm.te import Expr
from qcompiler.graph import Constant, Input
from qcompiler.ops import Pad, Skeleton, Transpose

from .loops import argument, flat, loop

_TO_LAST = (0, 2, 3, 1)
_MOST_CHANNELS = 4
_PIXELS = 64  # of one shuffle, where a row has that many
_LEAST_PIXELS = 8


@dataclass(frozen=True)
class Entry:
    """Quantized images of few channels, with a border, transposed to channels last."""

    name: str = "cpu entry"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel for transpose(pad(codes of [n, c, h, w])), the border being optional."""
        root = found.root
        if not isinstance(root, Transpose) or root.permutation != _TO_LAST:
            return None
        pad = root.x if isinstance(root.x, Pad) else None
        codes = root.x if pad is None else pad.x
        images = [x for x in found.leaves if x.type.shape == codes.type.shape]
        fits = (
            not isinstance(codes, (Input, Constant))
            and len(images) == 1
            and 2 <= codes.type.shape[1] <= _MOST_CHANNELS
            and codes.type.shape[3] >= _LEAST_PIXELS
            and (pad is None or not any((*pad.before[:2], *pad.after[:2])))
            and all(x.elementwise or x in (root, pad) for x in found.ops)
        )
        if not fits:
            return None
        codes_at, shape = on_leaves(found, codes), root.type.shape
        return Match(found.key, lambda: _build(codes_at, pad, shape), found.leaves)


def _build(codes: Pointwise, pad: Pad | None, shape: tuple[int, ...]) -> PrimFunc:
    n, channels, h, w = codes.root.type.shape
    _, rows, cols, _ = shape
    dtype = codes.root.type.dtype
    top, left = pad.before[2:] if pad is not None else (0, 0)
    border = T.IntImm(dtype, int(pad.value) if pad is not None else 0)
    width = min(_PIXELS, 1 << (w.bit_length() - 1))
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        buffers = [argument(f"x{i}", *kind) for i, kind in enumerate(codes.types)]
        out = flat(argument("out", shape, dtype), math.prod(shape), dtype)

        def fill(start: Expr, count: int) -> None:
            with T.serial(count) as i:
                T.buffer_store(out, border, [start + i])

        with loop(n * rows, n * rows * cols * channels) as index:
            image, row = T.bind(index // rows), T.bind(index % rows - top)
            start = T.bind(index * (cols * channels))
            with T.If(T.And(row >= 0, row < h)):
                with T.Then():
                    fill(start, left * channels)
                    first = T.bind(start + left * channels)
                    with T.serial(-(-w // width)) as block:
                        col = T.bind(T.min(block * width, w - width))
                        mixed = _pixels(codes, buffers, (image, row, col), width)
                        T.buffer_store(
                            out, mixed, [T.Ramp(first + col * channels, 1, width * channels)]
                        )
                    fill(first + w * channels, (cols - left - w) * channels)
                with T.Else():
                    fill(start, cols * channels)
    return builder.get()


def _pixels(
    codes: Pointwise, buffers: list[Any], place: tuple[Expr, Expr, Expr], width: int
) -> Expr:
    """The codes of some neighbouring pixels, channels last, as one vector."""
    image, row, col = place
    channels, dtype = codes.root.type.shape[1], codes.root.type.dtype
    planes = T.alloc_buffer((channels * width,), dtype, layout=None)
    for channel in range(channels):
        with T.vectorized(width) as lane:
            value = codes.value((), buffers, (image, T.int32(channel), row, col + lane))
            T.buffer_store(planes, value, [channel * width + lane])
    order = [c * width + i for i in range(width) for c in range(channels)]
    whole = planes[T.Ramp(0, 1, channels * width)]
    return Shuffle([whole], [T.int32(i) for i in order])
