"""I-ViT's shift forms: error bounds as documented, exact integers, and the traps of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from exact import assert_exact
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from qcompiler.errors import TypingError
from qcompiler.graph import Input
from qcompiler.ops import ShiftExponentials, ShiftGELU, Shiftmax
from qcompiler.types import Quantization, TensorType

SCALES = st.floats(-20, 10).map(lambda e: 2.0**e)
SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from(["uint8", "int8"])
FEW = settings(max_examples=40)


def codes(dtype: str, shape: tuple[int, ...], scale: float, zero: int = 0) -> Input:
    return Input(TensorType(dtype, shape, Quantization.per_tensor(dtype, scale, zero)), name="x")


def boolean(*shape: int) -> Input:
    return Input(TensorType("bool", shape), name="mask")


def random(seed: int, dtype: str, *shape: int) -> np.ndarray:
    """Rows that are uniform, narrow, constant, or one peak above or below all others."""
    rng, info = np.random.default_rng(seed), np.iinfo(dtype)
    x = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    x[1::5] = np.clip(x[1::5].astype(int) % 16 + info.min + 90, info.min, info.max)
    x[2::5] = x[2::5, :1]
    x[3::5], x[3::5, -1] = info.min, info.max
    x[4::5], x[4::5, 0] = info.max, info.min
    return x


def softmax(x: np.ndarray, scale: float) -> np.ndarray:
    return special.softmax(scale * x.astype(np.float64), axis=-1)


@FEW
@given(SEEDS, DTYPES, SCALES, st.integers(1, 30))
def test_exponentials_are_within_12_codes(seed: int, dtype: str, scale: float, n: int) -> None:
    x = random(seed, dtype, 6, 37)
    found = assert_exact(ShiftExponentials(codes(dtype, x.shape, scale), 1, n=n), x)
    wide = x.astype(np.int64)
    exact = 255 * np.exp(scale * (wide - wide.max(1, keepdims=True)))
    assert np.abs(found - exact).max() <= 12
    assert (found[wide == wide.max(1, keepdims=True)] == 255).all()


@FEW
@given(SCALES)
def test_exponentials_are_those_of_the_paper(scale: float) -> None:
    """Eq. 11–13 in real numbers: log2(e) is 1.0111 in binary, and 2^−r is 1 − r/2."""
    x = np.arange(256, dtype=np.uint8)[None]
    whole, rest = np.divmod(1.4375 * scale * (255 - np.arange(256)), 1)
    exact = 255 * (1 - rest / 2) * 2.0**-whole
    found = ShiftExponentials(codes("uint8", x.shape, scale), 1).numpy(x)[0]
    assert np.abs(found - exact).max() <= 0.51


def test_exponentials_of_all_differences_fall_monotonically() -> None:
    x = np.arange(256, dtype=np.uint8)[None]
    for scale in np.geomspace(1e-3, 10, 60):
        found = ShiftExponentials(codes("uint8", x.shape, float(scale)), 1).numpy(x)[0]
        assert (np.diff(found.astype(int)) >= 0).all()


@FEW
@given(SEEDS, DTYPES, SCALES, st.sampled_from(["uint8", "int8", "uint16", "int16"]))
def test_shiftmax_is_near_softmax(seed: int, dtype: str, scale: float, storage: str) -> None:
    x = random(seed, dtype, 6, 29)
    node = Shiftmax(codes(dtype, x.shape, scale), 1, storage=storage)
    step = node.quantization.scale[0]
    found = assert_exact(node, x) * step
    assert np.abs(found - softmax(x, scale)).max() <= 0.03 + step  # 1 is the largest code


@pytest.mark.parametrize("n", [197, 1024, 4096])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_shiftmax_of_long_rows(n: int, dtype: str) -> None:
    for seed, scale in enumerate((1e-4, 0.02, 0.1, 0.7, 20.0)):
        x = random(seed, dtype, 10, n)
        node = Shiftmax(codes(dtype, x.shape, scale), 1)
        step = node.quantization.scale[0]
        found = (assert_exact if n == 197 else Shiftmax.numpy)(node, x) * step
        assert np.abs(found - softmax(x, scale)).max() <= 0.03 + step
        assert np.abs(found.sum(1) - 1).max() <= n * step / 2 + 2.0**-15


def test_the_worst_of_long_rows_is_within_the_bound() -> None:
    """Half of the probability lies with elements whose exponentials are 10 % too large."""
    for low, scale in ((0, np.log(4096) / 255), (200, np.log(197) / 55), (246, np.log(4096) / 9)):
        x = np.full((1, 4096), low, np.uint8)
        x[0, 0] = 255
        found = Shiftmax(codes("uint8", x.shape, float(scale)), 1).numpy(x) * 2.0**-16
        assert np.abs(found - softmax(x, scale)).max() <= 0.03


def test_rows_of_8_bits_underflow_and_of_16_do_not() -> None:
    x = np.random.default_rng(0).integers(100, 140, (9, 1024)).astype(np.uint8)
    sums = {
        storage: (
            Shiftmax(codes("uint8", x.shape, 0.02), 1, storage=storage).numpy(x).astype(int).sum(1)
            * 2.0**-bits
        )
        for storage, bits in (("uint8", 8), ("uint16", 16))
    }
    assert sums["uint8"].max() < 0.6
    assert np.abs(sums["uint16"] - 1).max() < 0.01


@FEW
@given(SEEDS, DTYPES, SCALES)
def test_masked_elements_are_exactly_0(seed: int, dtype: str, scale: float) -> None:
    x = random(seed, dtype, 6, 23)
    keep = np.random.default_rng(seed).integers(0, 3, x.shape) == 0
    keep[0], keep[1] = False, True
    operands = (codes(dtype, x.shape, scale), 1, boolean(*x.shape))
    for node in (ShiftExponentials(*operands), Shiftmax(*operands)):
        found = assert_exact(node, x, keep)
        assert (found[~keep] == 0).all()
        for row, kept, result in zip(x[1:], keep[1:], found[1:], strict=True):
            if kept.any():
                alone = type(node)(codes(dtype, (1, int(kept.sum())), scale), 1)
                assert (result[kept] == alone.numpy(row[kept][None])[0]).all()


@pytest.mark.parametrize("cls", [ShiftExponentials, Shiftmax])
def test_any_axis_may_be_that_of_a_distribution(cls: type[Shiftmax]) -> None:
    x = random(0, "int8", 7, 6)
    across = cls(codes("int8", (6, 7), 0.1), 0).numpy(np.ascontiguousarray(x.T))
    along = cls(codes("int8", (7, 6), 0.1), 1).numpy(x)
    assert (along == across.T).all()


def test_gelu_of_codes_that_are_never_positive() -> None:
    node = ShiftGELU(codes("uint8", (1, 256), 0.1, zero=255), 1)
    assert node.least_n == 1
    assert np.abs(gelu(node, np.arange(256, dtype=np.uint8)[None])).max() < 0.3


def test_constant_rows_are_uniform() -> None:
    for value in (0, 7, 255):
        x = np.full((2, 128), value, np.uint8)
        assert (Shiftmax(codes("uint8", x.shape, 0.1), 1).numpy(x) == 512).all()


@pytest.mark.parametrize(
    ("n", "size", "message"),
    [(0, 4, "n of 1…30, found 0"), (31, 4, "n of 1…30"), (22, 257, "rows of at most 256 with n")],
)
def test_what_would_overflow_is_refused(n: int, size: int, message: str) -> None:
    with pytest.raises(TypingError, match=message):
        Shiftmax(codes("uint8", (1, size), 0.1), 1, n=n)


def gelu(node: ShiftGELU, x: np.ndarray) -> np.ndarray:
    rank = x.ndim
    assert node.quantization is not None
    return assert_exact(node, x) * node.quantization.scales(rank)


@FEW
@given(SEEDS, DTYPES, st.floats(-12, 7).map(lambda e: 2.0**e), st.integers(0, 255))
def test_gelu_is_within_its_bound(seed: int, dtype: str, scale: float, zero: int) -> None:
    zero = zero if dtype == "uint8" else zero - 128
    x = random(seed, dtype, 6, 31)
    found = gelu(ShiftGELU(codes(dtype, x.shape, scale, zero), 1), x)
    real = (x.astype(np.int64) - zero) * scale
    slack = 2.0**-15 * np.abs(real)
    assert (np.abs(found - real * special.expit(1.702 * real)) <= 0.012 + slack).all()
    assert (np.abs(found - real * special.ndtr(real)) <= 0.03 + slack).all()


def test_gelu_of_every_code_with_every_maximum() -> None:
    x = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).reshape(-1, 2).astype(np.uint8)
    for scale, zero in ((0.02, 128), (0.0093, 0), (0.0121, 0), (0.1, 200), (1.6, 128)):
        node = ShiftGELU(codes("uint8", x.shape, scale, zero), 1)
        real = (x.astype(np.int64) - zero) * scale
        error = np.abs(node.numpy(x) * node.quantization.scale[0] - real * special.ndtr(real))
        assert (error <= 0.03 + 2.0**-15 * np.abs(real)).all()


def test_gelu_of_large_values() -> None:
    """−9.5 beside large values gives −4.7 where exponentials underflow to the same code."""
    for scale in (0.1, 0.5, 9.5, 40.0):
        x = np.array([[-95, 127, 0, -128]], np.int8)
        real = x * scale
        found = gelu(ShiftGELU(codes("int8", x.shape, scale), 1), x)
        assert np.abs(found - np.maximum(real, 0)).max() <= 1e-3 + 2.0**-15 * 127 * scale


def test_gelu_of_negative_rows() -> None:
    """The maximum counts from 0: otherwise −max would be positive."""
    x = np.full((1, 9), -100, np.int8)
    real = -100 * 0.01
    found = gelu(ShiftGELU(codes("int8", x.shape, 0.01), 1), x)
    assert np.abs(found - real * special.ndtr(real)).max() <= 0.03


def test_gelu_per_channel() -> None:
    q = Quantization("int8", (0.1, 0.0125, 1.6), (0, 0, 0), 1)
    x = np.random.default_rng(0).integers(-128, 128, (50, 3)).astype(np.int8)
    found = gelu(ShiftGELU(Input(TensorType("int8", x.shape, q), name="x"), 1), x)
    real = x * np.array(q.scale)
    assert (np.abs(found - real * special.ndtr(real)) <= 0.03 + 2.0**-15 * np.abs(real)).all()


@pytest.mark.parametrize("n", [15, 19, 29])
def test_gelu_refuses_an_n_that_underflows(n: int) -> None:
    with pytest.raises(TypingError, match=r"shift_gelu: expected n of 20…28, or exponentials of"):
        ShiftGELU(codes("int8", (1, 9), 0.1), 1, n)
    assert ShiftGELU(codes("int8", (1, 9), 0.1), 1, 23).n == 23
