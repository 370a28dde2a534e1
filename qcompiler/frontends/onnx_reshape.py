"""Importers of operators that give the same elements another shape or order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Constant, Op
from qcompiler.ops import Expand, Reshape, Transpose

LARGEST_VALUE = 1 << 31  # elements: beyond it a size is taken for damage


def reshaped(x: Op, shape: Sequence[int]) -> Op:
    """x in another shape; x itself if it has that shape."""
    return x if x.type.shape == tuple(shape) else Reshape(x, tuple(shape))


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
    unchanged = permutation == tuple(range(node.x.type.rank))
    return node.x if unchanged else Transpose(node.x, permutation)


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


@importer("Tile", since=6)
def tile(node: Node) -> Op:
    """x repeated along its axes."""
    x, shape = node.x, node.x.type.shape
    repeats = node.known_integers(1, "repeats") or ()
    if len(repeats) != len(shape) or min(repeats, default=1) < 0:
        raise node.broken(f"expected {len(shape)} repeats of at least 0, found {list(repeats)}")
    total = tuple(n * d for n, d in zip(repeats, shape, strict=True))
    if total == shape:
        return x
    if math.prod(total) > LARGEST_VALUE:
        raise node.broken(f"expected a tensor that fits in memory, found the shape {total}")
    apart = reshaped(x, [d for size in shape for d in (1, size)])
    pairs = zip(repeats, shape, strict=True)
    return reshaped(Expand(apart, tuple(d for pair in pairs for d in pair)), total)


@importer("DepthToSpace")
def depth_to_space(node: Node) -> Op:
    """Channels spread over blocks of b × b elements."""
    n, c, h, w = _image(node)
    b = _block(node)
    if c % (b * b):
        raise node.broken(f"expected a multiple of {b * b} channels, found {c}")
    if node.text("mode", "DCR") == "CRD":
        return spread(node.x, (b, b))
    rest = c // (b * b)
    moved = Transpose(Reshape(node.x, (n, b, b, rest, h, w)), (0, 3, 4, 1, 5, 2))
    return Reshape(moved, (n, rest, h * b, w * b))


def spread(x: Op, blocks: Sequence[int]) -> Op:
    """Neighbouring channels spread over blocks: [n, c·b..., d...] → [n, c, d·b...]."""
    n, c, *sizes = x.type.shape
    if math.prod(blocks) == 1:
        return x
    apart = Reshape(x, (n, c // math.prod(blocks), *blocks, *sizes))
    pairs = [axis for i in range(len(blocks)) for axis in (2 + len(blocks) + i, 2 + i)]
    wide = [d * b for d, b in zip(sizes, blocks, strict=True)]
    return Reshape(Transpose(apart, (0, 1, *pairs)), (n, c // math.prod(blocks), *wide))


@importer("SpaceToDepth")
def space_to_depth(node: Node) -> Op:
    """Blocks of b × b elements gathered into channels."""
    n, c, h, w = _image(node)
    b = _block(node)
    if h % b or w % b:
        raise node.broken(f"expected a multiple of {b} rows and columns, found {h} and {w}")
    blocks = Reshape(node.x, (n, c, h // b, b, w // b, b))
    crd = node.text("mode", "DCR") == "CRD"  # opset 28 added the choice
    permutation = (0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4)
    return Reshape(Transpose(blocks, permutation), (n, c * b * b, h // b, w // b))


def _image(node: Node) -> tuple[int, int, int, int]:
    if node.x.type.rank != 4:
        raise node.broken(f"expected [n, c, h, w], found {node.x.type}")
    n, c, h, w = node.x.type.shape
    return n, c, h, w


def _block(node: Node) -> int:
    if (size := node.integer("blocksize")) < 1:
        raise node.broken(f"blocksize: expected at least 1, found {size}")
    return size
