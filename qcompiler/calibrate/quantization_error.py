"""The squared error that a uniform quantizer would make on the values of a histogram."""

import numpy as np
from numpy.typing import NDArray

from qcompiler.calibrate.histogram import Histogram


def quantization_error(
    histogram: Histogram, ranges: NDArray[np.float64], levels: int, symmetric: bool
) -> NDArray[np.float64]:
    """Sum of squared errors under each of several clipping ranges.

    The grid is the one that the range will get: multiples of the step s, rounded half up; symmetric
    from −n·s to n·s with n = (levels − 1) // 2, else `levels` codes with the zero point rounded.
    Values count as spread evenly within their bin.  (Taken at the centres of bins that are wider
    than s, rounding would seem to cost nothing, and the search would clip far too much.)

    Args:
        histogram: Of the values.
        ranges: float64 [candidates, 2], low ≤ 0 ≤ high and low < high, in units of the bin width.
        levels: Number of codes, at least 3.
        symmetric: Whether −low = high and the zero point is 0.

    Returns:
        float64 [candidates], in units of the bin width squared.
    """
    low, high = ranges[:, :1], ranges[:, 1:]
    if symmetric:
        steps = (levels - 1) // 2
        step = high / steps
        low = -high
    else:
        step = (high - low) / (levels - 1)
        zero_point = np.floor(-low / step + 0.5)
        low, high = -zero_point * step, (levels - 1 - zero_point) * step
    integral = _integral(histogram.edges.astype(np.float64), low, high, step)
    return np.diff(integral) @ histogram.counts.astype(np.float64)


def _integral(
    x: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    step: NDArray[np.float64],
) -> NDArray[np.float64]:
    """∫₀ˣ (t − Q(t))² dt.

    Around its n-th code the quantizer errs by r·s, r ∈ [−½, ½), so that a whole step adds s³/12 and
    the begun one s³·r³/3; outside the grid the error is the distance to its end.
    """
    inside = np.clip(x, low, high)
    position = inside / step
    code = np.floor(position + 0.5)
    rest = position - code
    outside = x - inside
    # A product, because numpy's general power is ten times slower.
    return step**3 * (code / 12 + rest * rest * rest / 3) + outside * outside * outside / 3
