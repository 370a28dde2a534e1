"""How a clipping range is chosen from statistics: one frozen dataclass per method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompiler.calibrate.divergence import divergences
from qcompiler.calibrate.histogram import Histogram
from qcompiler.calibrate.quantization_error import quantization_error
from qcompiler.calibrate.statistics import Statistics


@dataclass(frozen=True)
class MinMax:
    """The exact extremes: nothing is clipped."""

    def clip(self, statistics: Statistics, levels: int, symmetric: bool) -> tuple[float, float]:
        """See `Method.clip`."""
        return statistics.minimum, statistics.maximum


@dataclass(frozen=True)
class MovingAverage:
    """The moving averages of the extremes of each batch (Jacob et al., CVPR 2018, section 3.1)."""

    def clip(self, statistics: Statistics, levels: int, symmetric: bool) -> tuple[float, float]:
        """See `Method.clip`."""
        return statistics.average_minimum, statistics.average_maximum


@dataclass(frozen=True)
class Percentile:
    """Clips the given share of the elements (Wu et al., arXiv:2004.09602, section 5.2).

    Symmetric: the share of largest |value|.  Asymmetric: half of it at each end.  The bound is the
    outer edge of a histogram bin, so at most the share is clipped; 100 is the same as `MinMax`.

    Attributes:
        percentile: Per cent of the elements that stay inside, in (0, 100].
    """

    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile must be in (0, 100], not {self.percentile}")

    def clip(self, statistics: Statistics, levels: int, symmetric: bool) -> tuple[float, float]:
        """See `Method.clip`."""
        histogram = _histogram(statistics)
        clipped = (1 - self.percentile / 100) * statistics.count
        if symmetric:
            bound = _bins_kept(histogram.magnitude, clipped) * histogram.width
            bound = min(bound, max(-statistics.minimum, statistics.maximum))
            return -bound, bound
        low = _bins_kept(histogram.negative, clipped / 2) * histogram.width
        high = _bins_kept(histogram.positive, clipped / 2) * histogram.width
        return -min(low, -statistics.minimum), min(high, statistics.maximum)


@dataclass(frozen=True)
class MeanSquaredError:
    """Minimises the expected squared quantization error, rounding plus clipping, on the histogram.

    The error is that of the actual grid (`quantization_error`); for Gaussian and Laplacian data the
    minimum is known analytically (Banner et al., NeurIPS 2019).  Line searches over fractions of
    the exact extremes, down to 1/256 and to within 2 per cent: of the bound if symmetric, otherwise
    of both ends together, then of each in turn.
    """

    def clip(self, statistics: Statistics, levels: int, symmetric: bool) -> tuple[float, float]:
        """See `Method.clip`."""
        histogram = _histogram(statistics)
        low = min(statistics.minimum, 0.0) / histogram.width
        high = max(statistics.maximum, 0.0) / histogram.width
        if symmetric:
            low, high = -max(-low, high), max(-low, high)
        if low == high:
            return 0.0, 0.0
        full = np.array([low, high])
        ends = full
        for direction in ([1, 1],) if symmetric else ([1, 1], [0, 1], [1, 0], [0, 1], [1, 0]):
            ends = _search(histogram, full, ends, np.array(direction), levels, symmetric)
        return float(ends[0]) * histogram.width, float(ends[1]) * histogram.width


@dataclass(frozen=True)
class Entropy:
    """The bound on |value| with the least Kullback-Leibler divergence after quantization.

    S. Migacz, "8-bit inference with TensorRT", GTC 2017, with two changes: zeros, which a grid
    always represents exactly, take no part, and a candidate that would put clipped values where
    the quantized distribution has no mass is never chosen.  Values of both signs share the levels
    evenly; a value of one sign has all of them if the grid is asymmetric.
    """

    def clip(self, statistics: Statistics, levels: int, symmetric: bool) -> tuple[float, float]:
        """See `Method.clip`."""
        histogram = _histogram(statistics)
        one_sign = statistics.minimum >= 0 or statistics.maximum <= 0
        groups = levels if one_sign and not symmetric else levels // 2
        candidates, divergence = divergences(histogram.magnitude, groups)
        if len(candidates) == 0:
            return statistics.minimum, statistics.maximum
        bound = float(candidates[np.argmin(divergence)]) * histogram.width
        return max(-bound, statistics.minimum), min(bound, statistics.maximum)


METHODS: dict[str, type[MinMax | MovingAverage | Percentile | MeanSquaredError | Entropy]] = {
    "min-max": MinMax,
    "moving-average": MovingAverage,
    "percentile": Percentile,
    "mse": MeanSquaredError,
    "entropy": Entropy,
}
"""The methods by the names that options and configuration files use."""


def _histogram(statistics: Statistics) -> Histogram:
    if statistics.histogram is None:
        raise ValueError(f"statistics of '{statistics.name}' were collected without a histogram")
    return statistics.histogram


def _bins_kept(counts: NDArray[np.int64], clipped: float) -> int:
    """The fewest leading bins that leave at most `clipped` elements outside."""
    outside = np.append(np.cumsum(counts[::-1])[::-1], 0)
    return int(np.argmax(outside <= clipped))


def _search(
    histogram: Histogram,
    full: NDArray[np.float64],
    ends: NDArray[np.float64],
    direction: NDArray[np.int64],
    levels: int,
    symmetric: bool,
) -> NDArray[np.float64]:
    """`ends` with those that `direction` marks replaced by the best fraction of the full range."""

    def best(fractions: NDArray[np.float64]) -> float:
        candidates = np.where(direction, full * fractions[:, None], ends)
        return float(
            fractions[np.argmin(quantization_error(histogram, candidates, levels, symmetric))]
        )

    if not np.any(full[direction == 1]):
        return ends
    coarse = best(2.0 ** (-np.arange(33) / 4))
    fine = best(np.minimum(coarse * 2.0 ** np.linspace(-1 / 4, 1 / 4, 17), 1.0))
    return np.where(direction, full * fine, ends)
