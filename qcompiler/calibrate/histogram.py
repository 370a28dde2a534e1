"""A histogram of fixed size whose range grows with the data and whose counts stay exact."""

import math

import numpy as np
from numpy.typing import NDArray

# Bins never get narrower than this, so that 1 / width stays a finite float32 even where a tensor
# holds nothing but denormals.
_MIN_EXPONENT = -126

# Elements binned at once: bounds the temporaries and keeps them in the cache.
_CHUNK = 1 << 16


class Histogram:
    """Counts of the non-zero values of a stream, in bins of a power-of-two width around zero.

    Bin i ≥ 0 counts the values in [i·w, (i+1)·w), bin −1−i their mirror image (−(i+1)·w, −i·w],
    w = 2^exponent; exact zeros have a counter of their own, because every quantizer represents zero
    without error.  The width is the smallest that fits `bins` bins over the values seen so far,
    zero included.  Where it doubles, bins merge in pairs, which loses nothing: the state is a
    function of the multiset of values alone, however they were ordered or split into batches.

    Attributes:
        counts: int64 [bins]; `counts[j]` belongs to bin `first + j`.
        first: Index of the lowest bin, at most 0.
        exponent: log2 of the bin width in units of the data.
        zeros: How many values were exactly zero.
    """

    __slots__ = ("counts", "exponent", "first", "zeros")

    def __init__(self, bins: int) -> None:
        """Start empty; `bins` is a power of two from 16 on."""
        if bins < 16 or bins & (bins - 1):
            raise ValueError(f"bins must be a power of two and at least 16, not {bins}")
        self.counts: NDArray[np.int64] = np.zeros(bins, np.int64)
        self.first = 0
        self.exponent = _MIN_EXPONENT
        self.zeros = 0

    @property
    def width(self) -> float:
        """The bin width, in units of the data."""
        return math.ldexp(1.0, self.exponent)

    @property
    def edges(self) -> NDArray[np.int64]:
        """Bin borders in units of the width: int64 [bins + 1]."""
        return self.first + np.arange(len(self.counts) + 1)

    @property
    def positive(self) -> NDArray[np.int64]:
        """Counts of the bins 0, 1, 2, …: values above zero by magnitude."""
        return self.counts[-self.first :]

    @property
    def negative(self) -> NDArray[np.int64]:
        """Counts of the bins −1, −2, −3, …: values below zero by magnitude."""
        return self.counts[: -self.first][::-1]

    @property
    def magnitude(self) -> NDArray[np.int64]:
        """Counts of |value| without the zeros: int64 [bins]."""
        folded = np.zeros_like(self.counts)
        folded[: len(self.positive)] += self.positive
        folded[: len(self.negative)] += self.negative
        return folded

    def grow(self, low: float, high: float) -> None:
        """Make room for values in [low, high], where low ≤ 0 ≤ high hold for all values ever seen.

        Args:
            low: The smallest value of the stream so far, or 0.
            high: The largest value of the stream so far, or 0.
        """
        exponent = _smallest_exponent(low, high, len(self.counts))
        first = -_bins_of(-low, exponent)
        if exponent == self.exponent and first == self.first:
            return
        occupied = np.flatnonzero(self.counts)
        merged = np.zeros_like(self.counts)
        target = ((occupied + self.first) >> (exponent - self.exponent)) - first
        np.add.at(merged, target, self.counts[occupied])
        self.counts, self.first, self.exponent = merged, first, exponent

    def add(self, values: NDArray[np.floating]) -> None:
        """Count `values`, a flat float32 or float64 array within the range given to `grow`."""
        # Scaling by a power of two is exact, or underflows to what truncates to 0 all the same.
        scale = values.dtype.type(math.ldexp(1.0, -self.exponent))
        for start in range(0, len(values), _CHUNK):
            chunk = values[start : start + _CHUNK]
            position = (chunk * scale).astype(np.intp)
            position -= chunk < 0
            position -= self.first
            zeros = len(chunk) - int(np.count_nonzero(chunk))
            tally = np.bincount(position, minlength=len(self.counts) + 1)
            tally[-self.first] -= zeros
            self.counts += tally[:-1]
            self.zeros += zeros


def _bins_of(magnitude: float, exponent: int) -> int:
    """How many bins of width 2^exponent reach from zero to and including `magnitude`."""
    if magnitude <= 0:
        return 0
    return math.trunc(math.ldexp(magnitude, -exponent)) + 1


def _smallest_exponent(low: float, high: float, bins: int) -> int:
    """The smallest exponent of a bin width with which `bins` bins cover [low, high]."""
    if low == high:
        return _MIN_EXPONENT
    exponent = math.frexp(max(-low, high))[1] - bins.bit_length() + 1
    while _bins_of(-low, exponent) + _bins_of(high, exponent) > bins:
        exponent += 1
    return max(exponent, _MIN_EXPONENT)
