"""Elements between elements: values at real coordinates, as sums of gathered ones with weights.

Coordinates may be constants, whose places and weights then are constants as well, or computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    And,
    Cast,
    Clip,
    Floor,
    Gather,
    GreaterEqual,
    Mul,
    Not,
    Select,
    Sub,
    Transpose,
    scalar,
)
from qcompiler.types import FLOAT

CUBIC = -0.75  # the free coefficient of cubic convolution, as torch has it


@dataclass(frozen=True)
class Tap:
    """One element of an axis that a value takes part of.

    Attributes:
        place: int64, within the axis.
        weight: float32, of the same shape; None for 1.
    """

    place: Op
    weight: Op | None


def plus(a: Op, b: Op | float) -> Op:
    """a + b, known if both are."""
    other = b if isinstance(b, Op) else scalar(b, a.type.dtype)
    return simplified(Add(a, other))


def times(a: Op, b: Op | float) -> Op:
    """a·b, known if both are."""
    other = b if isinstance(b, Op) else scalar(b, a.type.dtype)
    return simplified(Mul(a, other))


def clipped(x: Op, low: float, high: float) -> Op:
    """x within bounds, known if x is."""
    return simplified(Clip(x, low, high))


def whole(x: Op) -> Op:
    """Integral floats as int64."""
    return simplified(Cast(x, "int64"))


def inside(x: Op, size: int) -> Op:
    """Whether integers are places of an axis."""
    above = simplified(GreaterEqual(x, scalar(0, x.type.dtype)))
    below = simplified(Not(GreaterEqual(x, scalar(size, x.type.dtype))))
    return simplified(And(above, below))


def linear_taps(coordinates: Op, axis_size: int) -> list[tuple[Op, Op]]:
    """The two neighbours of each coordinate, as integral floats, and their weights."""
    base, rest = _split(coordinates, axis_size, 1)
    return [(base, _opposite(rest)), (plus(base, 1), rest)]


def cubic_taps(coordinates: Op, axis_size: int) -> list[tuple[Op, Op]]:
    """The four neighbours of each coordinate, as integral floats, and their weights (Keys 1981)."""
    base, rest = _split(coordinates, axis_size, 2)
    back = _opposite(rest)
    taps = [(-1, _outer(plus(rest, 1))), (0, _inner(rest)), (1, _inner(back))]
    return [(plus(base, i), w) for i, w in [*taps, (2, _outer(plus(back, 1)))]]


def _split(coordinates: Op, size: int, reach: int) -> tuple[Op, Op]:
    """Floor and rest of coordinates, of which those far outside are as good as others there."""
    kept = clipped(coordinates, -reach - 1, size + reach)
    base = simplified(Floor(kept))
    return base, simplified(Sub(kept, base))


def _opposite(rest: Op) -> Op:
    return simplified(Sub(scalar(1, FLOAT), rest))


def _inner(d: Op) -> Op:
    return plus(times(times(plus(times(d, CUBIC + 2), -CUBIC - 3), d), d), 1)


def _outer(d: Op) -> Op:
    return plus(times(plus(times(plus(times(d, CUBIC), -5 * CUBIC), d), 8 * CUBIC), d), -4 * CUBIC)


def or_zero(taps: Sequence[tuple[Op, Op | None]], size: int) -> list[Tap]:
    """Taps of an axis beyond whose edges there are zeros."""
    found = []
    for place, weight in taps:
        index = whole(place)
        one = weight if weight is not None else Constant(np.ones(place.type.shape, FLOAT))
        kept = simplified(Select(inside(index, size), one, scalar(0, FLOAT)))
        found.append(Tap(clipped(index, 0, size - 1), kept))
    return found


def or_nearest(taps: Sequence[tuple[Op, Op | None]], size: int) -> list[Tap]:
    """Taps of an axis that continues beyond its edges."""
    return [Tap(clipped(whole(place), 0, size - 1), weight) for place, weight in taps]


def interpolated(
    x: Op, taps: Sequence[Sequence[Tap]], images: Op | np.ndarray, combine: Callable[[Op, Op], Op]
) -> Op:
    """Values between the elements of images.

    Args:
        x: [n, c, d...].
        taps: For each spatial axis its taps; their places broadcast together to [p...].
        images: Which image each value is taken from: integers that broadcast to [p...].
        combine: Joins the weighted elements: Add for a sum, Maximum for their maximum.

    Returns:
        [p..., c].
    """
    n, c, *sizes = x.type.shape
    last = Transpose(x, (0, *range(2, x.type.rank), 1))
    table = reshaped(last, (n * math.prod(sizes), c))
    numbers = Constant(images.astype(np.int64)) if isinstance(images, np.ndarray) else images
    first = times(clipped(whole(numbers), 0, n - 1), math.prod(sizes))
    terms = []
    for chosen in itertools.product(*taps):
        index, weight = first, None
        for i, tap in enumerate(chosen):
            index = plus(index, times(tap.place, math.prod(sizes[i + 1 :])))
            if tap.weight is not None:
                weight = tap.weight if weight is None else times(weight, tap.weight)
        if isinstance(weight, Constant) and not weight.array.any() and combine is Add:
            continue
        value: Op = Gather(table, index, 0)
        if weight is not None:
            spread = simplified(Add(weight, Constant(np.zeros(index.type.shape, FLOAT))))
            value = Mul(value, simplified(reshaped(spread, (*index.type.shape, 1))))
        terms.append(value)
    if not terms:
        index = plus(first, times(taps[0][0].place, 0))
        return times(Gather(table, index, 0), 0)
    return reduce(combine, terms)


def channels_second(y: Op) -> Op:
    """[n, p..., c] → [n, c, p...]."""
    return Transpose(y, (0, y.type.rank - 1, *range(1, y.type.rank - 1)))
