"""Canonicalize: one spelling for each computation."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Constant, Op, Rule
from qcompiler.invariants import real
from qcompiler.ops import (
    Add,
    Clip,
    Concat,
    Conv,
    Div,
    Expand,
    FakeQuantize,
    MatMul,
    Maximum,
    Minimum,
    Mul,
    Normalize,
    Pad,
    Relu,
    Reshape,
    Slice,
    Sqrt,
    Sub,
    Transpose,
    scalar,
)
from qcompiler.ops.arithmetic import Extremum
from qcompiler.passes.annotations import place_annotation
from qcompiler.passes.base import Preserves, RewritePass
from qcompiler.types import FLOAT

FOLD_LIMIT = 1 << 22
"""Elements beyond which a constant is not computed ahead from smaller ones."""


@dataclass(frozen=True)
class Canonicalize(RewritePass):
    """Fold constants, drop what does nothing, and spell equal computations alike.

    x − c becomes x + (−c), x / c becomes x·(1/c), constants stand on the right, zero padding in
    front of a convolution becomes the convolution's, neighbouring reshapes, transposes and slices
    become one.

    >>> from qcompiler.graph import Graph, Input
    >>> from qcompiler.ops import Reshape, Sub, scalar
    >>> from qcompiler.types import TensorType
    >>> x = Input(TensorType("float32", (1, 4)), name="x")
    >>> y = Reshape(Reshape(Sub(x, scalar(3, "float32")), (2, 2)), (4, 1))
    >>> print(graph := Graph((x,), {"y": y}))
    graph(%x: float32[1x4]) {
      %sub: float32[1x4] = sub(%x, 3.0)
      %reshape: float32[2x2] = reshape(%sub, shape=[2, 2])
      %reshape_1: float32[4x1] = reshape(%reshape, shape=[4, 1])
      return y=%reshape_1
    }
    >>> print(Canonicalize()(graph))
    graph(%x: float32[1x4]) {
      %add: float32[1x4] = add(%x, -3.0)
      %reshape: float32[4x1] = reshape(%add, shape=[4, 1])
      return y=%reshape
    }
    """

    requires = (real,)
    ensures = (real,)
    preserves: ClassVar[Preserves] = "reals"

    def rules(self) -> tuple[Rule, ...]:
        """Folding first: the others then see constants."""
        return (
            fold_constant,
            place_annotation,
            drop_identity,
            normalize_one,
            constant_right,
            weight_right,
            merge_movement,
            part_of_concat,
            absorb_padding,
        )


def fold_constant(node: Op) -> Op | None:
    """f(constants) → constant."""
    if not node.operands or not all(isinstance(x, Constant) for x in node.operands):
        return None
    if isinstance(node, FakeQuantize):  # which codes are wanted, a constant does not say
        return None
    if node.type.size > FOLD_LIMIT and node.type.size > sum(x.type.size for x in node.operands):
        return None
    arrays = [x.array for x in node.operands if isinstance(x, Constant)]
    return Constant(np.array(node.numpy(*arrays), copy=True))


def drop_identity(node: Op) -> Op | None:
    """An op that returns its operand → the operand."""
    match node:
        case Reshape(x) | Expand(x) | Slice(x) if node.type == x.type:
            return x
        case Transpose(x, permutation) if permutation == tuple(range(x.type.rank)):
            return x
        case Pad(x, before, after) if not any((*before, *after)):
            return x
        case Clip(x, low, high) if _unbounded(low) and _unbounded(high):
            return x
        case Clip(x, 0.0, high) if _unbounded(high):
            return Relu(x)
        case Relu(Relu() as x):
            return x
        case Maximum(x, Constant(array=c)) if _is_bound(node, c):
            return Clip(x, low=float(c.reshape(())))
        case Minimum(x, Constant(array=c)) if _is_bound(node, c):
            return Clip(x, high=float(c.reshape(())))
        case Add(x, Constant(array=c)) if not c.any() and node.type == x.type:
            return x
        case Mul(x, Constant(array=c)) if np.all(c == 1) and node.type == x.type:
            return x
    return None


def normalize_one(node: Op) -> Op | None:
    """A normalization over one element → zeros, or without its mean the function x / √(x² + ε)."""
    match node:
        case Normalize(x, axes, epsilon, center) if all(x.type.shape[a] == 1 for a in axes):
            if center:
                return Constant(np.zeros(x.type.shape, np.float32))
            return Div(x, Sqrt(Add(Mul(x, x), scalar(epsilon, FLOAT))))
    return None


def _is_bound(node: Extremum, c: np.ndarray) -> bool:
    return node.type == node.a.type and node.type.is_float and c.size == 1 and not np.isnan(c).any()


def _unbounded(bound: float | None) -> bool:
    return bound is None or abs(bound) >= float(np.finfo(np.float32).max)


def constant_right(node: Op) -> Op | None:
    """x − c → x + (−c), x / c → x·(1/c), c / x → (1/x)·c, c + x → x + c, (x + a) + b → x + (a + b).

    Likewise of products, and of the maximum or minimum of a constant and a value.
    """
    match node:
        case Add(Constant() as c, x) | Mul(Constant() as c, x) if not isinstance(x, Constant):
            return dataclasses.replace(node, a=x, b=c)
        case Maximum(Constant() as c, x) | Minimum(Constant() as c, x) if not isinstance(
            x, Constant
        ):
            return dataclasses.replace(node, a=x, b=c)
        case Div(Constant(array=c) as one, x) if c.size > 1 and not isinstance(x, Constant):
            return Mul(Div(Constant(np.ones((), c.dtype)), x), one)
        case Sub(x, Constant(array=c)) if node.type.is_float:
            return Add(x, Constant(-c))
        case Sub(Constant() as c, x) if node.type.is_float:
            return Add(Mul(x, Constant(np.array(-1, np.float32))), c)
        case Div(x, Constant(array=c)) if c.all():
            return Mul(x, Constant((1.0 / c.astype(np.float64)).astype(np.float32)))
        case Add(Add(x, Constant(array=a)), Constant(array=b)):
            return Add(x, Constant(a + b))
        case Mul(Mul(x, Constant(array=a)), Constant(array=b)):
            return Mul(x, Constant(a * b))
    return None


def weight_right(node: Op) -> Op | None:
    """w @ x → (xᵀ @ wᵀ)ᵀ: weights stand on the right, where each output channel has a scale."""
    match node:
        case MatMul(Constant(array=w), x, None) if not isinstance(x, Constant):
            pass
        case _:
            return None
    if math.prod(w.shape[:-2]) != 1:
        return None
    swapped = (*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2)
    weight = Constant(np.ascontiguousarray(w.reshape(w.shape[-2:]).T))
    product = Transpose(MatMul(Transpose(x, swapped), weight), swapped)
    return product if product.type == node.type else Reshape(product, node.type.shape)


def merge_movement(node: Op) -> Op | None:
    """Two movements in a row → one; a transpose that moves only axes of size 1 is a reshape.

    Two transposes with a reshape between them that merges axes, as around the tokens of an image,
    are one.
    """
    match node:
        case Reshape(Reshape(x), shape):
            return Reshape(x, shape)
        case Transpose(Transpose(x, inner), outer):
            return Transpose(x, tuple(inner[i] for i in outer))
        case Transpose(x, permutation) if _order_of_long_axes(x, permutation):
            return Reshape(x, node.type.shape)
        case Transpose(Reshape(Transpose(x, inner) as moved, shape), outer) if _one_scale(x):
            groups = _merged_axes(moved.type.shape, shape)
            if groups is None:
                return None
            order = [inner[axis] for place in outer for axis in groups[place]]
            ones = [axis for axis in range(x.type.rank) if axis not in order]
            return Reshape(Transpose(x, (*ones, *order)), node.type.shape)
        case Slice(Slice(x, a0, _, a_step), b0, b1, b_step):
            ranges = [
                (s + b * step, s + max(e - 1, b) * step + (1 if e > b else 0), step * t)
                for s, step, b, e, t in zip(a0, a_step, b0, b1, b_step, strict=True)
            ]
            starts, stops, steps = zip(*ranges, strict=True)
            return Slice(x, starts, stops, steps)
    return None


def _one_scale(x: Op) -> bool:
    return x.type.quantization is None or x.type.quantization.axis is None


def _merged_axes(before: tuple[int, ...], after: tuple[int, ...]) -> list[list[int]] | None:
    """For each axis of a reshape's result the neighbours that it merges, if it does only that."""
    if 0 in before:
        return None
    groups: list[list[int]] = []
    axis = 0
    for size in after:
        group: list[int] = []
        merged = 1
        while merged < size:
            if axis == len(before) or size % (merged * before[axis]):
                return None
            merged *= before[axis]
            group.append(axis)
            axis += 1
        groups.append(group)
    return groups


