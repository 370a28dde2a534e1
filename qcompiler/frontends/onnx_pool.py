"""Importers of pooling."""

from __future__ import annotations

import math

from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_windows import Plane, plane, sliding_window
from qcompiler.graph import Op
from qcompiler.ops import AveragePool, MaxPool, Pad, ReduceMean, Reshape, Window

_LARGEST_PLANE = 1 << 24  # elements of the table of how many elements each window covers


@importer("MaxPool")
def max_pool(node: Node) -> Op:
    """The largest element of each window."""
    x, window = _pooled(node)
    return x.restored(MaxPool(x.op, window))


@importer("AveragePool")
def average_pool(node: Node) -> Op:
    """The mean of each window, with or without the padding."""
    x, window = _pooled(node)
    height, width = x.op.type.shape[2:]
    if window.kernel == (height, width) and not any(window.pads):
        return x.restored(ReduceMean(x.op, (2, 3)))
    if node.integer("count_include_pad") and any(window.pads):
        return x.restored(_counted(node, x, window))
    return x.restored(AveragePool(x.op, window))


def _counted(node: Node, x: Plane, window: Window) -> Op:
    """Padding that the node asks for counts; what ceil_mode adds behind it does not."""
    top, left, bottom, right = window.pads
    if node.text("auto_pad", "NOTSET") == "NOTSET":
        given = node.integers("pads") or (0,) * (2 * x.spatial)
        right = min(right, given[-1])
        bottom = min(bottom, given[-2]) if x.spatial == 2 else 0
    padded = Pad(x.op, (0, 0, top, left), (0, 0, bottom, right))
    extra = (0, 0, window.pads[2] - bottom, window.pads[3] - right)
    return AveragePool(padded, Window(window.kernel, window.strides, extra, window.dilations))


def _pooled(node: Node) -> tuple[Plane, Window]:
    x = plane(node, node.x)
    kernel = node.integers("kernel_shape") or ()
    window = sliding_window(node, x, kernel)
    if any(pad >= k for pad, k in zip(node.integers("pads") or (), kernel * 2, strict=False)):
        raise node.broken("expected padding smaller than the kernel: a window would be empty")
    if not window.overlaps:  # ceil_mode and SAME pad dilated windows by more than taps reach
        raise node.unsupported("padding beyond the kernel size")
    height, width = x.op.type.shape[2:]
    if (height + sum(window.pads[::2])) * (width + sum(window.pads[1::2])) > _LARGEST_PLANE:
        raise node.broken(f"expected a plane that fits in memory, found {window} on {x.op.type}")
    return x, window


@importer("GlobalAveragePool")
def global_average_pool(node: Node) -> Op:
    """The mean over all spatial axes."""
    return ReduceMean(node.x, tuple(range(2, node.x.type.rank)))


@importer("GlobalMaxPool")
def global_max_pool(node: Node) -> Op:
    """The largest element over all spatial axes."""
    shape = node.x.type.shape
    if len(shape) < 3:
        raise node.broken(f"expected a tensor with spatial axes, found {node.x.type}")
    n, c, h, *rest = shape
    whole = (h, math.prod(rest))
    pooled = MaxPool(Reshape(node.x, (n, c, *whole)), Window(whole))
    return Reshape(pooled, (n, c) + (1,) * (len(shape) - 2))
