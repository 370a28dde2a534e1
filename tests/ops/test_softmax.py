"""Softmax by table: exact integers, documented errors, masks, and rows that sum to one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from exact import assert_exact
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.graph import Constant, Input
from qcompiler.ops import Average, Exponentials, MatMulInteger, Reciprocal, ReduceSum
from qcompiler.types import TensorType

SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from(["uint8", "int8"])
FEW = settings(max_examples=50)


def given_type(dtype: str, *shape: int) -> Input:
    return Input(TensorType(dtype, shape), name="x")


def table(scale: float, dtype: str) -> Constant:
    reals = np.exp(scale * (np.arange(256) - 255)) * np.iinfo(dtype).max
    return Constant(np.floor(reals + 0.5).astype(dtype))


def rows(seed: int, dtype: str, *shape: int) -> np.ndarray:
    rng, info = np.random.default_rng(seed), np.iinfo(dtype)
    x = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    x[1] = x[1, :1]
    x[2], x[2, 0] = info.min, info.max
    return x


@FEW
@given(SEEDS, DTYPES, st.floats(-12, 3), st.sampled_from(["uint8", "int16"]), st.booleans())
def test_exponentials_are_within_half_a_code(
    seed: int, dtype: str, exponent: float, width: str, masked: bool
) -> None:
    x, scale = rows(seed, dtype, 5, 33), 2.0**exponent
    values, keep = table(scale, width), np.ones((5, 33), bool)
    if masked:
        keep = np.random.default_rng(seed).integers(0, 4, x.shape) == 0
        keep[4] = False
    mask = given_type("bool", 5, 33) if masked else None
    node = Exponentials(given_type(dtype, 5, 33), values, 1, mask)
    found = assert_exact(node, x, values.array, *([keep] if masked else []))
    wide = np.where(keep, x.astype(np.float64), -np.inf)
    largest = wide.max(1, keepdims=True)
    exact = np.exp(scale * (wide - np.where(np.isinf(largest), 0, largest)))
    error = np.abs(found - exact * np.iinfo(width).max)
    assert error.max() <= 0.5 + 1e-9
    assert not found[~keep].any()


@given(st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 99), min_size=1))
def test_reciprocal_rounds_to_the_nearest(totals: list[int]) -> None:
    x = np.array(totals, np.int32)
    found = assert_exact(Reciprocal(given_type("int32", len(x))), x)
    for total, r in zip(totals, found.tolist(), strict=True):
        assert abs(r - Fraction(2**46, max(total, 1))) <= Fraction(1, 2)


@FEW
@given(SEEDS, st.integers(1, 2**24 - 1), st.integers(-128, 127))
def test_average_is_within_its_bound(seed: int, total: int, value: int) -> None:
    """Half a unit of 2^−23, and half a unit of the reciprocal times the sum."""
    rng = np.random.default_rng(seed)
    weighted = np.concatenate([rng.integers(-128 * total, 127 * total, 9), [value * total]])
    weighted = weighted.astype(np.int32)
    reciprocal = Reciprocal(given_type("int32", 1)).numpy(np.array([total], np.int32))
    node = Average(given_type("int32", 10), given_type("int64", 1))
    found = assert_exact(node, weighted, reciprocal)
    for w, code in zip(weighted.tolist(), found.tolist(), strict=True):
        exact = Fraction(w, total) * 2**23
        assert abs(code - exact) <= Fraction(1, 2) + Fraction(abs(w), 2**24)


@pytest.mark.parametrize("n", [1, 197, 1024, 4096])
@pytest.mark.parametrize("width", ["uint8", "int16"])
def test_rows_sum_to_one(n: int, width: str) -> None:
    """The weights in a row average a constant to that constant: the sum is exact."""
    for scale in (1e-4, 0.03, 0.2, 8.0):
        x = rows(n, "int8", 3, n)
        weights = Exponentials(given_type("int8", *x.shape), table(scale, width), 1)
        e = weights.numpy(x, weights.values.array).astype(np.int32)
        total = ReduceSum(weights, (1,)).numpy(e)
        r = Reciprocal(given_type("int32", 3, 1)).numpy(total)
        p = Average(given_type("int32", 3, n), given_type("int64", 3, 1)).numpy(e, r)
        assert np.abs(p.sum(1) * 2.0**-23 - 1).max() <= (n / 2 + total.max() / 2**24) * 2.0**-23
        for value in (-128, 1, 127) if width == "uint8" else ():
            v = np.full((n, 2), value, np.int8)
            product = MatMulInteger(given_type("uint8", 3, n), given_type("int8", n, 2))
            weighted = product.numpy(e.astype(np.uint8), v)
            found = Average(given_type("int32", 3, 2), given_type("int64", 3, 1)).numpy(weighted, r)
            bound = 0.5 + np.abs(weighted).max() / 2**24
            assert np.abs(found / 2.0**23 - value).max() <= bound * 2.0**-23


def test_masked_rows_average_to_0() -> None:
    x, keep = np.zeros((3, 9), np.int8), np.zeros((3, 9), bool)
    mask = given_type("bool", 3, 9)
    weights = Exponentials(given_type("int8", 3, 9), table(0.1, "uint8"), 1, mask)
    e = weights.numpy(x, weights.values.array, keep)
    r = Reciprocal(given_type("int32", 3, 1)).numpy(e.sum(1, keepdims=True, dtype=np.int32))
    node = Average(given_type("int32", 3, 1), given_type("int64", 3, 1))
    assert not node.numpy(np.zeros((3, 1), np.int32), r).any()
