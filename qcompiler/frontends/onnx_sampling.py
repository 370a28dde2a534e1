"""Resampling along one axis: which elements each result is made of, and the ops that compute it.

Resampling of images is separable: one axis after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from qcompiler.frontends.onnx_index import rows
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Constant, Op
from qcompiler.ops import Add, Expand, MatMul, Mul, Reshape, Transpose
from qcompiler.types import FLOAT

_MOST_TERMS = 4  # of a sum of gathered elements; beyond it a product with a matrix is quicker
_NEGLIGIBLE = 1e-7  # weights of taps that rounding alone made other than 0


@dataclass(frozen=True)
class Sampling:
    """Each result as Σ_t weights[i, t]·x[places[i, t]].

    Attributes:
        places: int64 [results, taps], within the axis.
        weights: float64 [results, taps]; None where each result is one element.
    """

    places: np.ndarray
    weights: np.ndarray | None = None


def nearest(coordinates: np.ndarray, size: int, rule: str) -> Sampling:
    """The element nearest to each coordinate, by a rule for where it is half-way or in between."""
    match rule:
        case "round_prefer_floor":
            places = np.ceil(coordinates - 0.5)
        case "round_prefer_ceil":
            places = np.floor(coordinates + 0.5)
        case "floor":
            places = np.floor(coordinates)
        case _:
            places = np.ceil(coordinates)
    return Sampling(np.clip(places, 0, size - 1).astype(np.int64)[:, None])


def weighted(
    coordinates: np.ndarray,
    size: int,
    kernel: Callable[[np.ndarray], np.ndarray],
    reach: int,
    widening: float = 1.0,
    *,
    exclude_outside: bool = False,
) -> Sampling:
    """Elements around each coordinate weighted by a kernel of their distance; edges continue.

    Args:
        coordinates: Of the results, in elements of the axis.
        size: Of the axis.
        kernel: Distance → weight.
        reach: Distance from which on the kernel is 0.
        widening: ≥ 1: by how much the kernel is stretched, as a low-pass filter; the weights are
            then normalized.
        exclude_outside: Leave what is beyond the edges out and normalize the weights.
    """
    base = np.floor(coordinates)
    first = math.floor(-reach * widening) + 1
    offsets = np.arange(first, 2 - first)
    weights = kernel(np.abs(offsets - (coordinates - base)[:, None]) / widening)
    places = base.astype(np.int64)[:, None] + offsets
    if exclude_outside:
        weights = np.where((places < 0) | (places >= size), 0.0, weights)
    if exclude_outside or widening > 1:
        totals = weights.sum(1, keepdims=True)
        weights = weights / np.where(totals == 0, 1.0, totals)
    kept = (np.abs(weights) > _NEGLIGIBLE).any(0)
    return Sampling(np.clip(places, 0, size - 1)[:, kept], weights[:, kept])


def linear_kernel(distance: np.ndarray) -> np.ndarray:
    """A triangle: linear interpolation."""
    return np.maximum(1.0 - distance, 0.0)


def cubic_kernel(distance: np.ndarray, a: float) -> np.ndarray:
    """Cubic convolution (Keys 1981, eq. 15), with a free coefficient."""
    d = distance
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0.0))


def resampled(x: Op, samplings: Mapping[int, Sampling]) -> Op:
    """x with axes resampled: elements repeated on all axes at once, then axis by axis."""
    factors = [1] * x.type.rank
    for axis, s in samplings.items():
        if s.weights is None:
            factors[axis] = _repeats(s.places[:, 0], x.type.shape[axis]) or 1
    x = repeated(x, factors)
    for axis, s in samplings.items():
        if factors[axis] == 1:
            x = _sampled(x, axis, s)
    return x


def _sampled(x: Op, axis: int, sampling: Sampling) -> Op:
    """x with an axis resampled: gathered elements, their sum with weights, or a product."""
    places, weights = sampling.places, sampling.weights
    count, taps = places.shape
    if weights is None:
        return picked(x, axis, places[:, 0])
    if taps > _MOST_TERMS:
        matrix = np.zeros((x.type.shape[axis], count))
        np.add.at(matrix, (places, np.arange(count)[:, None]), weights)
        last = (*(i for i in range(x.type.rank) if i != axis), axis)
        back = tuple(last.index(i) for i in range(x.type.rank))
        return _transposed(MatMul(_transposed(x, last), Constant(matrix.astype(FLOAT))), back)
    shape = (count, *(1,) * (x.type.rank - 1 - axis))
    total: Op | None = None
    for t in range(taps):
        term: Op = picked(x, axis, places[:, t])
        if not (weights[:, t] == 1).all():
            term = Mul(term, Constant(weights[:, t].astype(FLOAT).reshape(shape)))
        total = term if total is None else Add(total, term)
    assert total is not None  # some weight is not negligible
    return total


def _transposed(x: Op, permutation: tuple[int, ...]) -> Op:
    return x if permutation == tuple(range(len(permutation))) else Transpose(x, permutation)


def picked(x: Op, axis: int, places: np.ndarray) -> Op:
    """Elements of an axis at known places: repeated, a slice, or gathered."""
    shape, count = x.type.shape, len(places)
    size = shape[axis]
    if factor := _repeats(places, size):
        return repeated(x, [factor if i == axis else 1 for i in range(len(shape))])
    step = int(places[1] - places[0]) if count > 1 else 1
    if count and step >= 1 and (np.diff(places) == step).all():
        return sliced(x, {axis: (int(places[0]), int(places[-1]) + 1, step)})
    return rows(x, Constant(np.asarray(places, np.int64)), axis)


def _repeats(places: np.ndarray, size: int) -> int | None:
    """How often each of `size` elements stands in a row, if that is all."""
    factor, rest = divmod(len(places), size) if size else (0, 1)
    whole = rest == 0 and factor and (places == np.arange(len(places)) // factor).all()
    return factor if whole else None


def repeated(x: Op, factors: list[int]) -> Op:
    """Each element `factors[axis]` times along every axis."""
    if all(factor == 1 for factor in factors):
        return x
    axes = list(zip(x.type.shape, factors, strict=True))
    apart = tuple(d for size, factor in axes for d in ((size, 1) if factor > 1 else (size,)))
    wide = tuple(d for size, factor in axes for d in ((size, factor) if factor > 1 else (size,)))
    result = Expand(Reshape(x, apart), wide)
    return Reshape(result, tuple(size * factor for size, factor in axes))
