"""Windows of ONNX's convolution and pooling over any number of axes, in terms of those over two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qcompiler.frontends.onnx_node import Node
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Op
from qcompiler.ops import Pad, Reshape, Window

_LARGEST = 1 << 20  # of a kernel, stride, dilation or padding: beyond it a size is damage


@dataclass(frozen=True)
class Axis:
    """How a window slides along one axis.

    Attributes:
        kernel: Taps of the window.
        stride: Steps between windows.
        dilation: Distance between the taps.
        before: Elements added in front.
        after: Elements added behind.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1
    before: int = 0
    after: int = 0

    @property
    def span(self) -> int:
        """Elements from the first tap to the last."""
        return (self.kernel - 1) * self.dilation + 1

    def output(self, size: int) -> int:
        """How many windows fit."""
        return (size + self.before + self.after - self.span) // self.stride + 1

    def tap(self, index: int, count: int) -> tuple[int, int, int]:
        """Where a tap of the first `count` windows reads, padding counted: start, stop, step."""
        start = index * self.dilation
        return start, start + (count - 1) * self.stride + 1, self.stride


Axes = Sequence[Axis]


def window_of(axes: Axes) -> Window:
    """The window over one or two axes, as one over two."""
    rows, columns = axes if len(axes) == 2 else (Axis(1), *axes)
    return Window(
        (rows.kernel, columns.kernel),
        (rows.stride, columns.stride),
        (rows.before, columns.before, rows.after, columns.after),
        (rows.dilation, columns.dilation),
    )


def on_plane(x: Op, axes: Axes, compute: Callable[[Op, Window], Op]) -> Op:
    """The result of an op on [n, c, h, w] for x with one or two spatial axes."""
    if len(axes) == 2:
        return compute(x, window_of(axes))
    n, c, w = x.type.shape
    y = compute(Reshape(x, (n, c, 1, w)), window_of(axes))
    n, c, _, w = y.type.shape
    return Reshape(y, (n, c, w))


def padded(x: Op, axes: Axes, value: float = 0.0) -> Op:
    """x [n, c, ...] with the padding of its spatial axes written out."""
    before, after = (tuple(getattr(a, side) for a in axes) for side in ("before", "after"))
    return Pad(x, (0, 0, *before), (0, 0, *after), value) if any((*before, *after)) else x


def without_padding(axes: Axes) -> tuple[Axis, ...]:
    """The same windows, for an operand that is padded already."""
    return tuple(Axis(a.kernel, a.stride, a.dilation) for a in axes)


def taps(x: Op, axes: Axes, index: Sequence[int]) -> Op:
    """One tap of every window over x [n, c, ...], which is padded already."""
    sizes = x.type.shape[2:]
    counts = [a.output(size) for a, size in zip(without_padding(axes), sizes, strict=True)]
    steps = zip(axes, index, counts, strict=True)
    return sliced(x, {2 + i: a.tap(tap, n) for i, (a, tap, n) in enumerate(steps)})


def spatial_sizes(node: Node, x: Op) -> tuple[int, ...]:
    """The sizes of the spatial axes of [n, c, ...].

    Raises:
        ModelError: there are none.
    """
    if x.type.rank < 3:
        raise node.broken(f"expected a tensor with spatial axes, found {x.type}")
    return x.type.shape[2:]


def sliding(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[Axis, ...]:
    """The windows that a node slides over axes of these sizes, their padding made explicit.

    Raises:
        ModelError: an attribute has another length, a size is out of range, or not one window fits.
    """
    axes, (before, after) = unpadded(node, kernel, len(sizes)), given_pads(node, len(sizes))
    match node.text("auto_pad", "NOTSET"):
        case "NOTSET" | "":
            axes = tuple(
                Axis(a.kernel, a.stride, a.dilation, b, e)
                for a, b, e in zip(axes, before, after, strict=True)
            )
        case "VALID":
            pass
        case "SAME_UPPER" | "SAME_LOWER" as rule:
            axes = tuple(
                _shared_out(a, max((-(-size // a.stride) - 1) * a.stride + a.span - size, 0), rule)
                for a, size in zip(axes, sizes, strict=True)
            )
        case other:
            raise node.broken(f"auto_pad: expected a padding rule, found {other!r}")
    if node.integer("ceil_mode") and not node.text("auto_pad").startswith("SAME"):
        axes = tuple(_ceiled(a, size) for a, size in zip(axes, sizes, strict=True))
    for a, size in zip(axes, sizes, strict=True):
        if size + a.before + a.after < a.span:
            raise node.broken(f"expected at least {a.span} elements for {a}, found {size}")
    return axes


def unpadded(node: Node, kernel: Sequence[int], count: int) -> tuple[Axis, ...]:
    """Kernel, strides and dilations of a node with `count` spatial axes.

    Raises:
        ModelError: an attribute has another length, or a size is out of range.
    """
    strides = node.integers("strides") or (1,) * count
    dilations = node.integers("dilations") or (1,) * count
    found = {"kernel_shape": tuple(kernel), "strides": strides, "dilations": dilations}
    for name, values in found.items():
        if len(values) != count or not 1 <= min(values) <= max(values) <= _LARGEST:
            raise node.broken(f"{name}: expected {count} sizes ≥ 1, found {list(values)}")
    return tuple(Axis(*sizes) for sizes in zip(kernel, strides, dilations, strict=True))


def given_pads(node: Node, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The attribute `pads`: before and after each of `count` spatial axes.

    Raises:
        ModelError: it has another length, or a size is out of range.
    """
    pads = node.integers("pads") or (0,) * (2 * count)
    if len(pads) != 2 * count or not 0 <= min(pads) <= max(pads) <= _LARGEST:
        raise node.broken(f"pads: expected {2 * count} sizes ≥ 0, found {list(pads)}")
    return pads[:count], pads[count:]


def _shared_out(axis: Axis, total: int, rule: str) -> Axis:
    smaller, larger = total // 2, total - total // 2
    before, after = (smaller, larger) if rule == "SAME_UPPER" else (larger, smaller)
    return Axis(axis.kernel, axis.stride, axis.dilation, before, after)


def _ceiled(axis: Axis, size: int) -> Axis:
    """With padding behind that lets a last, partial window in, if it starts before the padding."""
    steps = -(-(size + axis.before + axis.after - axis.span) // axis.stride)
    if steps * axis.stride >= size + axis.before:
        steps -= 1
    after = max(steps * axis.stride + axis.span - size - axis.before, 0)
    return Axis(axis.kernel, axis.stride, axis.dilation, axis.before, after)


def elements(axes: Axes) -> int:
    """Taps of one window."""
    return math.prod(a.kernel for a in axes)
