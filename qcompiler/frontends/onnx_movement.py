"""Importers of operators that move elements about."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Constant, Op
from qcompiler.ops import Concat, Expand, Pad, Reshape, Slice, Transpose


def reshaped(x: Op, shape: Sequence[int]) -> Op:
    """x in another shape; x itself if it has that shape."""
    return x if x.type.shape == tuple(shape) else Reshape(x, tuple(shape))


def sliced(x: Op, ranges: dict[int, tuple[int, int, int]]) -> Op:
    """x[start:stop:step] on the given axes; x itself if that is all of it."""
    whole = [ranges.get(axis, (0, size, 1)) for axis, size in enumerate(x.type.shape)]
    if all(r == (0, size, 1) for r, size in zip(whole, x.type.shape, strict=True)):
        return x
    starts, stops, steps = zip(*whole, strict=True)
    return Slice(x, starts, stops, steps)


@importer("Shape")
def shape_of(node: Node) -> Op:
    """The shape, or a part of it: known, since shapes are static."""
    shape = node.x.type.shape
    end = node.attributes.get("end")
    return Constant(np.array(shape[node.integer("start") : end], np.int64))


@importer("Size")
def size_of(node: Node) -> Op:
    """The number of elements."""
    return Constant(np.array(node.x.type.size, np.int64))


@importer("Reshape", since=5)
def reshape(node: Node) -> Op:
    """The elements in a shape in which 0 copies a size and −1 takes what is left."""
    shape = list(node.known_integers(1, "shape") or ())
    x = node.x.type
    if not node.integer("allowzero"):
        if any(d == 0 and i >= x.rank for i, d in enumerate(shape)):
            raise node.broken(f"expected sizes for {shape}, found {x}")
        shape = [x.shape[i] if d == 0 else d for i, d in enumerate(shape)]
    if shape.count(-1) > 1 or min(shape, default=1) < -1:
        raise node.broken(f"expected sizes and at most one −1, found {shape}")
    if -1 in shape:
        rest = -math.prod(shape)
        shape[shape.index(-1)] = x.size // rest if rest else 0
    return reshaped(node.x, shape)


@importer("Flatten")
def flatten(node: Node) -> Op:
    """A matrix whose rows begin at the axis."""
    shape = node.x.type.shape
    axis = node.integer("axis")
    axis = len(shape) if axis == len(shape) else node.axis(axis, len(shape))
    return reshaped(node.x, (math.prod(shape[:axis]), math.prod(shape[axis:])))


@importer("Transpose")
def transpose(node: Node) -> Op:
    """The axes permuted, reversed by default."""
    permutation = node.integers("perm") or tuple(range(node.x.type.rank))[::-1]
    return node.x if list(permutation) == sorted(permutation) else Transpose(node.x, permutation)


@importer("Squeeze")
def squeeze(node: Node) -> Op:
    """Axes of size 1 dropped, named by an attribute."""
    return _squeeze(node, node.integers("axes"))


@importer("Squeeze", since=13)
def squeeze_by_operand(node: Node) -> Op:
    """Axes of size 1 dropped, named by an operand."""
    return _squeeze(node, node.known_integers(1, "axes"))


def _squeeze(node: Node, axes: tuple[int, ...] | None) -> Op:
    shape = node.x.type.shape
    if axes is None:
        return reshaped(node.x, [d for d in shape if d != 1])
    dropped = node.axes(axes, len(shape))
    if any(shape[axis] != 1 for axis in dropped):
        raise node.broken(f"expected axes of size 1, found {list(axes)} of {node.x.type}")
    return reshaped(node.x, [d for i, d in enumerate(shape) if i not in dropped])


@importer("Unsqueeze")
def unsqueeze(node: Node) -> Op:
    """New axes of size 1, named by an attribute."""
    return _unsqueeze(node, node.integers("axes") or ())


@importer("Unsqueeze", since=13)
def unsqueeze_by_operand(node: Node) -> Op:
    """New axes of size 1, named by an operand."""
    return _unsqueeze(node, node.known_integers(1, "axes") or ())


def _unsqueeze(node: Node, axes: tuple[int, ...]) -> Op:
    old = list(node.x.type.shape)
    new = node.axes(axes, len(old) + len(axes))
    sizes = iter(old)
    return reshaped(node.x, [1 if i in new else next(sizes) for i in range(len(old) + len(axes))])


@importer("Expand", since=8)
def expand(node: Node) -> Op:
    """Numpy's broadcasting to a shape, in both directions."""
    wanted = node.known_integers(1, "shape") or ()
    shape = node.x.type.shape
    try:
        result = np.broadcast_shapes(shape, wanted)
    except ValueError:
        raise node.broken(
            f"expected a shape that {node.x.type} expands to, found {wanted}"
        ) from None
    return node.x if result == shape else Expand(node.x, tuple(int(d) for d in result))


