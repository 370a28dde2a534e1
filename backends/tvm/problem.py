"""What a kernel computes: frozen descriptions that kernels of every device are built from."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qcompiler.errors import ShapeError

MOST_ELEMENTS = 2**31 - 1

Expr = Any
"""A TIR expression; TVM ships no types."""

Scalar = Callable[[Expr, list[Expr], tuple[Expr, ...]], Expr]
"""An epilogue: from a sum, the operands' buffers and the output index to what is stored."""

Vector = Callable[[Expr, list[Expr], tuple[Expr, ...], int], Expr]
"""An epilogue on vectors: from neighbouring channels' sums, the operands' buffers, the output index
of the first and their number to what is stored."""


@dataclass(frozen=True)
class TableEnd:
    """The table that an epilogue ends in.

    Attributes:
        operand: Which operand is the table, of rank 1.
        index: The element's int32 place in it, from what gives the value.
        codes: The uint8 place within 256 entries for a multiple of four channels at once, where
            that is faster.
        rows: Which operand says where each channel's table starts, a multiple of 256, where there
            are several behind one another and ``codes`` is known.
    """

    operand: int
    index: Scalar
    codes: Vector | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Epilogue:
    """Elementwise end of a kernel, applied to each int32 accumulator before it is stored.

    ``value`` is called inside a vectorised loop over output channels, so it must not bind
    variables.  The product of an int32 cast to int64 with another becomes a single instruction
    (``vpmuldq``; a multiplier stored as int64 costs a full 64-bit product).

    Attributes:
        operands: Shape and dtype of each further buffer argument.
        dtype: Output dtype.
        value: ``value(acc, buffers, index)`` gives the scalar to store at the output index
            (one expression per output axis) from the int32 accumulator, bias included.
        vector: The same for a multiple of four channels at once, where that is faster.
        table: Where ``value`` looks an element up as the last step, what is looked up.
        by_element: Which operands are read at the output index, and not as tables alone.
    """

    operands: tuple[tuple[tuple[int, ...], str], ...]
    dtype: str
    value: Scalar
    vector: Vector | None = None
    table: TableEnd | None = None
    by_element: tuple[int, ...] = ()

    @property
    def forms(self) -> tuple[bool, bool]:
        """Whether vectors have forms of their own: for values, and for places in the table."""
        return self.vector is not None, self.table is not None and self.table.codes is not None


@dataclass(frozen=True)
class Conv2d:
    """acc[n, y, x, o] = bias[o] + Σ input·weight over raw codes, NHWC, padded with raw 0.

    Attributes:
        x_shape: n, h, w, c.
        x_dtype: ``"uint8"`` or ``"int8"``; weights are int8 [o, c / groups, kh, kw].
        out_channels: o, a multiple of ``groups``.
        kernel: kh, kw.
        strides: Vertical, horizontal.
        pads: Top, left, bottom, right.
        dilations: Vertical, horizontal.
        groups: Equal parts of c and of o that are convolved separately.
    """

    x_shape: tuple[int, int, int, int]
    x_dtype: str
    out_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """n, oh, ow, o."""
        n, h, w, _ = self.x_shape
        top, left, bottom, right = self.pads
        (kh, kw), (dh, dw), (sh, sw) = self.kernel, self.dilations, self.strides
        oh = (h + top + bottom - (kh - 1) * dh - 1) // sh + 1
        ow = (w + left + right - (kw - 1) * dw - 1) // sw + 1
        return n, oh, ow, self.out_channels

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved with one filter of its own."""
        return 1 < self.groups == self.x_shape[3] == self.out_channels

    @property
    def pointwise(self) -> bool:
        """Whether this is a matrix product over the flattened pixels."""
        plain = self.kernel == self.strides == (1, 1) and not any(self.pads)
        return plain and self.groups == 1


@dataclass(frozen=True)
class Matmul:
    """acc[..., m, n] = bias[n] + Σ x[..., m, k]·weight[k, n] over raw codes, weight constant int8.

    Attributes:
        x_shape: ..., m, k.
        x_dtype: ``"uint8"`` or ``"int8"``.
        out_features: n.
    """

    x_shape: tuple[int, ...]
    x_dtype: str
    out_features: int

    @property
    def out_shape(self) -> tuple[int, ...]:
        """..., m, n."""
        return (*self.x_shape[:-1], self.out_features)


def as_conv2d(problem: Conv2d | Matmul) -> Conv2d:
    """The convolution that does the same on flat memory: products become one row of pixels.

    Raises:
        ShapeError: a tensor has more elements than the int32 indices of kernels reach.
    """
    for shape in (problem.x_shape, problem.out_shape):
        if math.prod(shape) > MOST_ELEMENTS:
            raise ShapeError(
                f"a tensor {list(shape)} of {math.prod(shape)} elements, but kernels index at most "
                f"{MOST_ELEMENTS}: choose a smaller batch"
            )
    if isinstance(problem, Conv2d) and not problem.pointwise:
        return problem
    *pixels, depth = problem.x_shape
    x_shape = (1, 1, math.prod(pixels), depth)
    return Conv2d(x_shape, problem.x_dtype, problem.out_shape[-1], (1, 1))
