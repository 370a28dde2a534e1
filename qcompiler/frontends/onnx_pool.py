"""Importers of pooling over any number of axes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from qcompiler.frontends.onnx_fold import fold, simplified
from qcompiler.frontends.onnx_index import LONGEST_LINE
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.frontends.onnx_windows import (
    Axes,
    Axis,
    elements,
    given_pads,
    on_plane,
    padded,
    sliding,
    spatial_sizes,
    taps,
    unpadded,
    window_of,
    without_padding,
)
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Abs,
    And,
    AveragePool,
    Cast,
    Exp,
    GreaterEqual,
    Log,
    MaxPool,
    Mul,
    Not,
    Pad,
    ReduceMean,
    Reshape,
    Scatter,
    Select,
    Sqrt,
    Window,
    scalar,
)
from qcompiler.types import FLOAT

_LARGEST_PLANE = 1 << 24  # elements of the table of how many elements each window covers
_MOST_TAPS = 1 << 10  # of windows that are compared one by one
_MOST_FACTORS = 64  # of a power written as products


@importer("MaxPool")
def max_pool(node: Node) -> Op | tuple[Op, ...]:
    """The largest element of each window, and where it stands."""
    axes = _windows(node)
    if len(node.outputs) > 1 and node.outputs[1]:
        return _with_places(node, axes)
    return _separably(node.x, _inside(axes, node.x), MaxPool)


@importer("AveragePool")
def average_pool(node: Node) -> Op:
    """The mean of each window, with or without the padding."""
    x = node.x
    axes: Axes = _windows(node)
    sizes = x.type.shape[2:]
    if all((a.kernel, a.before, a.after) == (d, 0, 0) for a, d in zip(axes, sizes, strict=True)):
        return ReduceMean(x, tuple(range(2, x.type.rank)))
    if node.integer("count_include_pad"):
        counted, uncounted = _counted(node, axes)
        x, axes = padded(x, counted), uncounted
    return _separably(x, _inside(axes, x), AveragePool)


def _inside(axes: Axes, x: Op) -> Axes:
    """One window that reaches beyond all elements of an axis covers them, and no more."""

    def covers(a: Axis, size: int) -> bool:
        return a.output(size) == a.dilation == 1 and a.kernel - a.before >= size

    sizes = x.type.shape[2:]
    return [Axis(d) if covers(a, d) else a for a, d in zip(axes, sizes, strict=True)]


def _separably(x: Op, axes: Axes, pool: Callable[[Op, Window], Op]) -> Op:
    """Pooling over two axes at a time, from the last: the other axes count as channels."""
    if len(axes) <= 2:
        return on_plane(x, axes, pool)
    *outer, rows, columns = axes
    n, *leading, h, w = x.type.shape
    y = on_plane(reshaped(x, (n, math.prod(leading), h, w)), (rows, columns), pool)
    for i in range(len(outer), 0, -1):
        rest = math.prod(y.type.shape[2:])
        y = reshaped(y, (n, math.prod(leading[:i]), leading[i], rest))
        y = on_plane(y, (axes[i - 1], Axis(1)), pool)
        leading[i] = y.type.shape[2]
    plane = (axis.output(d) for axis, d in zip((rows, columns), (h, w), strict=True))
    return reshaped(y, (n, *leading, *plane))


def _counted(node: Node, axes: Axes) -> tuple[Axes, Axes]:
    """Windows with the padding that the node asks for, which counts, and with what is behind it.

    What ceil_mode adds does not count.
    """
    after = tuple(a.after for a in axes)
    if node.text("auto_pad", "NOTSET") in ("NOTSET", ""):
        given = given_pads(node, len(axes))[1]
        after = tuple(min(a, b) for a, b in zip(after, given, strict=True))
    inside, outside = [], []
    for a, counts in zip(axes, after, strict=True):
        inside.append(Axis(a.kernel, a.stride, a.dilation, a.before, counts))
        outside.append(Axis(a.kernel, a.stride, a.dilation, 0, a.after - counts))
    return inside, outside


def _windows(node: Node) -> tuple[Axis, ...]:
    sizes = spatial_sizes(node, node.x)
    axes = sliding(node, sizes, node.integers("kernel_shape") or ())
    if math.prod(d + a.before + a.after for a, d in zip(axes, sizes, strict=True)) > _LARGEST_PLANE:
        raise node.broken(f"expected sizes that fit in memory, found {axes} on {node.x.type}")
    for a, size in zip(axes, sizes, strict=True):
        if not window_of((a,)).counts(1, size).all():
            raise node.broken("expected padding smaller than the kernel: a window would be empty")
    return axes


def _with_places(node: Node, axes: Axes) -> tuple[Op, ...]:
    """The largest element of each window and its place among all elements, the first of equals."""
    x, column_major = node.x, node.integer("storage_order")
    if elements(axes) > _MOST_TAPS or x.type.size > LONGEST_LINE:
        raise node.unsupported(f"places in windows of {elements(axes)} elements of {x.type}")
    n, c, *sizes = x.type.shape
    order = sizes[::-1] if column_major else sizes
    plane = np.arange(math.prod(sizes), dtype=np.int64).reshape(order)
    images = np.arange(n * c, dtype=np.int64).reshape(n, c, *(1,) * len(sizes)) * plane.size
    places = padded(Constant((plane.T if column_major else plane) + images), axes, -1)
    places, x = fold(places), padded(x, axes)
    best: Op | None = None
    where: Op | None = None
    inside: np.ndarray | None = None
    for index in np.ndindex(*(a.kernel for a in axes)):
        tap, place = taps(x, axes, index), fold(taps(places, axes, index))
        assert isinstance(place, Constant)
        valid = place.array >= 0
        if best is None or where is None or inside is None:
            best, where, inside = tap, place, valid
            continue
        # better = (tap > best and valid), or the first that is valid
        worse: Op = GreaterEqual(best, tap)
        if not valid.all():
            worse = Not(And(Not(worse), Constant(valid)))
        if not inside.all():
            worse = And(worse, Constant(inside | ~valid))
        best, where, inside = Select(worse, best, tap), Select(worse, where, place), inside | valid
    assert best is not None  # a window has taps
    assert where is not None
    return best, where


@importer("MaxUnpool", since=9)
def max_unpool(node: Node) -> Op:
    """Elements back at the places that pooling took them from, zeros elsewhere."""
    x, places = node.x, node.operand(1)
    sizes = spatial_sizes(node, x)
    axes = unpadded(node, node.integers("kernel_shape") or (), len(sizes))
    before, after = given_pads(node, len(sizes))
    inferred = [
        (size - 1) * a.stride + a.kernel - b - e
        for a, size, b, e in zip(axes, sizes, before, after, strict=True)
    ]
    wanted = node.known_integers(2, "output_shape") or (*x.type.shape[:2], *inferred)
    if places.type.shape != x.type.shape or not places.type.is_integer or min(inferred) < 1:
        raise node.broken(f"expected places for {x.type}, found {places.type}")
    missing = [b - a for a, b in zip((*x.type.shape[:2], *inferred), wanted, strict=False)]
    if len(wanted) != x.type.rank or any(missing[:2]) or min(missing) < 0:
        raise node.broken(f"output_shape: expected at least {inferred}, found {list(wanted)}")
    count = math.prod((*x.type.shape[:2], *inferred))
    if max(count, math.prod(wanted)) > LONGEST_LINE:
        raise node.unsupported(f"{count} computed places")
    zeros = Constant(np.zeros(count, np.float32))
    index = simplified(Cast(simplified(Reshape(places, (x.type.size,))), "int64"))
    filled = Reshape(
        Scatter(zeros, index, reshaped(x, (x.type.size,))), (*x.type.shape[:2], *inferred)
    )
    return Pad(filled, (0,) * x.type.rank, tuple(missing)) if any(missing) else filled


@importer("GlobalAveragePool")
def global_average_pool(node: Node) -> Op:
    """The mean over all spatial axes."""
    return ReduceMean(node.x, tuple(range(2, node.x.type.rank)))


@importer("GlobalMaxPool")
def global_max_pool(node: Node) -> Op:
    """The largest element over all spatial axes."""
    sizes, (n, c) = spatial_sizes(node, node.x), node.x.type.shape[:2]
    whole = (sizes[0], math.prod(sizes[1:]))
    pooled = MaxPool(reshaped(node.x, (n, c, *whole)), Window(whole))
    return reshaped(pooled, (n, c) + (1,) * len(sizes))


@importer("LpPool")
def lp_pool(node: Node) -> Op:
    """The norm of each window, (Σ |x|^p)^(1/p); padding adds nothing."""
    axes = _windows(node)
    powers = padded(_power(node, node.x), axes)
    means = _separably(powers, without_padding(axes), AveragePool)
    return _root(node, Mul(means, scalar(elements(axes), FLOAT)))


@importer("GlobalLpPool")
def global_lp_pool(node: Node) -> Op:
    """The norm over all spatial axes."""
    sizes = spatial_sizes(node, node.x)
    means = ReduceMean(_power(node, node.x), tuple(range(2, node.x.type.rank)))
    return _root(node, Mul(means, scalar(math.prod(sizes), FLOAT)))


def _power(node: Node, x: Op) -> Op:
    p = node.integer("p", 2)
    if not 1 <= p <= _MOST_FACTORS:
        raise node.unsupported(f"p={p}")
    base = x if p % 2 == 0 else Abs(x)
    y = base
    for _ in range(p - 1):
        y = Mul(y, base)
    return y


def _root(node: Node, x: Op) -> Op:
    match node.integer("p", 2):
        case 1:
            return x
        case 2:
            return Sqrt(x)
        case p:
            return Exp(Mul(Log(x), scalar(1 / p, FLOAT)))
