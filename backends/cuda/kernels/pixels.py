"""Kernels with a thread per four neighbouring outputs: depthwise windows, pools, elementwise ops.

What they compute from each byte that they read is little, so all that counts is that a warp reads
and writes whole lines: channels are last, and a thread has four of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Epilogue
from qcompiler.ops import Window

from .build import argument
from .elements import LANES, Operand, Reader, applied, store_lanes, vector_lanes
from .instructions import Expr, with_wide_products

THREADS = 128


@dataclass(frozen=True)
class Windows:
    """A reduction of windows, each channel by itself.

    Attributes:
        kind: "dot" with a filter per channel, "max", or "sum".
        x_shape: n, h, w, c.
        x_dtype: Of the codes.
        window: Geometry.
        dtype: Of the result.
    """

    kind: str
    x_shape: tuple[int, int, int, int]
    x_dtype: str
    window: Window
    dtype: str

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """n, oh, ow, c."""
        n, h, w, c = self.x_shape
        return n, *self.window.output(h, w), c

    @property
    def accumulator(self) -> str:
        """Type that the reduction is made in."""
        return self.dtype if self.kind == "sum" else "int32"


def pack_filters(weight: np.ndarray) -> np.ndarray:
    """int8 [c, 1, kh, kw] as [kh·kw, c]: channels are neighbours, as in x."""
    return np.ascontiguousarray(weight.reshape(weight.shape[0], -1).T)


def build_windows(windows: Windows, epilogue: Epilogue, name: str = "main") -> PrimFunc:
    """Generate the kernel of a depthwise convolution or a pool.

    Args:
        windows: What is reduced.
        epilogue: What is stored for each reduced element.
        name: Global symbol of the function.

    Returns:
        A function of x (of "dot" also of packed filters and bias int32 [c]), the epilogue's
        operands, out; all flat and aligned to 16 bytes.
    """
    c = windows.x_shape[3]

    def reduce(arguments: list[Expr], reader: Reader, row: Expr) -> list[Expr]:
        total = _reduced(windows, arguments, reader, row)
        values = [total[i] for i in range(LANES)]
        if windows.kind == "dot":
            start = reader.load(Operand(arguments[2], (c,), "int32"))
            values = [value + start[i] for i, value in enumerate(values)]
        return [T.cast(value, windows.dtype) for value in values]

    taps = windows.window.kernel[0] * windows.window.kernel[1]
    inputs = [("x", windows.x_shape, windows.x_dtype)]
    if windows.kind == "dot":
        inputs += [("filters", (taps, c), "int8"), ("bias", (c,), "int32")]  # type: ignore[list-item]
    return _build(inputs, windows.out_shape, epilogue, reduce, name)


def build_elementwise(shape: tuple[int, ...], epilogue: Epilogue, name: str = "main") -> PrimFunc:
    """Generate the kernel of an elementwise expression.

    Args:
        shape: Of the result.
        epilogue: The expression, which ignores its accumulator.
        name: Global symbol of the function.

    Returns:
        A function of the epilogue's operands and out, all flat and aligned to 16 bytes.
    """

    def nothing(arguments: list[Expr], reader: Reader, row: Expr) -> list[Expr]:
        return [T.int32(0)] * LANES

    return _build([], shape, epilogue, nothing, name)


def _build(
    inputs: Sequence[tuple[str, tuple[int, ...], str]],
    shape: tuple[int, ...],
    epilogue: Epilogue,
    reduce: Callable[[list[Expr], Reader, Expr], list[Expr]],
    name: str,
) -> PrimFunc:
    rows, width = math.prod(shape[:-1]), shape[-1]
    vectors = -(-width // LANES)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        arguments = [argument(*x) for x in inputs]
        operands = [
            Operand(argument(f"operand{i}", own, kind), own, kind)
            for i, (own, kind) in enumerate(epilogue.operands)
        ]
        out = argument("out", shape, epilogue.dtype)
        with (
            T.launch_thread("blockIdx.x", -(-rows * vectors // THREADS)) as block,
            T.launch_thread("threadIdx.x", THREADS) as thread,
        ):
            number = T.bind(block * THREADS + thread)
            with T.If(number < rows * vectors), T.Then():
                row, column = T.bind(number // vectors), T.bind(number % vectors * LANES)
                reader = Reader(shape, column)
                sums = reduce(arguments, reader, row)
                loaded = {i: reader.load(operands[i], row) for i in epilogue.by_element}
                values = applied(epilogue, operands, loaded, sums, len(shape))
                store_lanes(out, row, column, width, values, epilogue.dtype)
    return with_wide_products(builder.get())


def _reduced(windows: Windows, arguments: list[Expr], reader: Reader, row: Expr) -> Expr:
    """The reduction of four channels' windows at an output pixel."""
    window = windows.window
    _, h, w, c = windows.x_shape
    _, oh, ow, _ = windows.out_shape
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.strides, window.dilations
    top, left, bottom, right = window.pads
    x, dtype = arguments[0], windows.accumulator
    start = int(np.iinfo(windows.x_dtype).min) if windows.kind == "max" else 0
    total = T.alloc_buffer((LANES,), dtype, scope="local", layout=None)
    for i in range(LANES):
        T.buffer_store(total, T.IntImm(dtype, start), [i])
    line, column = T.bind(row // ow), T.bind(row % ow)
    with T.serial(kh) as i, T.serial(kw) as j:
        y = T.bind(line % oh * sh - top + i * dh)
        z = T.bind(column * sw - left + j * dw)
        inside = T.And(
            T.And(y >= 0, y < h) if top or bottom else T.bool(True),
            T.And(z >= 0, z < w) if left or right else T.bool(True),
        )
        with T.If(inside), T.Then():
            place = T.bind(((line // oh * h + y) * w + z) * c)
            codes = _lanes(x, place, reader.column, c, windows.x_dtype)
            filters = None
            if windows.kind == "dot":
                filters = _lanes(arguments[1], (i * kw + j) * c, reader.column, c, "int8")
            for lane in range(LANES):
                code = T.cast(codes[lane], dtype)
                if filters is not None:
                    code = total[lane] + code * T.cast(filters[lane], dtype)
                elif windows.kind == "max":
                    code = T.max(total[lane], code)
                else:
                    code = total[lane] + code
                T.buffer_store(total, code, [lane])
    return total


def _lanes(buffer: Expr, place: Expr, column: Expr, width: int, dtype: str) -> Expr:
    """Four neighbours of a row that starts at `place`; beyond its end, the last again."""
    found = T.alloc_buffer((LANES,), dtype, scope="local", layout=None)
    lanes = vector_lanes(width, dtype)
    for i in range(0, LANES, lanes):
        if lanes == 1:
            T.buffer_store(found, buffer[place + T.min(column + i, width - 1)], [i])
        else:
            value = buffer[T.Ramp(place + column + i, 1, lanes)]
            T.buffer_store(found, value, [T.Ramp(i, 1, lanes)])
    return found
