"""Importers of resampling: Resize in all its forms, and Upsample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_sampling import (
    Sampling,
    cubic_kernel,
    linear_kernel,
    nearest,
    resampled,
    weighted,
)
from qcompiler.graph import Constant, Op
from qcompiler.ops import Select, scalar
from qcompiler.types import FLOAT

_LARGEST = 1 << 24  # of one axis of a result
_MOST_TAPS = 1 << 26  # of an axis, over all results


@dataclass(frozen=True)
class Scaling:
    """How one axis is resampled.

    Attributes:
        axis: Which.
        before: Its size.
        after: The size of the result.
        scale: What the coordinates are divided by: nearly after / before.
        roi: Start and end of the part to resample, as fractions of the axis.
    """

    axis: int
    before: int
    after: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)

    @property
    def is_identity(self) -> bool:
        """Whether every result is the element of the same place."""
        same = self.before == self.after and math.isclose(self.scale, 1.0)
        return same and self.roi == (0.0, 1.0)

    def coordinates(self, rule: str) -> np.ndarray | None:
        """Where each result stands in the operand; None where the rule is unknown.

        In float32, which decides what is half-way, as other runtimes compute it.
        """
        y, scale = np.arange(self.after, dtype=np.float32), np.float32(self.scale)
        half, last = np.float32(0.5), self.before - 1
        length = self.scale * self.before  # other than `after` where that was rounded down
        match rule:
            case "half_pixel":
                x = (y + half) / scale - half
            case "half_pixel_symmetric":
                offset = self.before / 2 * (1 - self.after / length)
                x = np.float32(offset) + (y + half) / scale - half
            case "pytorch_half_pixel":
                x = (y + half) / scale - half if self.after > 1 else y * 0
            case "align_corners":
                x = y * np.float32(last) / np.float32(length - 1) if self.after > 1 else y * 0
            case "asymmetric":
                x = y / scale
            case "tf_half_pixel_for_nn":
                x = (y + half) / scale
            case "tf_crop_and_resize":
                start, stop = self.roi
                if self.after > 1:
                    x = y * np.float32((stop - start) * last / (length - 1)) + start * last
                else:
                    x = y + 0.5 * (start + stop) * last
            case _:
                return None
        return x.astype(np.float64)


@importer("Upsample", since=7)
def upsample(node: Node) -> Op:
    """Factors in an attribute."""
    return _by_old_rules(node, [float(s) for s in node.attributes["scales"]])


@importer("Upsample", since=9)
@importer("Resize", since=10)
def resize_by_scales(node: Node) -> Op:
    """Factors in an operand."""
    scales = node.known(1, "scales")
    return _by_old_rules(node, [] if scales is None else scales.reshape(-1).tolist())


def _by_old_rules(node: Node, scales: list[float]) -> Op:
    """Until opset 10: coordinates divided by the factor, the nearest below (above, downwards)."""
    mode = node.text("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear"):
        raise node.unsupported(f"mode={mode}")
    samplings = {}
    for s in _by_scales(node, range(node.x.type.rank), scales):
        places = s.coordinates("asymmetric")
        assert places is not None
        if mode == "nearest":
            samplings[s.axis] = nearest(places, s.before, "ceil" if s.scale < 1 else "floor")
        else:
            samplings[s.axis] = weighted(places, s.before, linear_kernel, 1)
    return resampled(node.x, samplings)


@importer("Resize", since=11)
def resize(node: Node) -> Op:
    """Factors or sizes in an operand, for all axes or for some."""
    rank = node.x.type.rank
    axes = node.axes(node.integers("axes") or range(rank), rank)
    rule = node.text("coordinate_transformation_mode", "half_pixel")
    samplings, outside = {}, np.zeros((), bool)
    for s in _scalings(node, axes):
        if s.is_identity:
            continue
        places = s.coordinates(rule)
        if places is None:
            raise node.unsupported(f"coordinate_transformation_mode={rule}")
        samplings[s.axis] = _sampling(node, s, places)
        if rule == "tf_crop_and_resize":
            beyond = (places < 0) | (places > s.before - 1)
            outside = outside | beyond.reshape(-1, *(1,) * (rank - 1 - s.axis))
    x = resampled(node.x, samplings)
    if not outside.any():
        return x
    value = scalar(node.number("extrapolation_value"), FLOAT)
    return Select(Constant(np.ascontiguousarray(outside)), value, x)


def _sampling(node: Node, s: Scaling, places: np.ndarray) -> Sampling:
    mode = node.text("mode", "nearest")
    if mode == "nearest":
        rounding = node.text("nearest_mode", "round_prefer_floor")
        if rounding not in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
            raise node.broken(f"nearest_mode: expected a rounding rule, found {rounding!r}")
        return nearest(places, s.before, rounding)
    widening = max(1 / s.scale, 1.0) if node.integer("antialias") else 1.0
    if widening * s.after > _MOST_TAPS:
        raise node.broken(f"expected scales that fit in memory, found {s.scale}")
    excluded = bool(node.integer("exclude_outside"))
    match mode:
        case "linear":
            kernel, reach = linear_kernel, 1
        case "cubic":
            kernel = partial(cubic_kernel, a=node.number("cubic_coeff_a", -0.75))
            reach = 2
        case _:
            raise node.broken(f"mode: expected nearest, linear or cubic, found {mode!r}")
    return weighted(places, s.before, kernel, reach, widening, exclude_outside=excluded)


def _scalings(node: Node, axes: Sequence[int]) -> list[Scaling]:
    """The resampled axes, by `sizes` or `scales` and `roi`, which all speak of `axes`."""
    roi: list[float] = []
    if node.text("coordinate_transformation_mode") == "tf_crop_and_resize":
        given = node.known(1, "roi")
        roi = [] if given is None else given.reshape(-1).tolist()
        if len(roi) != 2 * len(axes) or not np.isfinite(roi).all():
            raise node.broken(f"roi: expected {2 * len(axes)} bounds, found {roi}")
    sizes = node.known_integers(3, "sizes")
    if sizes:
        found = _by_sizes(node, axes, sizes)
    else:
        scales = node.known(2, "scales")
        found = _by_scales(node, axes, [] if scales is None else scales.reshape(-1).tolist())
    if not roi:
        return found
    parts = zip(found, roi[: len(axes)], roi[len(axes) :], strict=True)
    return [Scaling(s.axis, s.before, s.after, s.scale, (a, b)) for s, a, b in parts]


def _by_sizes(node: Node, axes: Sequence[int], sizes: Sequence[int]) -> list[Scaling]:
    shape = node.x.type.shape
    if len(sizes) != len(axes):
        raise node.broken(f"expected {len(axes)} scales or sizes, found {len(sizes)}")
    if not all(1 <= size <= _LARGEST for size in sizes) or 0 in shape:
        raise node.broken(f"sizes: expected sizes of an image, found {list(sizes)}")
    ratios = [size / shape[axis] for size, axis in zip(sizes, axes, strict=True)]
    match node.text("keep_aspect_ratio_policy", "stretch"):
        case "stretch":
            steps = zip(axes, sizes, ratios, strict=True)
            return [Scaling(axis, shape[axis], size, ratio) for axis, size, ratio in steps]
        case "not_larger":
            ratio = min(ratios)
        case "not_smaller":
            ratio = max(ratios)
        case policy:
            raise node.broken(f"keep_aspect_ratio_policy: expected a policy, found {policy!r}")
    return [Scaling(a, shape[a], max(int(ratio * shape[a] + 0.5), 1), ratio) for a in axes]


def _by_scales(node: Node, axes: Sequence[int], scales: Sequence[float]) -> list[Scaling]:
    shape = node.x.type.shape
    if len(scales) != len(axes):
        raise node.broken(f"expected {len(axes)} scales or sizes, found {len(scales)}")
    found = []
    for axis, scale in zip(axes, scales, strict=True):
        if not (scale > 0 and scale * shape[axis] <= _LARGEST):
            raise node.broken(f"scales: expected factors > 0, found {list(scales)}")
        after = int(np.float32(scale) * np.float32(shape[axis]))
        if after < 1:
            raise node.unsupported(f"no elements left by {scales} of {node.x.type}")
        found.append(Scaling(axis, shape[axis], after, float(scale)))
    return found
