"""Importers of convolution: over any number of axes, and transposed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from qcompiler.frontends.onnx_fold import fold, simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reshape import spread
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.frontends.onnx_windows import (
    Axes,
    Axis,
    elements,
    given_pads,
    on_plane,
    padded,
    sliding,
    spatial_sizes,
    taps,
    unpadded,
)
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    Concat,
    Conv,
    Expand,
    FakeQuantize,
    Gather,
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
    x, weight, groups = node.x, node.operand(1), _groups(node)
    sizes = spatial_sizes(node, x)
    if weight.type.rank != x.type.rank or x.type.shape[1] != weight.type.shape[1] * groups:
        raise node.broken(f"expected a weight for {x.type}, {groups} groups, found {weight.type}")
    if weight.type.shape[0] % groups:
        raise node.broken(f"group: expected a divisor of {weight.type.shape[0]}, found {groups}")
    kernel = node.integers("kernel_shape") or weight.type.shape[2:]
    if tuple(kernel) != weight.type.shape[2:]:
        raise node.broken(f"kernel_shape: expected {list(weight.type.shape[2:])}, found {kernel}")
    axes = sliding(node, sizes, kernel)
    bias = _bias(node, weight.type.shape[0])
    return convolved(node, x, weight, bias, axes, groups)


def _groups(node: Node) -> int:
    if (groups := node.integer("group", 1)) < 1:
        raise node.broken(f"group: expected at least 1, found {groups}")
    return groups


def _bias(node: Node, channels: int) -> Op | None:
    bias = node.optional(2)
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
        weight = _moved(weight, lambda w: Reshape(w, (o, inner, 1, k)))
    return on_plane(x, axes, lambda x, window: Conv(x, weight, bias, window, groups))


def _is_known(x: Op) -> bool:
    """Whether x is a constant, which may have to keep its codes."""
    return isinstance(x.x if isinstance(x, FakeQuantize) else x, Constant)


def _moved(weight: Op, move: Callable[[Op], Op], repeats: int = 1, tiles: int = 1) -> Op:
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
    weight = _moved(weight, lambda w: Reshape(Transpose(w, order), shape))
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


@importer("ConvTranspose")
def conv_transpose(node: Node) -> Op:
    """The transpose of a convolution, by sub-pixel phases (Shi et al. 2016, section 3.2).

    With stride s, outputs j = q·s + r of one phase r are a convolution with the taps r, r + s, … of
    the kernel: all phases are channels of one convolution, which are then spread over blocks of s
    elements.
    """
    x, weight, groups = node.x, node.operand(1), _groups(node)
    sizes = spatial_sizes(node, x)
    c, inner = weight.type.shape[:2] if weight.type.rank == x.type.rank else (0, 0)
    if c != x.type.shape[1] or c % groups:
        raise node.broken(f"expected a weight for {x.type}, {groups} groups, found {weight.type}")
    kernel = node.integers("kernel_shape") or weight.type.shape[2:]
    if tuple(kernel) != weight.type.shape[2:]:
        raise node.broken(f"kernel_shape: expected {list(weight.type.shape[2:])}, found {kernel}")
    axes = unpadded(node, kernel, len(sizes))
    crops = _crops(node, axes, sizes)
    bias = _bias(node, inner * groups)
    strides = [a.stride for a in axes]
    if inner * groups * math.prod(-(-a.span // a.stride) * a.stride for a in axes) * c > 1 << 31:
        raise node.broken(f"expected a kernel that fits in memory, found {axes}")
    copies = math.prod(strides)
    phases = _moved(weight, lambda w: _phases(w, axes, groups), copies, groups)
    if bias is not None:
        bias = bias.x if isinstance(bias, FakeQuantize) else bias
        wide = Expand(Reshape(bias, (inner * groups, 1)), (inner * groups, copies))
        bias = fold(Reshape(wide, (inner * groups * copies,)))
    # Only the blocks that the crop keeps are computed.
    windows, ranges = [], []
    for a, size, (start, stop) in zip(axes, sizes, crops, strict=True):
        depth = -(-a.span // a.stride)
        first, last = start // a.stride, -(-stop // a.stride)
        before, after = depth - 1 - first, last - size
        windows.append(Axis(depth, before=max(before, 0), after=max(after, 0)))
        skipped = max(-before, 0)
        begin = start - (first - skipped) * a.stride
        ranges.append((begin, begin + stop - start))
    y = convolved(node, x, phases, bias, windows, groups)
    return sliced(
        spread(y, strides), {2 + i: (start, stop, 1) for i, (start, stop) in enumerate(ranges)}
    )


def _crops(node: Node, axes: Axes, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """The part of the whole transposed convolution that the node returns, on each axis."""
    count = len(axes)
    extra = node.integers("output_padding") or (0,) * count
    shape = node.integers("output_shape")
    if len(extra) != count or min(extra) < 0 or max(extra) > 1 << 20:
        raise node.broken(f"output_padding: expected {count} sizes ≥ 0, found {list(extra)}")
    before, after = given_pads(node, count)
    rule = node.text("auto_pad", "NOTSET") or "NOTSET"
    if rule not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise node.broken(f"auto_pad: expected a padding rule, found {rule!r}")
    if rule == "VALID":
        before = after = (0,) * count
    wholes = [(d - 1) * a.stride + a.span + e for a, d, e in zip(axes, sizes, extra, strict=True)]
    if shape is None and rule.startswith("SAME"):
        shape = tuple(d * a.stride for d, a in zip(sizes, axes, strict=True))
    if shape is not None:
        shape = shape[-count:]  # some exporters write batch and channels as well
        if len(shape) != count or min(shape) < 1 or max(shape) > 1 << 31:
            raise node.broken(f"output_shape: expected {count} sizes ≥ 1, found {list(shape)}")
        total = [max(whole - size, 0) for whole, size in zip(wholes, shape, strict=True)]
        smaller = tuple(t // 2 for t in total)
        larger = tuple(t - t // 2 for t in total)
        before, after = (smaller, larger) if rule == "SAME_UPPER" else (larger, smaller)
        wholes = [size + t for size, t in zip(shape, total, strict=True)]
    stops = [whole - a for whole, a in zip(wholes, after, strict=True)]
    if any(start >= stop for start, stop in zip(before, stops, strict=True)):
        raise node.broken(f"expected pads that leave elements of {wholes}, found {list(before)}")
    return list(zip(before, stops, strict=True))


def _phases(weight: Op, axes: Axes, groups: int) -> Op:
    """The kernels of all phases: [c, o / groups, k...] → [o·s..., c / groups, ⌈k / s⌉...].

    Tap t of phase r is w[(T − 1 − t)·s + r]: a convolution reads backwards what its transpose
    writes forwards.  Dilated kernels get their zeros, and all of them zeros up to T·s taps.
    """
    c, inner = weight.type.shape[:2]
    for i, a in enumerate(axes):
        weight = _dilated(weight, 2 + i, a)
    split = [d for a in axes for d in (-(-a.span // a.stride), a.stride)]
    apart = Reshape(weight, (groups, c // groups, inner, *split))
    places = range(3, 3 + len(split))
    order = (0, 2, *places[1::2], 1, *places[::2])
    phases = groups * inner * math.prod(a.stride for a in axes)
    result: Op = Reshape(Transpose(apart, order), (phases, c // groups, *split[::2]))
    for i, depth in enumerate(split[::2]):
        if depth > 1:
            result = Gather(result, Constant(np.arange(depth - 1, -1, -1)), 2 + i)
    return result


def _dilated(weight: Op, axis: int, a: Axis) -> Op:
    """The weight with zeros between the taps of an axis, and behind them up to whole phases."""
    shape = weight.type.shape
    before, after = shape[:axis], shape[axis + 1 :]
    if a.dilation > 1:
        gaps = (*(0,) * (axis + 1), a.dilation - 1, *(0,) * len(after))
        weight = Pad(Reshape(weight, (*shape[: axis + 1], 1, *after)), (0,) * len(gaps), gaps)
        weight = Reshape(weight, (*before, shape[axis] * a.dilation, *after))
        weight = sliced(weight, {axis: (0, a.span, 1)})
    missing = -a.span % a.stride
    rest = (*(0,) * axis, missing, *(0,) * len(after))
    return Pad(weight, (0,) * len(rest), rest) if missing else weight
