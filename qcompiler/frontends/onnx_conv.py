"""Importer of convolution over any number of axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from qcompiler.frontends.onnx_fold import fold, simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.frontends.onnx_windows import (
    Axes,
    elements,
    on_plane,
    padded,
    sliding,
    spatial_sizes,
    taps,
)
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    Concat,
    Conv,
    FakeQuantize,
    MatMul,
    Pad,
    Reshape,
    Transpose,
)
from qcompiler.types import Quantization

_MOST_TAPS = 1 << 12  # of a window that becomes one slice each


@importer("Conv")
def conv(node: Node) -> Op:
    """Convolution over the axes behind the channels."""
    x, weight, groups = node.x, node.operand(1), groups_of(node)
    sizes = spatial_sizes(node, x)
    if weight.type.rank != x.type.rank or x.type.shape[1] != weight.type.shape[1] * groups:
        raise node.broken(f"expected a weight for {x.type}, {groups} groups, found {weight.type}")
    if weight.type.shape[0] % groups:
        raise node.broken(f"group: expected a divisor of {weight.type.shape[0]}, found {groups}")
    kernel = node.integers("kernel_shape") or weight.type.shape[2:]
    if tuple(kernel) != weight.type.shape[2:]:
        raise node.broken(f"kernel_shape: expected {list(weight.type.shape[2:])}, found {kernel}")
    axes = sliding(node, sizes, kernel)
    bias = bias_of(node, 2, weight.type.shape[0])
    return convolved(node, x, weight, bias, axes, groups)


def groups_of(node: Node) -> int:
    """The number of channel groups.

    Raises:
        ModelError: it is not positive.
    """
    if (groups := node.integer("group", 1)) < 1:
        raise node.broken(f"group: expected at least 1, found {groups}")
    return groups


def bias_of(node: Node, operand: int, channels: int) -> Op | None:
    """The operand with one term per channel; None where it is absent.

    Raises:
        ModelError: it has another shape.
    """
    bias = node.optional(operand)
    if bias is not None and bias.type.shape != (channels,):
        raise node.broken(f"expected a bias [{channels}], found {bias.type}")
    return bias


def convolved(node: Node, x: Op, weight: Op, bias: Op | None, axes: Axes, groups: int) -> Op:
    """The convolution of x [n, c, ...] and weight [o, c / groups, ...] as ops over two axes."""
    if not _is_known(weight) or not (bias is None or _is_known(bias)):
        return _product(node, x, weight, bias, axes, groups)
    if len(axes) > 2:
        return _folded(node, x, weight, bias, axes, groups)
    if len(axes) == 1:
        o, inner, k = weight.type.shape
        weight = moved_weight(weight, lambda w: Reshape(w, (o, inner, 1, k)))
    return on_plane(x, axes, lambda x, window: Conv(x, weight, bias, window, groups))


def _is_known(x: Op) -> bool:
    """Whether x is a constant, which may have to keep its codes."""
    return isinstance(x.x if isinstance(x, FakeQuantize) else x, Constant)


def moved_weight(weight: Op, move: Callable[[Op], Op], repeats: int = 1, tiles: int = 1) -> Op:
    """A weight moved to [o, ...]; codes that it has to keep are those of its output channels.

    Args:
        weight: Constant or computed.
        move: What moves the elements.
        repeats: How many output channels have one scale of the weight in a row.
        tiles: How often the scales begin again.
    """
    if not isinstance(weight, FakeQuantize):
        return fold(move(weight))
    q, x = weight.quantization, weight.x
    if q.axis is None:
        return FakeQuantize(fold(move(x)), q)
    channels = (np.tile(np.repeat(v, repeats), tiles) for v in (q.scale, q.zero_point))
    scale, zero_point = (tuple(v.tolist()) for v in channels)
    moved = fold(move(x))
    if len(scale) != moved.type.shape[0]:  # scales of input channels
        return fold(move(Constant(weight.numpy(x.numpy()))))
    return FakeQuantize(moved, Quantization(q.storage, scale, zero_point, 0))


def _folded(node: Node, x: Op, weight: Op, bias: Op | None, axes: Axes, groups: int) -> Op:
    """The first axis folded away: its taps side by side as channels, its windows as images."""
    first, *rest = axes
    if first.kernel > _MOST_TAPS:
        raise node.unsupported(f"{first.kernel} taps along one of {len(axes)} axes")
    n, c, size, *sizes = x.type.shape
    count = first.output(size)
    x = Transpose(x, (0, 2, 1, *range(3, x.type.rank)))
    if first.before or first.after:
        others = (0,) * (x.type.rank - 2)
        x = Pad(x, (0, first.before, *others), (0, first.after, *others))
    x = Reshape(x, (n, x.type.shape[1], groups, c // groups, *sizes))
    parts = tuple(sliced(x, {1: first.tap(i, count)}) for i in range(first.kernel))
    x = Concat(parts, 3) if len(parts) > 1 else parts[0]
    x = Reshape(x, (n * count, c * first.kernel, *sizes))
    o, inner, taps, *kernel = weight.type.shape
    order = (0, 2, 1, *range(3, weight.type.rank))
    shape = (o, taps * inner, *kernel)
    weight = moved_weight(weight, lambda w: Reshape(Transpose(w, order), shape))
    y = convolved(node, x, weight, bias, rest, groups)
    y = Reshape(y, (n, count, *y.type.shape[1:]))
    return Transpose(y, (0, 2, 1, *range(3, y.type.rank)))


def _product(node: Node, x: Op, weight: Op, bias: Op | None, axes: Axes, groups: int) -> Op:
    """With a computed weight: the product of the weight and a matrix of all windows."""
    if elements(axes) > _MOST_TAPS:
        raise node.unsupported(f"a computed weight of {elements(axes)} taps")
    n, c = x.type.shape[:2]
    x = padded(x, axes)
    windows = [taps(x, axes, index) for index in np.ndindex(*(a.kernel for a in axes))]
    result = windows[0].type.shape[2:]
    columns = math.prod(result)
    parts = tuple(Reshape(y, (n, groups, c // groups, 1, columns)) for y in windows)
    rows = c // groups * len(parts)
    matrix = Reshape(Concat(parts, 3) if len(parts) > 1 else parts[0], (n, groups, rows, columns))
    o = weight.type.shape[0]
    y: Op = MatMul(simplified(Reshape(weight, (groups, o // groups, rows))), matrix)
    y = Reshape(y, (n, o, *result))
    if bias is None:
        return y
    return Add(y, simplified(Reshape(bias, (o, *(1,) * len(result)))))
