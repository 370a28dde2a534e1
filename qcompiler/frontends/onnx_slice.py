"""Importers of operators that take parts, join them or put elements around them."""

from __future__ import annotations

import numpy as np

from qcompiler.frontends.onnx_index import rows
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Constant, Op
from qcompiler.ops import Concat, Pad, Slice

_LARGEST_PAD = 1 << 31
_TOGETHER = 256  # operands of one Concat


def sliced(x: Op, ranges: dict[int, tuple[int, int, int]]) -> Op:
    """x[start:stop:step] on the given axes; x itself if that is all of it."""
    whole = [ranges.get(axis, (0, size, 1)) for axis, size in enumerate(x.type.shape)]
    if all(r == (0, size, 1) for r, size in zip(whole, x.type.shape, strict=True)):
        return x
    starts, stops, steps = zip(*whole, strict=True)
    return Slice(x, starts, stops, steps)


@importer("Concat")
def concat(node: Node) -> Op:
    """The operands one behind the other, but for those without elements."""
    inputs = tuple(node.operand(i) for i in range(len(node.inputs)))
    whole = Concat(inputs, node.axis(node.integer("axis"), node.x.type.rank))
    parts = tuple(x for x in inputs if x.type.size)
    while len(parts) > _TOGETHER:  # one kernel of thousands is too deep for TVM
        groups = (parts[i : i + _TOGETHER] for i in range(0, len(parts), _TOGETHER))
        parts = tuple(Concat(g, whole.axis) if len(g) > 1 else g[0] for g in groups)
    if len(parts) == 1:
        return parts[0]
    return Concat(parts, whole.axis) if parts else whole


@importer("Split", since=2)
def split(node: Node) -> tuple[Op, ...]:
    """Parts along an axis, their sizes in an attribute."""
    return _split(node, node.integers("split"))


@importer("Split", since=13)
def split_by_operand(node: Node) -> tuple[Op, ...]:
    """Parts along an axis, their sizes in an operand."""
    return _split(node, node.known_integers(1, "sizes"))


def _split(node: Node, sizes: tuple[int, ...] | None) -> tuple[Op, ...]:
    axis = node.axis(node.integer("axis"), node.x.type.rank)
    total, count = node.x.type.shape[axis], len(node.outputs)
    if sizes is None:
        if (asked := node.integer("num_outputs", count)) != count:
            raise node.broken(f"num_outputs: expected {count}, found {asked}")
        part = -(-total // count)
        sizes = tuple(min(part, max(total - i * part, 0)) for i in range(count))
        if "num_outputs" not in node.attributes and total % count:
            raise node.broken(f"expected {count} equal parts, found a size of {total}")
    if sum(sizes) != total or min(sizes, default=0) < 0 or len(sizes) != len(node.outputs):
        raise node.broken(
            f"expected {len(node.outputs)} sizes that add up to {total}, found {list(sizes)}"
        )
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(
        sliced(node.x, {axis: (start, start + size, 1)})
        for start, size in zip(starts, sizes, strict=True)
    )


@importer("Slice")
def slice_by_attributes(node: Node) -> Op:
    """Ranges in attributes."""
    starts, stops = node.integers("starts") or (), node.integers("ends") or ()
    return _slice(node, starts, stops, node.integers("axes"), None)


@importer("Slice", since=10)
def slice_by_operands(node: Node) -> Op:
    """Ranges in operands."""
    starts = node.known_integers(1, "starts") or ()
    stops = node.known_integers(2, "ends") or ()
    return _slice(
        node, starts, stops, node.known_integers(3, "axes"), node.known_integers(4, "steps")
    )


def _slice(
    node: Node,
    starts: tuple[int, ...],
    stops: tuple[int, ...],
    axes: tuple[int, ...] | None,
    steps: tuple[int, ...] | None,
) -> Op:
    rank = node.x.type.rank
    axes = node.axes(tuple(range(len(starts))) if axes is None else axes, rank)
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(stops) == len(axes) == len(steps):
        raise node.broken("expected as many starts as ends, axes and steps")
    if 0 in steps:
        raise node.broken("expected steps other than 0")
    ranges, backwards = {}, {}
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        first, last, _ = slice(start, stop, step).indices(node.x.type.shape[axis])
        if step > 0:
            ranges[axis] = (first, max(first, last), step)
        else:
            backwards[axis] = np.arange(first, last, step)
    x = sliced(node.x, ranges)
    for axis, places in backwards.items():
        x = rows(x, Constant(places), axis) if places.size else sliced(x, {axis: (0, 0, 1)})
    return x


@importer("CenterCropPad", since=18)
def center_crop_pad(node: Node) -> Op:
    """The middle of x in another size, with zeros around it where x is smaller."""
    shape = node.x.type.shape
    wanted = node.known_integers(1, "sizes") or ()
    axes = node.axes(node.integers("axes") or tuple(range(len(shape))), len(shape))
    if len(wanted) != len(axes) or not all(0 <= d <= _LARGEST_PAD for d in wanted):
        raise node.broken(f"expected {len(axes)} sizes that fit in memory, found {list(wanted)}")
    before, after, kept = [0] * len(shape), [0] * len(shape), {}
    for axis, size in zip(axes, wanted, strict=True):
        missing = size - shape[axis]
        if missing > 0:
            before[axis], after[axis] = missing // 2, missing - missing // 2
        else:
            first = -missing // 2
            kept[axis] = (first, first + size, 1)
    x = sliced(node.x, kept)
    return Pad(x, tuple(before), tuple(after)) if any((*before, *after)) else x
