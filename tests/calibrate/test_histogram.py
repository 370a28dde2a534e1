"""The histogram: exact counts, a range that covers, and no trace of order or batches."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qcompiler.calibrate import Histogram

FLOAT32_MAX = float(np.finfo(np.float32).max)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
data = arrays(np.float32, st.integers(0, 60), elements=finite)


def filled(batches, bins=64):
    histogram = Histogram(bins)
    low = high = 0.0
    for batch in batches:
        if batch.size:
            low, high = min(low, float(batch.min())), max(high, float(batch.max()))
            histogram.grow(low, high)
            histogram.add(batch)
    return histogram


def state(histogram):
    return histogram.exponent, histogram.first, histogram.zeros, histogram.counts.tolist()


def brute_force(values, histogram):
    """Counts by Python's exact arithmetic, one value at a time."""
    counts = [0] * len(histogram.counts)
    for value in values.tolist():
        if value:
            index = math.trunc(math.ldexp(value, -histogram.exponent)) - (value < 0)
            counts[index - histogram.first] += 1
    return counts


@given(data)
def test_counts_are_those_of_brute_force_and_none_is_lost(values):
    histogram = filled([values])
    assert histogram.counts.tolist() == brute_force(values, histogram)
    assert histogram.zeros == np.count_nonzero(values == 0)
    assert histogram.counts.sum() + histogram.zeros == values.size


@given(data)
def test_range_covers_and_no_finer_width_would(values):
    histogram = filled([values])
    low, high = min(values.min(initial=0), 0), max(values.max(initial=0), 0)
    edges = histogram.edges * histogram.width
    assert edges[0] <= low
    assert high <= edges[-1]
    if histogram.exponent > -126:
        half = histogram.width / 2
        needed = sum(math.trunc(float(m) / half) + 1 for m in (-low, high) if m > 0)
        assert needed > len(histogram.counts)


@given(data, st.lists(st.integers(0, 60), max_size=6), st.randoms())
def test_same_for_any_split_and_order(values, cuts, random):
    shuffled = values.copy()
    random.shuffle(shuffled)
    parts = np.split(shuffled, sorted(min(c, values.size) for c in cuts))
    assert state(filled(parts)) == state(filled([values]))


@given(data)
def test_sides_and_magnitude_fold_the_counts(values):
    histogram = filled([values])
    mirrored = filled([-values])
    assert histogram.exponent == mirrored.exponent
    assert np.trim_zeros(histogram.positive, "b").tolist() == (
        np.trim_zeros(mirrored.negative, "b").tolist()
    )
    magnitudes = [0] * len(histogram.counts)
    for value in values[values != 0].tolist():
        magnitudes[math.trunc(math.ldexp(abs(value), -histogram.exponent))] += 1
    assert histogram.magnitude.tolist() == magnitudes


@pytest.mark.parametrize(
    "batches",
    [
        [[0.0, -0.0, 0.0]],
        [[0.0] * 4, [3.0, -1.0]],
        [[5.0] * 7],
        [[-5.0] * 7],
        [[1e-45, -1e-45, 3e-39], [1.0]],
        [[1.0, 2.0], [FLOAT32_MAX, -FLOAT32_MAX]],
        [[1e-3] * 100, [1e30]],
        [[], [1.0]],
    ],
    ids=["zeros", "zeros first", "5", "-5", "denormals", "extremes", "outlier", "empty"],
)
def test_hard_cases(batches):
    batches = [np.array(b, np.float32) for b in batches]
    values = np.concatenate(batches)
    histogram = filled(batches)
    assert histogram.counts.tolist() == brute_force(values, histogram)
    assert histogram.zeros == np.count_nonzero(values == 0)
    assert math.isfinite(histogram.width)


def test_float64_extremes():
    values = np.array([sys.float_info.max, -sys.float_info.max, 1.0])
    histogram = filled([values])
    assert histogram.counts.tolist() == brute_force(values, histogram)


def test_large_arrays_are_counted_across_chunks():
    values = np.random.default_rng(0).standard_normal(200_001).astype(np.float32)
    histogram = filled([values], 4096)
    expected, _ = np.histogram(
        values.astype(np.float64), histogram.edges.astype(np.float64) * histogram.width
    )
    # No sample sits on an edge, where numpy closes the negative bins on the other side.
    assert histogram.counts.tolist() == expected.tolist()


@pytest.mark.parametrize("bins", [0, 8, 100])
def test_refuses_bins_that_do_not_halve(bins):
    with pytest.raises(ValueError, match="power of two"):
        Histogram(bins)
