"""RecognizeNormalization: means, squares and roots that together normalize become `Normalize`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Constant, Op, Rule
from qcompiler.invariants import real
from qcompiler.ops import (
    Add,
    Clip,
    Div,
    Expand,
    Maximum,
    Mul,
    Normalize,
    ReduceMean,
    Reshape,
    Sqrt,
    Sub,
    scalar,
)
from qcompiler.passes.base import Preserves, RewritePass
from qcompiler.types import FLOAT


@dataclass(frozen=True)
class RecognizeNormalization(RewritePass):
    """Recognize LayerNorm, RMSNorm, L2 and group normalization that an exporter spelled out.

    (x − mean) / √(mean((x − mean)²) + ε) is LayerNorm (Ba et al. 2016, eq. 4), without the mean
    RMSNorm (Zhang & Sennrich 2019, eq. 4); with a sum, which is n times the mean, L2
    normalization, whose bound max(‖x‖, ε) becomes √(‖x‖² + ε²).  The quotient may be a product with
    the reciprocal.  Groups (Wu & He 2018, eq. 7) become an axis of their own, so that factors and
    terms per channel stand beside the normalization.

    Before::

        graph(%x: float32[2x4]) {
          %reduce_mean: float32[2x1] = reduce_mean(%x, axes=[1])
          %sub: float32[2x4] = sub(%x, %reduce_mean)
          %mul: float32[2x4] = mul(%sub, %sub)
          %reduce_mean_1: float32[2x1] = reduce_mean(%mul, axes=[1])
          %add: float32[2x1] = add(%reduce_mean_1, 1e-05)
          %sqrt: float32[2x1] = sqrt(%add)
          %div: float32[2x4] = div(%sub, %sqrt)
          return y=%div
        }

    After::

        graph(%x: float32[2x4]) {
          %normalize: float32[2x4] = normalize(%x, axes=[1], epsilon=1e-05)
          return y=%normalize
        }
    """

    requires = (real,)
    ensures = (real,)
    preserves: ClassVar[Preserves] = "reals"

    def rules(self) -> tuple[Rule, ...]:
        """Quotients, then groups, then what stands behind groups."""
        return (to_normalize, split_groups, move_affine)


def to_normalize(node: Op) -> Op | None:
    """d / √(a·mean(d²) + b) → normalize(d; ε = b/a) / √a."""
    match node:
        case Div(d, root):
            factor = 1.0
        case Mul(d, Div(Constant(array=one), root)) | Mul(Div(Constant(array=one), root), d) if (
            one.size == 1
        ):
            factor = float(one.reshape(()))
        case _:
            return None
    if (found := _root(root)) is None:
        return None
    mean, a, b = found
    match mean.x:
        case Mul(left, right) if _same(left, right) and _same(left, d):
            factor /= math.sqrt(a)
        case _:
            return None
    x, center = d, False
    if (centered := _deviation(d)) is not None and centered[1] == mean.axes:
        x, center = centered[0], True
    result = Normalize(x, mean.axes, b / a, center)
    if result.type != node.type:
        return None
    return result if factor == 1.0 else Mul(result, scalar(factor, FLOAT))


def _root(node: Op) -> tuple[ReduceMean, float, float] | None:
    """√(a·mean + b) as the mean, a and b; a lower bound of the root adds its square to b."""
    if isinstance(node, Expand):
        node = node.x
    shape, low = node.type.shape, 0.0
    match node:
        case Clip(x, float(bound), None) | Maximum(x, Constant(array=bound)) if np.size(bound) == 1:
            node, low = x, float(np.reshape(bound, ()))
    while isinstance(node, Reshape):
        node = node.x
    if not isinstance(node, Sqrt):
        return None
    node, a, b = node.x, 1.0, low * low
    while not isinstance(node, ReduceMean):
        match node:
            case Add(x, Constant(array=c)) if c.size == 1:
                node, b = x, b + a * float(c.reshape(()))
            case Mul(x, Constant(array=c)) if c.size == 1:
                node, a = x, a * float(c.reshape(()))
            case Reshape(x):
                node = x
            case _:
                return None
    if node.type.shape != shape or not (a > 0 and b >= 0 and math.isfinite(b / a)):
        return None
    return node, a, b


def _deviation(d: Op) -> tuple[Op, tuple[int, ...]] | None:
    """x − mean(x) as x and the axes of the mean."""
    match d:
        case Sub(x, ReduceMean(y, axes)) | Sub(x, Expand(ReduceMean(y, axes))) if x is y:
            return x, axes
    return None


def _same(a: Op, b: Op) -> bool:
    """Whether both are one value, or the same deviation computed twice."""
    return a is b or ((d := _deviation(a)) is not None and d == _deviation(b))


def split_groups(node: Op) -> Op | None:
    """Normalization of [n, g, rest] between reshapes of [n, c, ...] → of [n, g, c / g, ...]."""
    match node:
        case Reshape(Normalize(Reshape(x, (n, g, _)), (2,)) as old, shape) if (
            x.type.shape == shape and x.type.rank > 2 and shape[0] == n and shape[1] % g == 0
        ):
            _, c, *rest = shape
        case _:
            return None
    if g == 1:
        return _normalized(old, x, 1)
    if g == c:
        return _normalized(old, x, 2)
    return Reshape(_normalized(old, Reshape(x, (n, g, c // g, *rest)), 2), shape)


def _normalized(old: Normalize, x: Op, first: int) -> Op:
    return Normalize(x, tuple(range(first, x.type.rank)), old.epsilon, old.center)


def move_affine(node: Op) -> Op | None:
    """A factor or term per channel behind grouped channels → in front of the reshape."""
    match node:
        case Mul(Reshape(y, shape), Constant(array=c)) | Add(Reshape(y, shape), Constant(array=c)):
            grouped = y.type.shape
        case _:
            return None
    if not _is_normalized(y) or len(grouped) != len(shape) + 1 or node.type.shape != shape:
        return None
    if (grouped[0], grouped[1] * grouped[2], *grouped[3:]) != shape:
        return None
    padded = c.reshape((1,) * (len(shape) - c.ndim) + c.shape)
    if any(d != 1 for i, d in enumerate(padded.shape) if i != 1):
        return None
    channels = np.broadcast_to(padded.reshape(-1), shape[1:2])
    apart = channels.reshape(grouped[1], grouped[2], *(1,) * (len(shape) - 2))
    return Reshape(type(node)(y, Constant(np.ascontiguousarray(apart))), shape)


def _is_normalized(y: Op) -> bool:
    while True:
        match y:
            case Mul(x, Constant()) | Add(x, Constant()):
                y = x
            case _:
                return isinstance(y, Normalize)
