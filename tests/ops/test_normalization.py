"""Integer normalization: error bounds as documented, exact integers, and degenerate rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from exact import assert_exact
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.graph import Input
from qcompiler.ops import IntegerLayerNorm, NormalizeInteger
from qcompiler.ops.normalization import IntegerNormalization
from qcompiler.types import TensorType

FORMS = (NormalizeInteger, IntegerLayerNorm)
FEW = settings(max_examples=40)


def codes(dtype: str, *shape: int) -> Input:
    return Input(TensorType(dtype, shape), name="x")


def random(seed: int, dtype: str, n: int) -> np.ndarray:
    """Rows of all deviations: the widest, ordinary, ±1, a single 1, constants, extremes."""
    rng, info = np.random.default_rng(seed), np.iinfo(dtype)
    x = rng.integers(info.min, info.max, (8, n), dtype, endpoint=True)
    x[1] = x[1] % 50
    x[2] = 7 + x[2] % 2
    x[3], x[3, 0] = 5, 6
    x[4] = x[4, 0]
    x[5] = info.max
    x[6] = info.min
    x[7] = np.where(np.arange(n) % 2, info.max, info.min)
    return x


def bound(node: IntegerNormalization, x: np.ndarray) -> np.ndarray:
    """The documented error per row, in real numbers."""
    n, m = node.count, math.hypot(node.x.type.magnitude(), math.sqrt(node.epsilon))
    wide = x.astype(np.float64)
    spread = (wide - wide.mean(1, keepdims=True) if node.center else wide).copy()
    deviation = np.sqrt(np.square(spread).mean(1) + node.epsilon)
    # Where the variance is 0, so is the result.
    inverse = m / (np.where(deviation > 0, deviation, 1) * 2.0**29.5)  # 1/√V at most
    root = math.sqrt(n) * inverse
    error = math.sqrt(n) * (2.0**-27 + 0.25 * inverse**2)
    error += root * isinstance(node, IntegerLayerNorm)
    # Where squares do not fit, deviations are rounded to multiples of a power of two.
    factor = n if node.center else 1
    rounds = n * (factor * m) ** 2 >= 2.0**60
    return error + 0.5 * root * rounds


def real(node: IntegerNormalization, x: np.ndarray) -> np.ndarray:
    wide = x.astype(np.float64)
    spread = wide - wide.mean(1, keepdims=True) if node.center else wide
    deviation = np.sqrt(np.square(spread).mean(1, keepdims=True) + node.epsilon)
    return np.divide(spread, deviation, out=np.zeros_like(spread), where=deviation > 0)


@pytest.mark.parametrize("cls", FORMS)
@FEW
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["uint8", "int8", "int16", "uint16"]),
    n=st.integers(1, 70),
    epsilon=st.sampled_from([0.0, 1e-6, 0.3, 1e4, 1e30]),
    center=st.booleans(),
)
def test_the_error_is_as_documented(
    cls: type[IntegerNormalization], seed: int, dtype: str, n: int, epsilon: float, center: bool
) -> None:
    x = random(seed, dtype, n)
    node = cls(codes(dtype, *x.shape), (1,), epsilon, center)
    found = assert_exact(node, x) * node.quantization.scale[0]
    assert (np.abs(found - real(node, x)).max(1) <= bound(node, x)).all()


@pytest.mark.parametrize("cls", FORMS)
@pytest.mark.parametrize("n", [197, 384, 768, 1024, 4096])
def test_long_rows(cls: type[IntegerNormalization], n: int) -> None:
    x = random(n, "int16", n)
    for center in (True, False):
        node = cls(codes("int16", *x.shape), (1,), 0.0, center)
        found = (assert_exact(node, x) if n < 1000 else node.numpy(x)) * node.quantization.scale[0]
        assert (np.abs(found - real(node, x)).max(1) <= bound(node, x)).all()


@pytest.mark.parametrize("cls", FORMS)
@pytest.mark.parametrize("value", [-32768, 0, 1, 32767])
def test_zero_variance_gives_zeros(cls: type[IntegerNormalization], value: int) -> None:
    x = np.full((3, 384), value, np.int16)
    for epsilon in (0.0, 1e-5):
        assert not assert_exact(cls(codes("int16", *x.shape), (1,), epsilon), x).any()
    assert not assert_exact(cls(codes("int16", *x.shape), (1,), 0.0, False), x * 0).any()


@pytest.mark.parametrize("cls", FORMS)
def test_a_common_offset_cancels(cls: type[IntegerNormalization]) -> None:
    x = np.random.default_rng(0).integers(-900, 900, (5, 192)).astype(np.int16)
    node = cls(codes("int16", *x.shape), (1,), 0.01)
    assert (node.numpy(x) == node.numpy(x + np.int16(30000))).all()


def test_sums_of_squares_of_the_widest_rows_do_not_overflow() -> None:
    """uint32 would overflow at rms 3344 with 384 channels."""
    for n in (384, 768):
        x = np.where(np.arange(n) % 2, 32767, -32768).astype(np.int16)[None]
        for cls in FORMS:
            node = cls(codes("int16", 1, n), (1,), 0.0)
            found = assert_exact(node, x) * node.quantization.scale[0]
            assert np.abs(np.abs(found) - 1).max() <= 2.0**-13


@pytest.mark.parametrize("cls", FORMS)
def test_deviations_of_the_widest_long_rows_do_not_overflow(
    cls: type[IntegerNormalization],
) -> None:
    n = 1 << 16  # n·q is up to 2^31
    x = np.full((1, n), 32767, np.int16)
    x[0, : n // 2] = -32768
    found = cls(codes("int16", 1, n), (1,), 0.0).numpy(x)
    assert (np.sign(found) == np.sign(x)).all()
    assert len(np.unique(np.abs(found.astype(np.int64)) >> 8)) <= 2


@pytest.mark.parametrize("n", [1, 3, 64, 1000])
@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 1.0, 3000.0, 16384.0, 16385.0, 1e9])
@pytest.mark.parametrize("center", [True, False])
def test_variances_fill_the_bits_that_they_have(n: int, epsilon: float, center: bool) -> None:
    node = NormalizeInteger(codes("int8", 1, n), (1,), epsilon, center)
    factor = n if center else 1
    largest = n * (factor * 128) ** 2 + math.ceil(epsilon * n * factor**2)
    bits = largest.bit_length() + 2 * node.lift
    assert 60 <= bits <= 61


def test_the_root_of_small_variances() -> None:
    """From a fixed seed of 2^16, ten steps do not reach small roots."""
    for n in (2, 64, 192):
        x = np.arange(n, dtype=np.int8)[None] % 2
        node = IntegerLayerNorm(codes("int8", 1, n), (1,), 0.0)
        found = node.numpy(x) * node.quantization.scale[0]
        assert np.abs(np.abs(found) - 1).max() <= 2.0**-19
