"""Methods against brute force on the data themselves."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qcompiler.calibrate import Entropy, Histogram, MeanSquaredError, MinMax, Percentile, Statistics
from qcompiler.calibrate.divergence import divergences
from qcompiler.calibrate.quantization_error import quantization_error

generator = np.random.default_rng(1)
TENSORS = {
    "normal": generator.standard_normal(20_000),
    "laplace": generator.laplace(size=20_000),
    "relu": np.maximum(generator.standard_normal(20_000), 0),
    "negative": -np.abs(generator.standard_normal(20_000)),
    "skewed": generator.gamma(2.0, size=20_000) - 0.3,
    "outlier": np.append(generator.standard_normal(20_000), 199.0),
    "lopsided": np.append(-4 * generator.random(9_000), 0.3 * generator.random(9_000)),
    "one far": np.concatenate([-4 * generator.random(20_000), generator.random(20_000), [14.0]]),
    "attention": generator.dirichlet(np.full(100, 0.1), 200).reshape(-1),
}
TENSORS = {name: x.astype(np.float32) for name, x in TENSORS.items()}


def statistics_of(x):
    statistics = Statistics("v")
    statistics.update(np.asarray(x, np.float32))
    return statistics


def error_on_data(x, low, high, levels, symmetric):
    """Mean squared error of actually quantizing x."""
    if symmetric:
        bound = (levels - 1) // 2
        scale, first, last = high / bound, -bound, bound
    else:
        scale = (high - low) / (levels - 1)
        first = -math.floor(-low / scale + 0.5)
        last = levels - 1 + first
    codes = np.clip(np.floor(x / scale + 0.5), first, last)
    return float(np.mean((x - codes * scale) ** 2))


@given(
    arrays(np.float32, st.integers(1, 300), elements=st.floats(-100, 100, width=32)),
    st.floats(1, 100),
)
def test_percentile_clips_the_least_bins_that_hold_the_share(x, percentile):
    statistics = statistics_of(x)
    width = statistics.histogram.width
    share = (1 - percentile / 100) * x.size
    low, high = statistics.range(Percentile(percentile), 256, symmetric=False)
    assert np.count_nonzero(x > high) <= share / 2
    assert np.count_nonzero(x < low) <= share / 2
    assert high <= width or np.count_nonzero(x >= high - width) > share / 2
    assert low >= -width or np.count_nonzero(x <= low + width) > share / 2
    _, bound = statistics.range(Percentile(percentile), 256, symmetric=True)
    assert np.count_nonzero(np.abs(x) > bound) <= share
    assert bound <= width or np.count_nonzero(np.abs(x) >= bound - width) > share


def test_percentile_on_known_data():
    x = np.arange(1, 10_001, dtype=np.float32)
    low, high = statistics_of(x).range(Percentile(99.0), 256, symmetric=True)
    assert (low, high) == (-9904.0, 9904.0)  # bins of 4: at most 100 of 1..10000 are above
    assert statistics_of(x).range(Percentile(100), 256, False) == (0.0, 10_000.0)


@pytest.mark.parametrize("percentile", [0, -1, 100.1, math.nan])
def test_percentile_must_be_one(percentile):
    with pytest.raises(ValueError, match="percentile must be in"):
        Percentile(percentile)


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("levels", [16, 256])
def test_squared_error_is_within_3_per_cent_of_the_best_symmetric_range(name, levels):
    x = TENSORS[name].astype(np.float64)
    low, high = statistics_of(x).range(MeanSquaredError(), levels, symmetric=True)
    full = np.abs(x).max()
    best = min(error_on_data(x, -full * f, full * f, levels, True) for f in np.arange(1, 401) / 400)
    assert error_on_data(x, low, high, levels, True) <= 1.03 * best


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("levels", [16, 256])
def test_squared_error_is_within_3_per_cent_of_the_best_asymmetric_range(name, levels):
    x = TENSORS[name].astype(np.float64)
    low, high = statistics_of(x).range(MeanSquaredError(), levels, symmetric=False)
    least, most = min(x.min(), 0.0), max(x.max(), 0.0)
    fractions = 1.2 ** -np.arange(30.0)
    best = min(
        error_on_data(x, least * f, most * g, levels, False) for f in fractions for g in fractions
    )
    assert error_on_data(x, low, high, levels, False) <= 1.03 * best


@pytest.mark.parametrize("levels", [3, 16, 255, 256, 65536])
@pytest.mark.parametrize("symmetric", [False, True])
def test_quantization_error_is_that_of_values_spread_over_their_bins(levels, symmetric):
    histogram = Histogram(16)
    histogram.grow(-5.0, 9.0)
    histogram.add(np.array([-4.5, -0.5, 0.25, 0.75, 8.9], np.float32))
    low, high = (-6.0, 6.0) if symmetric else (-3.0, 7.5)
    spread = (np.arange(200_000) + 0.5) / 200_000
    x = np.concatenate(
        [
            (e + spread)
            for e, c in zip(histogram.edges, histogram.counts, strict=False)
            for _ in range(c)
        ]
    )
    expected = 5 * error_on_data(x, low, high, levels, symmetric)
    found = quantization_error(histogram, np.array([[low, high]]), levels, symmetric)
    assert found[0] == pytest.approx(expected, rel=1e-4)


def test_squared_error_clips_normal_data_where_the_literature_does():
    # Banner et al. (NeurIPS 2019): 2.55 σ is optimal for 4 bits, 3.92 σ for 8 bits.
    x = np.random.default_rng(0).standard_normal(1_000_000)
    assert statistics_of(x).range(MeanSquaredError(), 16, True)[1] == pytest.approx(2.5, abs=0.1)
    assert statistics_of(x).range(MeanSquaredError(), 256, True)[1] == pytest.approx(3.92, abs=0.15)


def test_divergence_follows_its_definition():
    counts = np.array([4, 0, 2, 6, 1, 1, 0, 2])
    candidates, found = divergences(counts, 2)
    assert candidates.tolist() == [3, 4, 5, 6, 7, 8]
    # 4 bins kept: P = 4 0 2 10; groups (4 0) (2 6) make Q = 4 0 4 4 of 12.
    p, q = np.array([4, 2, 10]) / 16, np.array([4, 4, 4]) / 12
    assert found[1] == pytest.approx(float(np.sum(p * np.log(p / q))))
    # 7 bins kept: what is beyond comes to the last bin, whose group (6 1 1 0) has mass.
    # 8 bins kept: nothing is beyond; groups (4 0 2 6) (1 1 0 2).
    p, q = np.array([4, 2, 6, 1, 1, 2]) / 16, np.array([4, 4, 4, 4 / 3, 4 / 3, 4 / 3]) / 16
    assert found[5] == pytest.approx(float(np.sum(p * np.log(p / q))))


def test_divergence_never_invents_mass():
    counts = np.zeros(400, np.int64)
    counts[:10], counts[399] = 100, 1
    candidates, found = divergences(counts, 8)
    assert math.isinf(found[np.searchsorted(candidates, 300)])
    assert math.isfinite(found[-1])


@pytest.mark.parametrize("name", ["normal", "laplace", "outlier"])
def test_entropy_minimises_the_divergence(name):
    x = np.append(TENSORS[name], np.zeros(50_000))
    statistics = statistics_of(x)
    low, high = statistics.range(Entropy(), 256, symmetric=True)
    histogram = statistics.histogram
    candidates, found = divergences(histogram.magnitude, 128)
    chosen = candidates[np.argmin(found)]
    assert high == min(chosen * histogram.width, float(np.abs(x).max()))
    assert low == -high


def test_entropy_ignores_zeros_and_uses_all_levels_for_one_sign():
    x = np.abs(np.random.default_rng(0).laplace(size=100_000))
    padded = np.append(x, np.zeros(1_000_000))
    one_sided = statistics_of(x).range(Entropy(), 256, symmetric=False)
    assert statistics_of(padded).range(Entropy(), 256, symmetric=False) == one_sided
    assert one_sided == (0.0, statistics_of(x).range(Entropy(), 512, symmetric=True)[1])


def test_entropy_keeps_everything_where_levels_outnumber_bins():
    statistics = statistics_of(TENSORS["normal"])
    assert statistics.range(Entropy(), 65536, False) == statistics.range(MinMax(), 65536, False)


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Percentile().percentile = 3  # type: ignore[misc]
