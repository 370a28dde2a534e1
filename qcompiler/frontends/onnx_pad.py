"""Importers of operators that put elements around others, or cut them off."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_sampling import picked
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Op
from qcompiler.ops import Pad

_LARGEST_PAD = 1 << 31
_LARGEST_AXIS = 1 << 24  # of an axis that is continued by its own elements


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
    if not math.isfinite(value):
        raise node.unsupported(f"value={value}")
    shape = node.x.type.shape
    padded = node.axes(range(len(shape)) if axes is None else axes, len(shape))
    if len(pads) != 2 * len(padded):
        raise node.broken(f"expected {2 * len(padded)} pads, found {list(pads)}")
    if max(pads, default=0) > _LARGEST_PAD:
        raise node.broken(f"expected pads that fit in memory, found {list(pads)}")
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
    match node.text("mode", "constant"):
        case "constant":
            pass
        case "reflect" | "edge" | "wrap" as mode:
            return _continued(node, x, before, after, mode)
        case mode:
            raise node.broken(f"mode: expected a padding rule, found {mode!r}")
    return Pad(x, tuple(max(p, 0) for p in before), tuple(max(p, 0) for p in after), value)


def _continued(node: Node, x: Op, before: list[int], after: list[int], mode: str) -> Op:
    """x continued beyond its edges by its own elements: mirrored, repeated or from the start."""
    for axis, size in enumerate(x.type.shape):
        around = (max(before[axis], 0), max(after[axis], 0))
        if not any(around):
            continue
        if size + sum(around) > _LARGEST_AXIS:
            raise node.broken(f"expected pads that fit in memory, found {list(around)}")
        if size == 0:
            raise node.broken(f"expected elements to continue, found {x.type}")
        x = picked(x, axis, np.pad(np.arange(size), around, mode))  # type: ignore[call-overload]
    return x
