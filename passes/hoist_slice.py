"""HoistSlice: compute only the channels of a product that a part of it keeps."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Constant, Graph, Op, fold, origin, rebuilt
from qcompiler.invariants import real
from qcompiler.ops import Conv, MatMul, Reshape, Slice, Transpose
from qcompiler.passes.base import Pass, Preserves
from qcompiler.passes.canonicalize import drop_identity, merge_movement


@dataclass(frozen=True)
class HoistSlice(Pass):
    """Turn slices of a product with constant weights into products with sliced weights.

    (x·W + b)[:, C] = x·W[:, C] + b[C]: exact, and the parts get scales of their own.  The query,
    key and value of attention that one product computes are such parts, and differ much in range.
    Reshapes and transposes in between are redone, as long as they keep the sliced axis apart.
    Products are split only where all their users are such slices, which together cover no more
    than the whole.

    Before::

        graph(%x: float32[1x4]) {
          %mat_mul: float32[1x6] = mat_mul(%x, float32[4x6]#w)
          %slice: float32[1x2] = slice(%mat_mul, starts=[0, 0], stops=[1, 2], steps=[1, 1])
          %slice_1: float32[1x4] = slice(%mat_mul, starts=[0, 2], stops=[1, 6], steps=[1, 1])
          return a=%slice, b=%slice_1
        }

    After::

        graph(%x: float32[1x4]) {
          %mat_mul: float32[1x2] = mat_mul(%x, float32[4x2]#v)
          %mat_mul_1: float32[1x4] = mat_mul(%x, float32[4x4]#u)
          return a=%mat_mul, b=%mat_mul_1
        }
    """

    requires = (real,)
    ensures = (real,)
    preserves: ClassVar[Preserves] = "reals"

    def run(self, graph: Graph) -> Graph:
        """Split products until none has slices alone behind it."""
        while parts := _parts(graph):
            env: dict[Op, Op] = {}

            def visit(node: Op, operands: list[Op], env: dict[Op, Op] = env) -> Op:
                if (part := parts.get(node)) is not None:
                    return part.computed(env)
                return rebuilt(node, operands)

            fold(graph.ops, env, visit)
            graph = graph.with_outputs(env)
            graph = graph.rewrite(drop_identity, drop_unit_axes, merge_movement)
        return graph


@dataclass(frozen=True)
class _Part:
    """A slice of a product.

    Attributes:
        path: The product, what moves its elements, and the slice.
        axes: The sliced axis of each of them.
        kept: The elements of that axis that the slice keeps, for each of them.
    """

    path: tuple[Op, ...]
    axes: tuple[int, ...]
    kept: tuple[np.ndarray, ...]

    def computed(self, env: dict[Op, Op]) -> Op:
        """The part, from a product of the kept channels."""
        product, *moves, part = self.path
        sources = tuple(dict.fromkeys(s for node in self.path for s in node.sources))
        with origin(sources):
            value = _narrowed(product, env, self.kept[0])
            for move, axis, kept in zip(moves, self.axes[1:], self.kept[1:], strict=False):
                match move:
                    case Reshape(shape=shape):
                        value = Reshape(value, (*shape[:axis], len(kept), *shape[axis + 1 :]))
                    case Transpose(permutation=permutation):
                        value = Transpose(value, permutation)
            return dataclasses.replace(value, name=part.name)


def _narrowed(product: Op, env: dict[Op, Op], kept: np.ndarray) -> Op:
    """The product with the kept channels of its constant weight and bias."""
    match product:
        case Conv(x, Constant(array=w), bias):
            part, b = Constant(np.ascontiguousarray(w[kept])), _kept(bias, kept)
            return dataclasses.replace(product, x=env[x], weight=part, bias=b, name=None)
        case MatMul(a, Constant(array=w), bias):
            part, b = Constant(np.ascontiguousarray(w[..., kept])), _kept(bias, kept)
            return dataclasses.replace(product, a=env[a], b=part, bias=b, name=None)
    raise AssertionError(product)


def _kept(bias: Op | None, kept: np.ndarray) -> Op | None:
    return Constant(bias.array[kept]) if isinstance(bias, Constant) else None


def _channel_axis(node: Op) -> int | None:
    """The axis of the channels of a product that can be split; None if it cannot."""
    match node:
        case Conv(_, Constant(), None | Constant(), _, 1):
            return 1
        case MatMul(_, Constant(), None | Constant()):
            return node.type.rank - 1
    return None


def drop_unit_axes(node: Op) -> Op | None:
    """A transpose between reshapes → without the axes of size 1 that are dropped behind it."""
    match node:
        case Reshape(Transpose(Reshape(x, inner), permutation), outer):
            kept, sizes = [], list(outer)
            for axis in permutation:
                if sizes and inner[axis] == sizes[0]:
                    kept.append(axis)
                    del sizes[0]
                elif inner[axis] != 1:
                    return None
            if sizes or len(kept) == len(inner):
                return None
            order = sorted(kept)
            split = Reshape(x, tuple(inner[axis] for axis in order))
            return Transpose(split, tuple(order.index(axis) for axis in kept))
    return None


def _parts(graph: Graph) -> dict[Op, _Part]:
    """The slices of all products that can be split."""
    found: dict[Op, _Part] = {}
    for product in graph.ops:
        axis = _channel_axis(product)
        if axis is None:
            continue
        paths = _paths(graph, product)
        parts = [part for path in paths or () if (part := _traced(path, axis))]
        if not parts or len(parts) != len(paths or ()):
            continue
        if sum(len(part.kept[0]) for part in parts) <= product.type.shape[axis]:
            found |= {part.path[-1]: part for part in parts}
    return found


def _paths(graph: Graph, product: Op) -> list[tuple[Op, ...]] | None:
    """The ways from a product to slices; None where one ends at anything else."""
    paths: list[tuple[Op, ...]] = []
    stack: list[tuple[Op, ...]] = [(product,)]
    while stack:
        path = stack.pop()
        users = graph.users[path[-1]]
        if graph.is_output(path[-1]) or not users:
            return None
        for user in users:
            if isinstance(user, Slice):
                paths.append((*path, user))
            elif isinstance(user, (Reshape, Transpose)):
                stack.append((*path, user))
            else:
                return None
    return paths


def _traced(path: tuple[Op, ...], channels: int) -> _Part | None:
    """The slice's axis followed back to the channels; None where it gets mixed with others."""
    part, before = path[-1], path[-2].type.shape
    assert isinstance(part, Slice)
    sliced = [i for i, (d, e) in enumerate(zip(before, part.type.shape, strict=True)) if d != e]
    if len(sliced) != 1 or not part.type.size:
        return None
    axis = sliced[0]
    kept = np.arange(part.starts[axis], part.stops[axis], part.steps[axis])
    axes, kepts = [axis], [kept]
    for node in reversed(path[1:-1]):
        match node:
            case Transpose(_, permutation):
                axis = permutation[axis]
            case Reshape(x, shape):
                whole = _whole_axis(x.type.shape, shape, axis)
                if whole is None:
                    return None
                axis, outer, inner = whole
                index = np.arange(x.type.shape[axis]).reshape(outer, -1, inner)
                kept = index[:, kept].reshape(-1)
        axes.append(axis)
        kepts.append(kept)
    if axis != channels:
        return None
    return _Part(path, tuple(reversed(axes)), tuple(reversed(kepts)))


def _whole_axis(
    before: tuple[int, ...], after: tuple[int, ...], axis: int
) -> tuple[int, int, int] | None:
    """The axis before a reshape that an axis behind it is a factor of: outer · size · inner."""
    behind = math.prod(after[axis + 1 :])
    for i, size in enumerate(before):
        inner = math.prod(before[i + 1 :])
        step = after[axis] * behind
        if inner and behind % inner == 0 and size * inner % step == 0 and size > 1:
            return i, size * inner // step, behind // inner
    return None