def _order_of_long_axes(x: Op, permutation: tuple[int, ...]) -> bool:
    long_axes = [i for i in permutation if x.type.shape[i] != 1]
    return long_axes == sorted(long_axes)


def part_of_concat(node: Op) -> Op | None:
    """A slice of joined values → those that it holds: one step of a recurrence, not all of them."""
    match node:
        case Slice(Transpose(x, permutation), starts, stops, steps) if isinstance(x, Reshape):
            order = np.argsort(permutation)
            ranges = ((v[i] for i in order) for v in (starts, stops, steps))
            part = part_of_concat(Slice(x, *(tuple(r) for r in ranges)))
            return part and Transpose(part, permutation)
        case Slice(Reshape(Concat(inputs, axis) as whole)) | Slice(Concat(inputs, axis) as whole):
            pass
        case _:
            return None
    if math.prod(whole.type.shape[:axis]) != 1 or (span := _span(node)) is None:
        return None
    first, last = span
    parts: list[Op] = []
    begin = 0
    for x in inputs:
        row, end = math.prod(x.type.shape[axis + 1 :]), begin + x.type.size
        low, high = max(first, begin), min(last, end)
        if low < high:
            if (low - begin) % row or (high - begin) % row:
                return None
            parts.append(_rows(x, axis, (low - begin) // row, (high - begin) // row))
        begin = end
    if not parts or len(parts) == len(inputs):
        return None
    return Reshape(parts[0] if len(parts) == 1 else Concat(tuple(parts), axis), node.type.shape)


def _span(part: Slice) -> tuple[int, int] | None:
    """First and last (excluded) of a slice's elements in its operand, if they lie side by side."""
    shape = part.x.type.shape
    cut = [i for i, size in enumerate(shape) if part.type.shape[i] != size]
    if len(cut) != 1 or part.steps[cut[0]] != 1 or math.prod(shape[: cut[0]]) != 1:
        return None
    row = math.prod(shape[cut[0] + 1 :])
    return part.starts[cut[0]] * row, part.stops[cut[0]] * row


def _rows(x: Op, axis: int, start: int, stop: int) -> Op:
    shape = x.type.shape
    if (start, stop) == (0, shape[axis]):
        return x
    ranges = [(start, stop) if i == axis else (0, size) for i, size in enumerate(shape)]
    starts, stops = zip(*ranges, strict=True)
    return Slice(x, starts, stops, (1,) * len(shape))


def absorb_padding(node: Op) -> Op | None:
    """Zero padding in front of a convolution → the convolution's pads."""
    match node:
        case Conv(Pad(x, before, after, 0), window=window) if not any((*before[:2], *after[:2])):
            top, left, bottom, right = window.pads
            pads = (top + before[2], left + before[3], bottom + after[2], right + after[3])
            return dataclasses.replace(node, x=x, window=dataclasses.replace(window, pads=pads))
    return None
