"""Rounding, dyadic multipliers and scales, as exact statements about rational numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qcompiler import fixed_point
from qcompiler.fixed_point import (
    SMALLEST_SCALE,
    affine_quantization,
    dequantize,
    dyadic,
    excess,
    quantize,
    round_half_up,
    weight_quantization,
)
from qcompiler.graph import Input
from qcompiler.ops import Dequantize, Quantize
from qcompiler.types import Quantization, Storage, TensorType

STORAGES = st.sampled_from(["int4", "uint4", "int8", "uint8", "int16", "uint16", "int24", "uint6"])
REALS = st.floats(-1e6, 1e6)


@given(st.floats(-(2.0**62), 2.0**62))
def test_rounding_is_half_up(value: float) -> None:
    assert round_half_up(value) == (Fraction(value) + Fraction(1, 2)).__floor__()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, 1), (-0.5, 0), (1.5, 2), (-1.5, -1), (0.49999999999999994, 0), (-2.5, -2)],
)
def test_ties(value: float, expected: int) -> None:
    assert round_half_up(value) == expected


# Next to powers of two, multipliers round up to what does not fit.
RATIOS = st.floats(-1e4, 1e4).filter(lambda r: r == 0 or abs(r) > 1e-300)
RATIOS |= st.integers(-70, 10).map(lambda e: 2.0**e * (1 - 2.0**-17))


@given(st.lists(RATIOS, min_size=1, max_size=5), st.integers(16, 32))
def test_dyadic_error_is_as_documented(ratios: list[float], bits: int) -> None:
    multipliers, shift = dyadic(np.array(ratios), bits)
    assert 1 <= shift <= 62
    limit = 1 << bits - 1
    largest = max(abs(Fraction(r)) for r in ratios)
    for m, ratio in zip(multipliers.tolist(), ratios, strict=True):
        assert -limit < m < limit
        error = abs(Fraction(m, 2**shift) - Fraction(ratio))
        assert error <= Fraction(1, 2 ** (shift + 1))
        if abs(ratio) == largest >= Fraction(2) ** (bits - 64):
            assert error <= largest / 2 ** (bits - 1)
        assert (m == 0) or (m > 0) == (ratio > 0)


@pytest.mark.parametrize("bits", [16, 31, 32])
@pytest.mark.parametrize("exponent", [-30, -1, 0, 8])
def test_dyadic_at_powers_of_two(bits: int, exponent: int) -> None:
    power, largest = 2.0**exponent, 2 ** (bits - 1) - 1
    for ratio in (power, power * (1 - 2.0**-40)):
        multiplier, shift = dyadic(ratio, bits)
        assert (int(multiplier), shift) == (2 ** (bits - 2), bits - 2 - exponent)
    multiplier, shift = dyadic(power * (1 - 2.0 ** (1 - bits)), bits)
    assert (int(multiplier), shift) == (largest, bits - 1 - exponent)


def test_dyadic_of_zeros_and_of_what_it_cannot_hold() -> None:
    multipliers, shift = dyadic(np.zeros((2, 1)))
    assert (multipliers.tolist(), shift) == ([[0], [0]], 1)
    assert dyadic(np.zeros(0))[1] == 1
    assert dyadic(np.array([0.0, 0.25]))[0][0] == 0
    assert dyadic(1.5 * 2.0**28)[1] == 1
    assert dyadic(1e-30)[0] == 0  # below 2^-63: the absolute error allows 0
    with pytest.raises(ValueError, match="too large for 31-bit"):
        dyadic(1.5 * 2.0**29)
    with pytest.raises(ValueError, match="expected finite ratios"):
        dyadic(np.array([1.0, np.inf]))
    with pytest.raises(ValueError, match="sums of"):
        dyadic(1.0, largest=1.01 * 2.0**61)


@given(st.floats(1e-6, 1e6), st.floats(1, 1e15))
def test_dyadic_leaves_room(ratio: float, largest: float) -> None:
    multiplier, shift = dyadic(ratio, largest=largest)
    assert Fraction(largest) * 2**shift < 2**62
    assert shift == dyadic(ratio)[1] or Fraction(largest) * 2 ** (shift + 1) > 2**62 - 2**43
    assert abs(Fraction(int(multiplier), 2**shift) - Fraction(ratio)) <= Fraction(
        1, 2 ** (shift + 1)
    )


@given(st.floats(1e-3, 1e12), st.floats(0, 1e25))
@example(1.5 * 2.0**29, 0.0)
@example(2.0**29 * (1 - 2.0**-40), 0.0)  # its multiplier rounds up to a power of two
@example(2.0**29 * (1 - 2.0**-30), 0.0)
@example(1.0, 1.01 * 2.0**61)
@example(1.0, 2.0**61 - 2.0**40)
def test_excess_is_enough_and_hardly_more(ratio: float, largest: float) -> None:
    def held(e: int) -> bool:
        try:
            return dyadic(ratio / 2.0**e, largest=largest / 2.0**e)[1] >= 1
        except ValueError:
            return False

    e = excess(ratio, largest)
    assert e >= 0
    assert held(e)
    spare = 1 if largest else 0  # the bound of `largest` is a power of two
    assert e <= spare or not held(e - 1 - spare)


@given(REALS, REALS, STORAGES, st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_round_trip_is_within_half_a_step(
    a: float, b: float, storage: str, places: list[float]
) -> None:
    q = affine_quantization(min(a, b), max(a, b), storage)
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    values = low + (high - low) * np.array([0, 1, *places])
    step = q.scale[0]
    # one rounding of the scale to float32 moves the ends of the range by at most high·2⁻²⁴ steps
    slack = 1 + 2 * Storage(storage).high * 2.0**-23
    assert np.abs(dequantize(quantize(values, q), q) - values).max() <= 0.5 * step * slack


@given(REALS, REALS, STORAGES)
def test_zero_is_exact(a: float, b: float, storage: str) -> None:
    q = affine_quantization(min(a, b), max(a, b), storage)
    codes = quantize(np.zeros(1), q)
    assert codes[0] == q.zero_point[0]
    assert dequantize(codes, q)[0] == 0.0


@given(REALS, REALS, STORAGES)
def test_signed_storage_is_symmetric_and_scales_are_float32(
    a: float, b: float, storage: str
) -> None:
    q = affine_quantization(min(a, b), max(a, b), storage)
    assert q.scale[0] == float(np.float32(q.scale[0])) >= SMALLEST_SCALE
    assert not Storage(storage).signed or q.zero_point == (0,)


@given(st.lists(st.integers(-128, 127), min_size=1), st.floats(1e-6, 1e6))
def test_codes_survive_a_round_trip(codes: list[int], scale: float) -> None:
    q = Quantization.per_tensor("int8", scale, -7)
    array = np.array(codes, np.int8)
    np.testing.assert_array_equal(quantize(dequantize(array, q), q), array)


@given(st.lists(REALS | st.sampled_from([np.inf, -np.inf, 1e300, -1e300]), min_size=1))
def test_what_does_not_fit_saturates(values: list[float]) -> None:
    q = Quantization.per_tensor("int16", 1e-6, 5)
    codes = quantize(np.array(values), q)
    for code, value in zip(codes.tolist(), values, strict=True):
        if value > 1:
            assert code == 32767
        elif value < -1:
            assert code == -32768


@pytest.mark.parametrize("shape", [(1, 3, 2), (5, 3, 2), (7, 1), (9,), ()])
@pytest.mark.parametrize("elements", [1, 12, 1000])
def test_arrays_are_rounded_alike_in_parts_of_any_size(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], elements: int
) -> None:
    monkeypatch.setattr(fixed_point, "PART", elements)
    values = np.random.default_rng(0).uniform(-3, 3, shape)
    for axis in (None, *range(len(shape))):
        scales = np.linspace(0.1, 0.2, 1 if axis is None else shape[axis])
        q = Quantization("int8", tuple(scales.tolist()), tuple(range(len(scales))), axis)
        exact = np.floor(values / q.scales(len(shape)) + 0.5) + q.zero_points(len(shape))
        np.testing.assert_array_equal(quantize(values, q), exact)


@pytest.mark.parametrize("storage", ["int8", "int4", "int16"])
def test_weights_per_channel(storage: str) -> None:
    rng = np.random.default_rng(0)
    spread = np.array([1e-40, 1e-6, 1, 1e6, 0]).reshape(5, 1, 1)
    weight = (rng.standard_normal((5, 3, 7)) * spread).astype(np.float32)
    q = weight_quantization(weight, storage, 0)
    codes = quantize(weight, q)
    assert np.abs(codes.astype(np.int64)).max() == Storage(storage).high
    assert q.scale[4] == SMALLEST_SCALE
    assert codes[4].tolist() == np.zeros((3, 7)).tolist()
    error = np.abs(dequantize(codes, q) - weight)
    assert (error <= 0.5 * q.scales(3) * (1 + 2.0**-8)).all()


def test_extreme_ranges() -> None:
    assert affine_quantization(0, 0, "uint8").scale == (SMALLEST_SCALE,)
    assert affine_quantization(1e-45, 1e-44, "uint8").scale[0] >= SMALLEST_SCALE
    assert affine_quantization(2, 5, "uint8").zero_point == (0,)
    assert affine_quantization(-5, -2, "uint8").zero_point == (255,)
    largest = affine_quantization(-3e38, 3e38, "uint8")
    assert quantize(np.array([-3e38, 0, 3e38]), largest).tolist() in ([0, 128, 255], [1, 128, 255])


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1),
    st.integers(-12, 4),
    st.sampled_from([("uint8", 100), ("int8", -3), ("int16", 0), ("int6", 1)]),
)
def test_the_op_rounds_as_the_reference_where_the_scale_is_a_power_of_two(
    values: list[float], exponent: int, storage: tuple[str, int]
) -> None:
    array = np.array(values, np.float32)
    q = Quantization.per_tensor(storage[0], 2.0**exponent, storage[1])
    steps = array * 2.0**-exponent
    exact = np.abs(steps) < 2**22  # above, adding 1/2 in float32 rounds; both saturate there
    node = Quantize(Input(TensorType("float32", array.shape), name="x"), q)
    away = np.abs(steps - np.floor(steps) - 0.5) > 1e-6  # float32 rounds 0.5 − 2⁻²⁶ + 0.5 to 1
    ties = steps - np.floor(steps) == 0.5
    checked = exact & (away | ties)
    np.testing.assert_array_equal(node.numpy(array)[checked], quantize(array, q)[checked])


@pytest.mark.parametrize("storage", ["uint8", "int16", "int32", "uint32", "int24"])
@pytest.mark.parametrize("zero", [0, 7])
def test_the_op_dequantizes_all_codes(storage: str, zero: int) -> None:
    bounds = Storage(storage)
    codes = np.array([bounds.low, bounds.low + 1, zero, bounds.high - 1, bounds.high], bounds.dtype)
    q = Quantization.per_tensor(storage, 0.3, zero)
    node = Dequantize(Input(TensorType(bounds.dtype, codes.shape, q), name="x"))
    np.testing.assert_allclose(node.numpy(codes), dequantize(codes, q), rtol=3e-7)
