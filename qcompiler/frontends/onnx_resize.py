"""Importers of resampling: nearest neighbours at whole factors, which repeats elements."""

from __future__ import annotations

import numpy as np

from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Op
from qcompiler.ops import Expand, Reshape

# (coordinate_transformation_mode, nearest_mode) by which result i is element ⌊i / factor⌋.
_REPEATING = frozenset(
    [("asymmetric", "floor")]
    + [
        (transformation, rounding)
        for transformation in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel")
        for rounding in ("round_prefer_floor", "round_prefer_ceil")
    ]
)


@importer("Upsample", since=7)
def upsample(node: Node) -> Op:
    """Factors in an attribute."""
    return _repeat(node, _factors(node, [float(s) for s in node.attributes["scales"]]))


@importer("Upsample", since=9)
@importer("Resize", since=10)
def resize_by_scales(node: Node) -> Op:
    """Factors in an operand."""
    scales = node.known(1, "scales")
    return _repeat(node, _factors(node, [] if scales is None else scales.reshape(-1).tolist()))


@importer("Resize", since=11)
def resize(node: Node) -> Op:
    """Factors or sizes in an operand, for all axes or for some."""
    rules = (node.text("coordinate_transformation_mode"), node.text("nearest_mode"))
    if rules not in _REPEATING:
        raise node.unsupported(f"coordinates by {rules[0]} and {rules[1]}")
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.unsupported("keep_aspect_ratio_policy")
    shape = node.x.type.shape
    axes = node.axes(node.integers("axes") or range(len(shape)), len(shape))
    if sizes := node.known_integers(3, "sizes"):
        given = [size / shape[axis] for size, axis in zip(sizes, axes, strict=False)]
    else:
        scales = node.known(2, "scales")
        given = [] if scales is None else scales.reshape(-1).tolist()
    if len(given) != len(axes):
        raise node.broken(f"expected {len(axes)} scales or sizes, found {len(given)}")
    scale = dict(zip(axes, given, strict=True))
    return _repeat(node, _factors(node, [scale.get(axis, 1.0) for axis in range(len(shape))]))


def _factors(node: Node, scales: list[float]) -> list[int]:
    if (mode := node.text("mode")) != "nearest":
        raise node.unsupported(f"mode={mode}")
    if len(scales) != node.x.type.rank:
        raise node.broken(f"expected {node.x.type.rank} scales, found {len(scales)}")
    if not all(np.isfinite(s) and 1 <= s < 1 << 20 and s == int(s) for s in scales):
        raise node.unsupported(f"scales {scales}: expected whole factors")
    return [int(s) for s in scales]


def _repeat(node: Node, factors: list[int]) -> Op:
    """Each element `factors[axis]` times along every axis."""
    shape = node.x.type.shape
    if all(factor == 1 for factor in factors):
        return node.x
    axes = list(zip(shape, factors, strict=True))
    apart = tuple(d for size, factor in axes for d in ((size, 1) if factor > 1 else (size,)))
    wide = tuple(d for size, factor in axes for d in ((size, factor) if factor > 1 else (size,)))
    repeated = Expand(Reshape(node.x, apart), wide)
    return Reshape(repeated, tuple(size * factor for size, factor in axes))