@importer("Concat")
def concat(node: Node) -> Op:
    """The operands one behind the other."""
    inputs = tuple(node.operand(i) for i in range(len(node.inputs)))
    return Concat(inputs, node.axis(node.integer("axis"), node.x.type.rank))


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
    total = node.x.type.shape[axis]
    if sizes is None:
        count = node.integer("num_outputs", len(node.outputs))
        if count < 1:
            raise node.broken(f"num_outputs: expected at least 1, found {count}")
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
    if min(steps, default=1) < 0:
        raise node.unsupported("a negative step")
    ranges = {}
    for start, stop, axis, step in zip(starts, stops, axes, steps, strict=True):
        first, last, _ = slice(start, stop, step).indices(node.x.type.shape[axis])
        ranges[axis] = (first, max(first, last), step)
    return sliced(node.x, ranges)


@importer("Pad", since=2)
def pad_by_attributes(node: Node) -> Op:
    """Padding in attributes."""
    return _pad(node, node.integers("pads") or (), None, node.number("value"))


@importer("Pad", since=11)
def pad_by_operands(node: Node) -> Op:
    """Padding in operands."""
    pads = node.known_integers(1, "pads") or ()
    value = node.known_scalar(2, "value")
    return _pad(node, pads, node.known_integers(3, "axes"), 0.0 if value is None else value)


def _pad(node: Node, pads: tuple[int, ...], axes: tuple[int, ...] | None, value: float) -> Op:
    if (mode := node.text("mode")) != "constant":
        raise node.unsupported(f"mode={mode}")
    if not math.isfinite(value):
        raise node.unsupported(f"value={value}")
    shape = node.x.type.shape
    padded = node.axes(range(len(shape)) if axes is None else axes, len(shape))
    if len(pads) != 2 * len(padded):
        raise node.broken(f"expected {2 * len(padded)} pads, found {list(pads)}")
    before, after = [0] * len(shape), [0] * len(shape)
    for i, axis in enumerate(padded):
        before[axis], after[axis] = pads[i], pads[i + len(padded)]
    kept = {
        axis: (max(-b, 0), size - max(-a, 0), 1)
        for axis, (b, size, a) in enumerate(zip(before, shape, after, strict=True))
    }
    if any(start > stop for start, stop, _ in kept.values()):
        raise node.broken(f"expected pads that leave elements of {node.x.type}, found {list(pads)}")
    x = sliced(node.x, kept)
    if max((*before, *after), default=0) <= 0:
        return x
    grown = [tuple(max(p, 0) for p in side) for side in (before, after)]
    return Pad(x, *grown, value=value)


@importer("Gather")
def gather(node: Node) -> Op:
    """Elements at constant, evenly spaced indices of an axis."""
    shape = node.x.type.shape
    axis = node.axis(node.integer("axis"), len(shape))
    if (indices := node.known(1, "indices")) is None or indices.dtype.kind not in "iu":
        raise node.broken("expected integer indices")
    flat = [int(i) + (shape[axis] if i < 0 else 0) for i in indices.reshape(-1)]
    if any(not 0 <= i < shape[axis] for i in flat):
        raise node.broken(f"expected indices in [0, {shape[axis]}), found {min(flat)}…{max(flat)}")
    step = flat[1] - flat[0] if len(flat) > 1 else 1
    if not flat or step < 1 or flat != list(range(flat[0], flat[-1] + 1, step)):
        raise node.unsupported("indices that are not evenly spaced")
    part = sliced(node.x, {axis: (flat[0], flat[-1] + 1, step)})
    return reshaped(part, (*shape[:axis], *indices.shape, *shape[axis + 1 :]))


@importer("DepthToSpace")
def depth_to_space(node: Node) -> Op:
    """Channels spread over blocks of b × b elements."""
    n, c, h, w = _image(node)
    b = _block(node)
    if c % (b * b):
        raise node.broken(f"expected a multiple of {b * b} channels, found {c}")
    rest = c // (b * b)
    if node.text("mode", "DCR") == "CRD":
        blocks, permutation = (n, rest, b, b, h, w), (0, 1, 4, 2, 5, 3)
    else:
        blocks, permutation = (n, b, b, rest, h, w), (0, 3, 4, 1, 5, 2)
    moved = Transpose(Reshape(node.x, blocks), permutation)
    return Reshape(moved, (n, rest, h * b, w * b))


@importer("SpaceToDepth")
def space_to_depth(node: Node) -> Op:
    """Blocks of b × b elements gathered into channels."""
    n, c, h, w = _image(node)
    b = _block(node)
    if h % b or w % b:
        raise node.broken(f"expected a multiple of {b} rows and columns, found {h} and {w}")
    blocks = Reshape(node.x, (n, c, h // b, b, w // b, b))
    return Reshape(Transpose(blocks, (0, 3, 5, 1, 2, 4)), (n, c * b * b, h // b, w // b))


def _image(node: Node) -> tuple[int, int, int, int]:
    if node.x.type.rank != 4:
        raise node.broken(f"expected [n, c, h, w], found {node.x.type}")
    n, c, h, w = node.x.type.shape
    return n, c, h, w


def _block(node: Node) -> int:
    if (size := node.integer("blocksize")) < 1:
        raise node.broken(f"blocksize: expected at least 1, found {size}")
    return size
