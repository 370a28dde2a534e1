"""Importers of pooling in regions of interest: RoiAlign and MaxRoiPool."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_interpolate import (
    Tap,
    channels_second,
    clipped,
    interpolated,
    linear_taps,
    or_nearest,
    plus,
    times,
)
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.frontends.onnx_windows import spatial_sizes
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    Cast,
    Gather,
    GreaterEqual,
    Maximum,
    Pad,
    ReduceMax,
    ReduceMean,
    Reshape,
    Sub,
    Transpose,
    scalar,
)
from qcompiler.types import FLOAT

_MOST_BINS = 1 << 18  # that one list of places each is made of
_MOST_PLACES = 1 << 22  # of samples in one node


@importer("RoiAlign", since=10)
def roi_align(node: Node) -> Op:
    """Regions resampled to one size (He et al. 2017, section 3): means, or maxima, of samples."""
    x, rois, images = node.x, node.operand(1), node.operand(2)
    sizes = spatial_sizes(node, x)
    count = images.type.size
    if len(sizes) != 2 or rois.type.shape != (count, 4):
        raise node.broken(f"expected regions [{count}, 4] of images, found {rois.type}")
    half = node.text("coordinate_transformation_mode", "output_half_pixel") == "half_pixel"
    bins = (node.integer("output_height", 1), node.integer("output_width", 1))
    mode, given = node.text("mode", "avg"), node.integer("sampling_ratio")
    if min(bins) < 1 or given < 0 or mode not in ("avg", "max") or not count:
        raise node.broken(f"expected bins, samples and regions, found {bins}, {given} and {count}")
    if count * math.prod(bins) * max(given, 1) ** 2 > _MOST_PLACES:
        raise node.unsupported(f"{count} regions of {bins} bins of {given} samples")
    taps: list[list[Tap]] = []
    samples = []
    for i, (size, parts) in enumerate(zip(sizes, bins, strict=True)):
        start, stop = (
            plus(times(_column(rois, j), node.number("spatial_scale", 1.0)), -0.5 * half)
            for j in (1 - i, 3 - i)
        )
        length = simplified(Sub(stop, start))
        if not half:  # regions without extent count as one element
            length = simplified(Maximum(length, scalar(1, FLOAT)))
        found, most = _axis_taps(node, start, length, size, parts, given)
        if most * parts > _MOST_PLACES:
            raise node.unsupported(f"{most} samples in a bin")
        samples.append(most)
        shape = (count, parts, most, 1, 1) if i == 0 else (count, 1, 1, parts, most)
        taps.append(
            [Tap(_shaped(t.place, shape), t.weight and _shaped(t.weight, shape)) for t in found]
        )
    if count * math.prod(bins) * math.prod(samples) > _MOST_PLACES:
        raise node.unsupported(f"{samples} samples in each of {count} regions")
    numbers = simplified(reshaped(images, (count, 1, 1, 1, 1)))
    values = interpolated(x, taps, numbers, Add if mode == "avg" else Maximum)
    pooled = (ReduceMean if mode == "avg" else ReduceMax)(values, (2, 4))
    return channels_second(reshaped(pooled, (count, *bins, x.type.shape[1])))


def _shaped(x: Op, shape: tuple[int, ...]) -> Op:
    return simplified(reshaped(x, shape))


def _column(rois: Op, column: int) -> Op:
    part = simplified(sliced(rois, {1: (column, column + 1, 1)}))
    return simplified(reshaped(part, (rois.type.shape[0],)))


def _axis_taps(
    node: Node, start: Op, length: Op, size: int, parts: int, given: int
) -> tuple[list[Tap], int]:
    """Taps of one axis, [regions, parts, samples], and how many samples a bin has."""
    count = start.type.size
    step = times(length, 1 / parts)
    if given:
        most, share = given, np.ones((count, 1, given), FLOAT)
        offsets: Op = Constant(((np.arange(given) + 0.5) / given).astype(FLOAT).reshape(1, 1, -1))
    else:
        if not isinstance(length, Constant):
            raise node.unsupported("sampling_ratio=0 of computed regions")
        # As many samples as elements in a bin: regions with fewer repeat their last, weighted 0.
        own = np.maximum(np.ceil(length.array / np.float32(parts)), 1).reshape(-1, 1, 1)
        if not (np.isfinite(own).all() and own.max() <= _MOST_PLACES):
            raise node.broken("expected regions of finite size")
        most = int(own.max())
        index = np.arange(most)
        offsets = Constant(((np.minimum(index, own - 1) + 0.5) / own).astype(FLOAT))
        share = np.where(index < own, most / own, 0.0).astype(FLOAT)
    wide = simplified(reshaped(step, (count, 1, 1)))
    places = plus(offsets, Constant(np.arange(parts, dtype=FLOAT).reshape(1, -1, 1)))
    at = plus(times(places, wide), simplified(reshaped(start, (count, 1, 1))))
    above = simplified(GreaterEqual(at, scalar(-1, FLOAT)))
    below = simplified(GreaterEqual(scalar(size, FLOAT), at))
    valid = times(simplified(Cast(above, FLOAT)), simplified(Cast(below, FLOAT)))
    if node.text("mode", "avg") == "avg" and not (share == 1).all():
        valid = times(valid, Constant(share))
    taps = linear_taps(clipped(at, 0, size - 1), size)
    return or_nearest([(place, times(weight, valid)) for place, weight in taps], size), most


@importer("MaxRoiPool")
def max_roi_pool(node: Node) -> Op:
    """The largest element of each bin of constant regions (Girshick 2015, section 2.1)."""
    x, rois = node.x, node.known(1, "regions")
    n, c, *sizes = x.type.shape
    bins = node.integers("pooled_shape") or ()
    if rois is None or rois.ndim != 2 or rois.shape[1] != 5 or len(sizes) != 2 or len(bins) != 2:
        raise node.broken("expected regions [r, 5] and two sizes of a result")
    if min(bins) < 1 or not len(rois) or not np.isfinite(rois).all():
        raise node.broken(f"pooled_shape: expected sizes ≥ 1 and regions, found {list(bins)}")
    scale = node.number("spatial_scale", 1.0)
    if len(rois) * math.prod(bins) > _MOST_BINS or not abs(scale) * np.abs(rois).max() < 1 << 30:
        raise node.unsupported(f"{len(rois)} regions of {list(bins)} bins")
    if not ((rois[:, 0] >= 0) & (rois[:, 0] < n)).all():
        raise node.broken(f"expected regions of {n} images, found {rois[:, 0].tolist()}")
    chosen = []
    for image, *corners in rois.astype(np.float64):
        left, top, right, bottom = (_rounded(v * scale) for v in corners)
        lines = [
            _bin_edges(first, last, parts, size)
            for first, last, parts, size in (
                (top, bottom, bins[0], sizes[0]),
                (left, right, bins[1], sizes[1]),
            )
        ]
        for y0, y1 in lines[0]:
            for x0, x1 in lines[1]:
                grid = np.arange(y0, y1)[:, None] * sizes[1] + np.arange(x0, x1)
                chosen.append(int(image) * math.prod(sizes) + grid.reshape(-1))
    most = max((len(places) for places in chosen), default=0)
    if most * len(chosen) > _MOST_PLACES:
        raise node.unsupported(f"regions of {most} elements")
    nothing = n * math.prod(sizes)  # an element of 0 behind the others, for empty bins
    index = np.full((len(chosen), max(most, 1)), nothing)
    for row, places in zip(index, chosen, strict=True):
        if len(places):
            row[:] = np.resize(places, len(row))
    table: Op = Reshape(Transpose(x, (0, 2, 3, 1)), (nothing, c))
    if (index == nothing).any():
        table = Pad(table, (0, 0), (1, 0))
    pooled = ReduceMax(Gather(table, Constant(index), 0), (1,))
    return channels_second(reshaped(pooled, (len(rois), *bins, c)))


def _rounded(v: float) -> int:
    """To the nearest integer, away from zero where two are: as C rounds."""
    return int(math.copysign(math.floor(abs(v) + 0.5), v))


def _bin_edges(first: int, last: int, parts: int, size: int) -> list[tuple[int, int]]:
    """Start and stop of each bin, within the axis."""
    length = max(last - first + 1, 1)
    edges = []
    for i in range(parts):
        start = first + math.floor(i * length / parts)
        stop = first + math.ceil((i + 1) * length / parts)
        edges.append((min(max(start, 0), size), min(max(stop, 0), size)))
    return edges
