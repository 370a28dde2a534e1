"""Importers of transposed convolution over any number of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.frontends.onnx_conv import bias_of, convolved, groups_of, moved_weight
from qcompiler.frontends.onnx_fold import fold
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reshape import spread
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.frontends.onnx_windows import (
    Axes,
    Axis,
    elements,
    given_pads,
    spatial_sizes,
    unpadded,
)
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Expand,
    FakeQuantize,
    Gather,
    Pad,
    Reshape,
    Transpose,
)


@importer("ConvTranspose")
def conv_transpose(node: Node) -> Op:
    """The transpose of a convolution, by sub-pixel phases (Shi et al. 2016, section 3.2).

    With stride s, outputs j = q·s + r of one phase r are a convolution with the taps r, r + s, … of
    the kernel: all phases are channels of one convolution, which are then spread over blocks of s
    elements.
    """
    x, weight, groups = node.x, node.operand(1), groups_of(node)
    sizes = spatial_sizes(node, x)
    c, inner = weight.type.shape[:2] if weight.type.rank == x.type.rank else (0, 0)
    if c != x.type.shape[1] or c % groups:
        raise node.broken(f"expected a weight for {x.type}, {groups} groups, found {weight.type}")
    kernel = node.integers("kernel_shape") or weight.type.shape[2:]
    if tuple(kernel) != weight.type.shape[2:]:
        raise node.broken(f"kernel_shape: expected {list(weight.type.shape[2:])}, found {kernel}")
    axes = unpadded(node, kernel, len(sizes))
    bias = bias_of(node, 2, inner * groups)
    return transposed(node, x, weight, bias, axes, _crops(node, axes, sizes), groups)


def transposed(
    node: Node,
    x: Op,
    weight: Op,
    bias: Op | None,
    axes: Axes,
    crops: Sequence[tuple[int, int]],
    groups: int,
) -> Op:
    """The transposed convolution of x [n, c, ...] and weight [c, o / groups, ...].

    Args:
        node: Whom errors name.
        x: [n, c, ...].
        weight: [c, o / groups, ...].
        bias: [o] or None.
        axes: Without padding.
        crops: Start and stop of the part to return, for each axis.
        groups: Number of channel groups.
    """
    (c, inner), sizes = weight.type.shape[:2], x.type.shape[2:]
    strides = [a.stride for a in axes]
    if inner * groups * math.prod(-(-a.span // a.stride) * a.stride for a in axes) * c > 1 << 31:
        raise node.broken(f"expected a kernel that fits in memory, found {axes}")
    copies = math.prod(strides)
    phases = moved_weight(weight, lambda w: _phases(w, axes, groups), copies, groups)
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


@importer("Col2Im", since=18)
def col2im(node: Node) -> Op:
    """Windows added up where they overlap: a transposed convolution with a 1 for each tap."""
    x = node.x
    image, block = node.known_integers(1, "image_shape"), node.known_integers(2, "block_shape")
    if x.type.rank != 3 or not image or not block or len(image) != len(block):
        raise node.broken(f"expected [n, c·taps, windows] of an image, found {x.type}")
    axes, (before, after) = unpadded(node, block, len(image)), given_pads(node, len(image))
    n, channels, windows = x.type.shape
    counts = [
        (size + b + e - a.span) // a.stride + 1
        for a, size, b, e in zip(axes, image, before, after, strict=True)
    ]
    places = elements(axes)
    if min(counts) < 1 or math.prod(counts) != windows or channels % places:
        raise node.broken(f"expected {counts} windows of {places} elements, found {x.type}")
    if places * channels > 1 << 24:
        raise node.unsupported(f"windows of {places} elements")
    one = np.eye(places, dtype=np.float32).reshape(places, 1, *block)
    weight = Constant(np.tile(one, (channels // places, *(1,) * (len(block) + 1))))
    crops = [(b, b + size) for b, size in zip(before, image, strict=True)]
    y = Reshape(x, (n, channels, *counts))
    return transposed(node, y, weight, None, axes, crops, channels // places)


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
