"""What is remembered of a value while samples stream by: bounded, whatever their number."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qcompiler.calibrate.histogram import Histogram
from qcompiler.errors import CalibrationError


class Method(Protocol):
    """A way to choose a clipping range; its fields are its options."""

    def clip(self, statistics: Statistics, levels: int, symmetric: bool) -> tuple[float, float]:
        """Low and high end; `Statistics.range` makes them contain zero, and symmetric if asked."""


class Statistics:
    """Streaming statistics of one value of the graph.

    Attributes:
        name: Whose statistics they are; error messages say it.
        axis: The channel axis of `channel_minimum` and `channel_maximum`, or None.
        count: How many elements were seen.
        batches: How many non-empty arrays were seen.
        minimum, maximum: Exact extremes of all elements; +inf and −inf before the first.
        average_minimum, average_maximum: Exponential moving averages of the extremes of each array,
            a ← momentum·a + (1 − momentum)·new, started at those of the first (Jacob et al., CVPR
            2018, section 3.1); the only statistics here that depend on the order of the samples.
        histogram: Of all elements; empty when built with `bins=0`.
        channel_minimum, channel_maximum: float64 [channels], None without `axis`.
    """

    def __init__(
        self, name: str, *, bins: int = 4096, momentum: float = 0.9, axis: int | None = None
    ) -> None:
        """Start empty.

        Args:
            name: Name of the value, for errors.
            bins: Bins of the histogram, a power of two from 16 on; 0 keeps no histogram, which is
                faster and enough for the methods `min-max` and `moving-average`.
            momentum: Of the moving averages, in [0, 1).
            axis: Also keep extremes per channel along this axis (negative counts from the end).
        """
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {momentum}")
        self.name = name
        self.axis = axis
        self.count = 0
        self.batches = 0
        self.minimum = math.inf
        self.maximum = -math.inf
        self.average_minimum = 0.0
        self.average_maximum = 0.0
        self.histogram = Histogram(bins) if bins else None
        self.channel_minimum: NDArray[np.float64] | None = None
        self.channel_maximum: NDArray[np.float64] | None = None
        self._momentum = momentum

    def update(self, values: NDArray) -> None:
        """Take one more array into account; an empty one changes nothing.

        Args:
            values: Any shape, of a float, integer or boolean dtype.

        Raises:
            CalibrationError: There is a NaN or an infinity in it, its dtype is not numeric, or it
                has not the channels of the arrays before it.
        """
        values = _as_float(values, self.name)
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CalibrationError(
                f"value '{self.name}' holds NaN or infinity after {self.batches} good batches: "
                "check the calibration data and the float model's output on it"
            )
        if self.axis is not None:
            self._update_channels(values, self.axis)
        self._update_averages(low, high)
        self.minimum = min(self.minimum, low)
        self.maximum = max(self.maximum, high)
        self.count += values.size
        self.batches += 1
        if self.histogram is not None:
            self.histogram.grow(min(self.minimum, 0.0), max(self.maximum, 0.0))
            self.histogram.add(values.reshape(-1))

    def range(self, method: Method, levels: int, symmetric: bool) -> tuple[float, float]:
        """The clipping range that `method` chooses.

        Args:
            method: One of `qcompiler.calibrate.methods`.
            levels: Number of codes of the storage type: 256 for 8 bits, 255 for a narrow range.
            symmetric: Whether the grid is symmetric about zero (zero point 0).

        Returns:
            (low, high) in units of the data, finite, low ≤ 0 ≤ high, low = −high if symmetric; both
            are 0.0 for a value that never was anything but zero.

        Raises:
            CalibrationError: Nothing was seen yet.
            ValueError: The method needs a histogram and there is none, or fewer than 3 levels.
        """
        if self.count == 0:
            raise CalibrationError(
                f"value '{self.name}' has no statistics: run at least one calibration sample "
                "that reaches it"
            )
        if levels < 3:
            raise ValueError(f"a quantization grid needs at least 3 levels, not {levels}")
        low, high = method.clip(self, levels, symmetric)
        return _around_zero(low, high, symmetric)

    def _update_averages(self, low: float, high: float) -> None:
        if self.batches == 0:
            self.average_minimum, self.average_maximum = low, high
            return
        keep, take = self._momentum, 1 - self._momentum
        self.average_minimum = keep * self.average_minimum + take * low
        self.average_maximum = keep * self.average_maximum + take * high

    def _update_channels(self, values: NDArray[np.floating], axis: int) -> None:
        if not -values.ndim <= axis < values.ndim:
            raise CalibrationError(
                f"value '{self.name}' has shape {list(values.shape)}, which has no axis {axis}: "
                "choose a channel axis that it has"
            )
        others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
        low = values.min(axis=others).astype(np.float64)
        high = values.max(axis=others).astype(np.float64)
        if self.channel_minimum is None or self.channel_maximum is None:
            self.channel_minimum, self.channel_maximum = low, high
            return
        if low.shape != self.channel_minimum.shape:
            raise CalibrationError(
                f"value '{self.name}' has {low.size} channels along axis {axis} after "
                f"{self.channel_minimum.size} in earlier batches: choose an axis of fixed size"
            )
        self.channel_minimum = np.minimum(self.channel_minimum, low)
        self.channel_maximum = np.maximum(self.channel_maximum, high)


def _as_float(values: NDArray, name: str) -> NDArray[np.floating]:
    """`values` in the narrowest of float32 and float64 that the histogram can bin exactly."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        kind = getattr(values, "dtype", type(values).__name__)
        raise CalibrationError(
            f"value '{name}' is {kind}, not a tensor of numbers: leave it out of the calibration"
        )
    return values.astype(np.result_type(values.dtype, np.float32), copy=False)


def _around_zero(low: float, high: float, symmetric: bool) -> tuple[float, float]:
    low, high = min(low, 0.0) + 0.0, max(high, 0.0)  # -0.0 + 0.0 is 0.0
    if not symmetric:
        return low, high
    bound = max(high, -low)
    return 0.0 - bound, bound
