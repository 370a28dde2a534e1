"""Windows of ONNX's convolution and pooling: padding rules, and one spatial axis as two."""

from __future__ import annotations

from dataclasses import dataclass

from qcompiler.frontends.onnx_node import Node
from qcompiler.graph import Op
from qcompiler.ops import Reshape, Window

_LARGEST = 1 << 20  # of a kernel, stride, dilation or padding: beyond it a size is damage


@dataclass(frozen=True)
class Plane:
    """A value with two spatial axes in place of one or two.

    Attributes:
        op: [n, c, h, w]; h is 1 where the model has one spatial axis.
        spatial: Number of spatial axes in the model.
    """

    op: Op
    spatial: int

    @property
    def size(self) -> tuple[int, ...]:
        """The sizes of the model's spatial axes."""
        return self.op.type.shape[4 - self.spatial :]

    def restored(self, y: Op) -> Op:
        """A result [n, c, h, w] with the model's number of spatial axes."""
        if self.spatial == 2:
            return y
        n, c, _, w = y.type.shape
        return Reshape(y, (n, c, w))


def plane(node: Node, x: Op) -> Plane:
    """A value as [n, c, h, w].

    Raises:
        UnsupportedError: it has three or more spatial axes.
        ModelError: it has none.
    """
    if x.type.rank < 3:
        raise node.broken(f"expected a tensor with spatial axes, found {x.type}")
    if x.type.rank > 4:
        raise node.unsupported(f"{x.type.rank - 2} spatial axes")
    if x.type.rank == 4:
        return Plane(x, 2)
    n, c, w = x.type.shape
    return Plane(Reshape(x, (n, c, 1, w)), 1)


def sliding_window(node: Node, x: Plane, kernel: tuple[int, ...]) -> Window:
    """The window that a node slides over the plane, its padding made explicit.

    Raises:
        ModelError: an attribute has another length, or a size is out of range.
    """
    axes = x.spatial
    strides = node.integers("strides") or (1,) * axes
    dilations = node.integers("dilations") or (1,) * axes
    pads = node.integers("pads") or (0,) * (2 * axes)
    sizes = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    for name, values in sizes.items():
        if len(values) != axes or not 1 <= min(values) <= max(values) <= _LARGEST:
            raise node.broken(f"{name}: expected {axes} sizes ≥ 1, found {list(values)}")
    if len(pads) != 2 * axes or not 0 <= min(pads) <= max(pads) <= _LARGEST:
        raise node.broken(f"pads: expected {2 * axes} sizes ≥ 0, found {list(pads)}")
    before, after = pads[:axes], pads[axes:]
    match node.text("auto_pad", "NOTSET"):
        case "NOTSET" | "":
            if node.integer("ceil_mode"):
                sizes_of = zip(x.size, kernel, strides, dilations, before, after, strict=True)
                after = tuple(_ceiled(*sizes) for sizes in sizes_of)
        case "VALID":
            before = after = (0,) * axes
        case "SAME_UPPER" | "SAME_LOWER" as rule:
            totals = [
                max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
                for size, k, s, d in zip(x.size, kernel, strides, dilations, strict=True)
            ]
            smaller = tuple(total // 2 for total in totals)
            larger = tuple(total - total // 2 for total in totals)
            before, after = (smaller, larger) if rule == "SAME_UPPER" else (larger, smaller)
        case other:
            raise node.broken(f"auto_pad: expected a padding rule, found {other!r}")
    if axes == 1:
        kernel, strides, dilations = (1, *kernel), (1, *strides), (1, *dilations)
        before, after = (0, *before), (0, *after)
    return Window(kernel, strides, (*before, *after), dilations)  # type: ignore[arg-type]


def _ceiled(size: int, k: int, s: int, d: int, before: int, after: int) -> int:
    """The padding behind that lets a last, partial window in, if it starts before the padding."""
    span = (k - 1) * d + 1
    steps = -(-(size + before + after - span) // s)
    if steps * s >= size + before:
        steps -= 1
    return max(steps * s + span - size - before, 0)
