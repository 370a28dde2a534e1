"""Importers of sampling at real coordinates: GridSample, AffineGrid and DeformConv."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.frontends.onnx_conv import bias_of, groups_of
from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_interpolate import (
    Tap,
    channels_second,
    clipped,
    cubic_taps,
    interpolated,
    linear_taps,
    or_nearest,
    or_zero,
    plus,
    times,
)
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.frontends.onnx_windows import sliding, spatial_sizes
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    Floor,
    MatMul,
    Minimum,
    Mul,
    Reshape,
    Round,
    Sub,
    Transpose,
    scalar,
)
from qcompiler.types import FLOAT

_MOST_PLACES = 1 << 26  # of samples in one node


@importer("GridSample", since=16)
def grid_sample(node: Node) -> Op:
    """x at the coordinates of a grid, which reaches from −1 to 1 along each axis."""
    x, grid = node.x, node.operand(1)
    sizes = spatial_sizes(node, x)
    shape = grid.type.shape
    if grid.type.rank != x.type.rank or shape[0] != x.type.shape[0] or shape[-1] != len(sizes):
        raise node.broken(f"expected a grid for {x.type}, found {grid.type}")
    if not all(shape) or not all(sizes):
        raise node.unsupported(f"a grid {grid.type} on {x.type}")
    mode = node.text("mode", "linear")
    aligned = bool(node.integer("align_corners"))
    rule = node.text("padding_mode", "zeros")
    if rule not in ("zeros", "border", "reflection"):
        raise node.broken(f"padding_mode: expected a padding rule, found {rule!r}")
    axes = []
    for i, size in enumerate(sizes):
        last = len(sizes) - 1 - i  # the grid's coordinates begin with the last axis
        part = sliced(grid, {grid.type.rank - 1: (last, last + 1, 1)})
        normal = simplified(reshaped(part, shape[:-1]))
        factor = (size - 1) / 2 if aligned else size / 2
        at = plus(times(normal, factor), (size - 1) / 2)
        if mode == "nearest":
            at = simplified(Round(at))
        if rule == "reflection":
            at = _reflected(at, size, aligned)
        elif rule == "border" and mode not in ("cubic", "bicubic"):
            at = clipped(at, 0, size - 1)
        match mode:
            case "nearest":
                taps: list[tuple[Op, Op | None]] = [(clipped(at, -1, size), None)]
            case "linear" | "bilinear":
                taps = list(linear_taps(at, size))
            case "cubic" | "bicubic":
                taps = list(cubic_taps(at, size))
            case _:
                raise node.broken(f"mode: expected an interpolation, found {mode!r}")
        if rule == "reflection":
            taps = [
                (simplified(Floor(plus(_reflected(p, size, aligned), 0.5))), w) for p, w in taps
            ]
        axes.append(or_zero(taps, size) if rule == "zeros" else or_nearest(taps, size))
    images = np.arange(shape[0]).reshape(-1, *(1,) * len(sizes))
    return channels_second(interpolated(x, axes, images, Add))


def _reflected(at: Op, size: int, aligned: bool) -> Op:
    """Coordinates mirrored at the borders until they are within: a triangle of the distance."""
    low, high = (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)
    length = high - low
    if length == 0:
        return times(at, 0)
    distance = plus(at, -low)
    turns = simplified(Floor(times(distance, 1 / (2 * length))))
    rest = simplified(Sub(distance, times(turns, 2 * length)))
    back = simplified(Sub(scalar(2 * length, FLOAT), rest))
    return plus(simplified(Minimum(rest, back)), low)


@importer("AffineGrid", since=20)
def affine_grid(node: Node) -> Op:
    """Where an affine map puts each element of an image of the given size."""
    theta, size = node.x, node.known_integers(1, "size") or ()
    count = len(size) - 2
    if count not in (2, 3) or theta.type.shape != (size[0], count, count + 1):
        raise node.broken(f"expected maps for {list(size)}, found {theta.type}")
    if min(size) < 1 or math.prod(size[2:]) > _MOST_PLACES:
        raise node.broken(f"size: expected sizes that fit in memory, found {list(size)}")
    aligned = bool(node.integer("align_corners"))
    lines = [np.linspace(-1, 1, d) if aligned else (2 * np.arange(d) + 1) / d - 1 for d in size[2:]]
    grids = np.meshgrid(*lines, indexing="ij")[::-1]  # the last axis is the first coordinate
    places = np.stack([*(g.reshape(-1) for g in grids), np.ones(math.prod(size[2:]))], 1)
    moved = MatMul(Constant(places.astype(FLOAT)), simplified(Transpose(theta, (0, 2, 1))))
    return Reshape(moved, (size[0], *size[2:], count))


@importer("DeformConv", since=19)
def deform_conv(node: Node) -> Op:
    """A convolution whose taps read at computed offsets (Dai et al. 2017, eq. 2; Zhu et al. 2019).

    The weight multiplies the matrix of all windows, whose elements are interpolated.
    """
    x, weight, offset, mask = node.x, node.operand(1), node.operand(2), node.optional(4)
    if x.type.rank != 4 or weight.type.rank != 4 or offset.type.rank != 4:
        raise node.unsupported(f"an operand {x.type} and offsets {offset.type}")
    n, c, *sizes = x.type.shape
    outputs, kernel = weight.type.shape[0], weight.type.shape[2:]
    groups, parts, count = groups_of(node), node.integer("offset_group", 1), math.prod(kernel)
    if parts < 1 or c % parts or weight.type.shape[1] * groups != c or outputs % groups:
        raise node.broken(f"expected groups of the channels of {x.type} and {weight.type}")
    if tuple(node.integers("kernel_shape") or kernel) != kernel:
        raise node.broken(f"kernel_shape: expected {list(kernel)}")
    axes = sliding(node, sizes, kernel)
    result = tuple(a.output(d) for a, d in zip(axes, sizes, strict=True))
    if offset.type.shape != (n, parts * count * 2, *result):
        raise node.broken(
            f"expected offsets {[n, parts * count * 2, *result]}, found {offset.type}"
        )
    shape = (n * parts, count, *result)
    moves = reshaped(offset, (n * parts, count, 2, *result))
    taps: list[list[Tap]] = []
    for i, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
        starts = np.arange(axis.output(size)) * axis.stride - axis.before
        reach = np.arange(axis.kernel) * axis.dilation
        grid = (reach if i else reach[:, None]) + np.zeros(kernel)
        place = starts if i else starts[:, None]
        fixed = Constant((grid.reshape(1, count, 1, 1) + place).astype(FLOAT))
        part = reshaped(sliced(moves, {2: (i, i + 1, 1)}), shape)
        taps.append(or_zero(list(linear_taps(plus(part, fixed), size)), size))
    images = np.arange(n * parts).reshape(-1, 1, 1, 1)
    split = reshaped(x, (n * parts, c // parts, *sizes))
    found = interpolated(split, taps, images, Add)  # [n·parts, taps, oh, ow, c / parts]
    if mask is not None:
        if mask.type.shape != (n, parts * count, *result):
            raise node.broken(f"expected a mask for {offset.type}, found {mask.type}")
        found = Mul(found, simplified(reshaped(mask, (*shape, 1))))
    columns = math.prod(result)
    inner = c // groups * count
    rows = Transpose(reshaped(found, (n * parts, count, columns, c // parts)), (0, 3, 1, 2))
    matrix = reshaped(rows, (n, groups, inner, columns))
    left = simplified(reshaped(weight, (groups, outputs // groups, inner)))
    y = reshaped(MatMul(left, matrix), (n, outputs, *result))
    bias = bias_of(node, 3, outputs)
    return y if bias is None else Add(y, simplified(reshaped(bias, (outputs, 1, 1))))
