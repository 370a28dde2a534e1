"""Statistics: exact extremes, fixed memory, ranges around zero, refusals by name."""

import gc
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from qcompiler.calibrate import METHODS, MinMax, MovingAverage, Percentile, Statistics
from qcompiler.errors import CalibrationError

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
batches = st.lists(arrays(np.float32, array_shapes(max_side=5), elements=finite), min_size=1)


def seen(*arrays_, **options):
    statistics = Statistics("v", **options)
    for array in arrays_:
        statistics.update(np.asarray(array))
    return statistics


@given(batches)
def test_extremes_and_counts_are_exact(parts):
    statistics = seen(*parts)
    together = np.concatenate([p.reshape(-1) for p in parts])
    assert statistics.minimum == together.min()
    assert statistics.maximum == together.max()
    assert statistics.count == together.size
    assert statistics.batches == len(parts)
    assert statistics.histogram.counts.sum() + statistics.histogram.zeros == together.size


@given(batches, st.sampled_from(sorted(METHODS)), st.booleans(), st.sampled_from([3, 16, 255, 256]))
def test_every_range_contains_zero_and_stays_within_the_extremes(parts, name, symmetric, levels):
    statistics = seen(*parts)
    low, high = statistics.range(METHODS[name](), levels, symmetric)
    assert type(low) is float
    assert type(high) is float
    assert low <= 0 <= high
    bound = max(-statistics.minimum, statistics.maximum, 0.0)
    if symmetric:
        assert low == -high
        assert high <= bound
    else:
        assert min(statistics.minimum, 0.0) <= low
        assert high <= max(statistics.maximum, 0.0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("value", [5.0, -5.0, 1e-45, 3.4e38])
def test_constant_tensors_keep_their_value(name, symmetric, value):
    statistics = seen(np.full(50, value, np.float32))
    low, high = statistics.range(METHODS[name](), 256, symmetric)
    assert max(-low, high) == abs(float(np.float32(value)))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("symmetric", [False, True])
def test_only_zeros_give_an_empty_range(name, symmetric):
    ends = seen(np.zeros(9, np.float32)).range(METHODS[name](), 256, symmetric)
    assert [str(end) for end in ends] == ["0.0", "0.0"]


def test_moving_average_follows_its_definition():
    statistics = seen([0.0, 1.0], [-1.0, 3.0], [], [2.0, 2.0], momentum=0.75)
    high = 0.75 * (0.75 * 1.0 + 0.25 * 3.0) + 0.25 * 2.0
    low = 0.75 * (0.75 * 0.0 + 0.25 * -1.0) + 0.25 * 2.0
    assert (statistics.average_minimum, statistics.average_maximum) == (low, high)
    assert statistics.range(MovingAverage(), 256, False) == (min(low, 0.0), high)


@pytest.mark.parametrize("axis", [1, -2])
def test_extremes_per_channel(axis):
    x = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    statistics = seen(x[:2], x[2:], axis=axis)
    assert statistics.channel_minimum.tolist() == x.min((0, 2)).tolist()
    assert statistics.channel_maximum.tolist() == x.max((0, 2)).tolist()


def test_channels_must_stay_and_exist():
    with pytest.raises(CalibrationError, match="'v' has 4 channels along axis 1 after 3"):
        seen(np.ones((2, 3)), np.ones((2, 4)), axis=1)
    with pytest.raises(CalibrationError, match=r"'v' has shape \[2\], which has no axis 1"):
        seen(np.ones(2), axis=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_by_name(bad):
    with pytest.raises(CalibrationError, match="value 'v' holds NaN or infinity after 1 good"):
        seen([1.0], [0.0, bad, 1.0])


@pytest.mark.parametrize("bad", [np.array(["a"]), np.array([1j]), [1.0]])
def test_what_is_no_tensor_of_numbers_is_refused_by_name(bad):
    with pytest.raises(CalibrationError, match=r"value 'v' is .*not a tensor of numbers"):
        Statistics("v").update(bad)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "float16", "float64"])
def test_other_dtypes(dtype):
    statistics = seen(np.array([0, 1, 1], dtype))
    assert statistics.range(MinMax(), 256, False) == (0.0, 1.0)
    assert statistics.histogram.zeros == 1


def test_misuse():
    with pytest.raises(CalibrationError, match="'v' has no statistics: run at least one"):
        seen(np.empty((0, 3), np.float32)).range(MinMax(), 256, False)
    with pytest.raises(ValueError, match="at least 3 levels, not 2"):
        seen([1.0]).range(MinMax(), 2, False)
    with pytest.raises(ValueError, match="'v' were collected without a histogram"):
        seen([1.0], bins=0).range(Percentile(), 256, False)
    with pytest.raises(ValueError, match="momentum"):
        Statistics("v", momentum=1.0)
    assert seen([1.0], bins=0).range(MinMax(), 256, False) == (0.0, 1.0)


def test_memory_does_not_grow_with_the_samples():
    generator = np.random.default_rng(0)

    def held(samples):
        statistics = Statistics("v", axis=1)
        batch = generator.standard_normal((1, 8, 16)).astype(np.float32)
        tracemalloc.start()
        for number in range(samples):
            statistics.update(batch * (1 + number))
        gc.collect()
        now, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return now, peak

    held(10)  # numpy's own caches
    few, many = held(10), held(10_000)
    assert abs(many[0] - few[0]) < 1024
    assert many[1] < few[1] + (1 << 20)  # what awaits the garbage collector; the samples are 5 MB
