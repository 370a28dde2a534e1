"""Requantize, tables and the float ends: error bounds, exact integers, signs and zeros."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from exact import assert_exact
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler import fixed_point
from qcompiler.graph import Constant, Input
from qcompiler.ops import Dequantize, Divide, Quantize, Requantize, Table
from qcompiler.passes.affine import Affine
from qcompiler.passes.integerize import requantize
from qcompiler.types import Quantization, Storage, TensorType

SEEDS = st.integers(0, 2**32 - 1)
STORAGES = st.sampled_from(["uint8", "int8", "int16", "uint4", "int24", "int32"])
FEW = settings(max_examples=60)


def values(rng: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    x[0], x[1], x[2] = info.min, info.max, 0
    return x


@FEW
@given(SEEDS, st.integers(1, 4), STORAGES)
def test_sums_of_many_operands(seed: int, count: int, storage: str) -> None:
    """Within half a code and half a unit of each multiplier; per channel, of either sign, or 0."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["uint8", "int8", "int16", "uint16", "int32"], count)
    xs = [values(rng, kind, 9, 5) for kind in kinds]
    q = Quantization.per_tensor(storage, float(2.0 ** rng.uniform(-20, 10)), 3)
    factors = [rng.standard_normal(5) * q.scale[0] * 100 / np.iinfo(k).max for k in kinds]
    for factor in factors:
        factor[0], factor[1] = 0.0, -abs(factor[1])
    constant = rng.standard_normal(5) * q.scale[0] * 50
    inputs = [Input(TensorType(str(x.dtype), x.shape), name=f"x{i}") for i, x in enumerate(xs)]
    node = requantize(Affine(tuple(zip(inputs, factors, strict=True)), constant), q, None, None, 2)
    assert isinstance(node, Requantize)
    found = node.numpy(*xs, *(c.array for c in node.operands[count:]))
    constants = [c.array for c in node.operands[count:]]
    assert (assert_exact(node, *xs, *constants) == found).all()
    bounds, scale = q.bounds, Fraction(q.scale[0])
    for row, column in np.ndindex(found.shape):
        exact = Fraction(constant[column]) / scale + 3
        slack = Fraction(1, 2) + Fraction(1, 2**20)  # the constant's float64 arithmetic
        for x, factor in zip(xs, factors, strict=True):
            term = int(x[row, column]) * Fraction(factor[column]) / scale
            exact += term
            slack += abs(int(x[row, column])) * Fraction(1, 1 << node.shift + 1)
            slack += abs(term) * Fraction(1, 2**50)
        clamped = min(max(exact, bounds.low), bounds.high)
        assert abs(int(found[row, column]) - clamped) <= slack


def test_a_factor_of_0_leaves_the_constant() -> None:
    """γ = 0 in a channel of a normalization: every code is that of β."""
    q = Quantization.per_tensor("int8", 0.1)
    x = values(np.random.default_rng(0), "int32", 9, 3)
    x[:, 2] = x[:, 1]
    form = Affine(
        ((Input(TensorType("int32", x.shape), name="x"), np.array([0.0, 1e-9, -1e-9])),),
        np.array([0.5, 0.0, 0.0]),
    )
    node = requantize(form, q, None, None, 2)
    found = node.numpy(x, *(c.array for c in node.operands[1:]))
    assert (found[:, 0] == 5).all()
    assert np.abs(found[:, 1].astype(int) + found[:, 2]).max() <= 1  # γ < 0 mirrors, up to ties


@pytest.mark.parametrize("shift", [1, 31, 62])
def test_the_largest_sums_do_not_wrap(shift: int) -> None:
    x = np.array([-(2**31), 2**31 - 1, 0], np.int32)
    m = Constant(np.array([2**29, -(2**29), 2**29], np.int32))
    q = Quantization.per_tensor("int32", 0.1)
    inputs = tuple(Input(TensorType("int32", (3,)), name=f"x{i}") for i in range(3))
    node = Requantize(inputs, (m, m, m), Constant(np.array((1 << 60) - 1)), shift, q)
    assert_exact(node, x, x, x, *(c.array for c in node.operands[3:]))


@pytest.mark.parametrize(("za", "zb", "zero"), [(0, 0, 0), (5, -7, 3)])
@pytest.mark.parametrize("multiplier", [1, 3, 1000])
def test_quotients_of_all_codes_are_rounded_once(
    za: int, zb: int, zero: int, multiplier: int
) -> None:
    a, b = (np.arange(-128, 128, dtype=np.int8).reshape(s) for s in ((-1, 1), (1, -1)))
    inputs = [
        Input(TensorType("int8", v.shape, Quantization.per_tensor("int8", 0.1, z)), name=name)
        for v, z, name in ((a, za, "a"), (b, zb, "b"))
    ]
    m, q = Constant(np.array(multiplier, np.int32)), Quantization.per_tensor("int16", 0.1, zero)
    found = assert_exact(Divide(*inputs, m, 2, q), a, b, m.array)
    top, below = a.astype(int) - za, b.astype(int) - zb
    top, below = np.where(below < 0, -top, top), np.maximum(np.abs(below), 1)
    exact = (2 * top * multiplier + 4 * below) // (8 * below) + zero
    assert (found == np.clip(exact, -32768, 32767)).all()


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("storage", ["uint8", "int8", "int16", "uint4"])
def test_a_table_is_within_half_a_step(dtype: str, storage: str) -> None:
    meaning = Quantization.per_tensor(dtype, 0.05, 3)
    q = fixed_point.affine_quantization(-1.0, 1.0, storage)
    codes = np.arange(256) + np.iinfo(dtype).min
    reals = np.tanh(fixed_point.dequantize(codes, meaning))
    values = Constant(fixed_point.quantize(reals, q))
    node = Table(Input(TensorType(dtype, (256,), meaning), name="x"), values, q)
    found = assert_exact(node, codes.astype(dtype), values.array)
    error = np.abs(fixed_point.dequantize(found, q) - reals)
    # An unsigned zero point is rounded, which costs half a step at the ends of the range.
    assert error.max() <= q.scale[0] * (0.5 if Storage(storage).signed else 1.0)


@FEW
@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1),
    st.sampled_from(["uint8", "int8", "int16", "uint4"]),
    st.floats(-8, 4).map(lambda e: 2.0**e),
)
def test_quantize_is_within_half_a_step(reals: list[float], storage: str, scale: float) -> None:
    q = Quantization.per_tensor(storage, scale, 2)
    x = np.array(reals, np.float32)
    node = Quantize(Input(TensorType("float32", x.shape), name="x"), q)
    steps = x.astype(np.float64) / q.scale[0] + 2
    found = node.numpy(x)
    slack = 0.5 + 2.0**-22 * np.abs(steps) + 2.0**-22  # 1/s, the product and the half, in float32
    assert (np.abs(found - np.clip(steps, q.bounds.low, q.bounds.high)) <= slack).all()


@FEW
@given(SEEDS, STORAGES, st.floats(-20, 20).map(lambda e: 2.0**e))
def test_dequantize_is_within_three_roundings(seed: int, storage: str, scale: float) -> None:
    q = Quantization.per_tensor(storage, scale, 2)
    rng = np.random.default_rng(seed)
    codes = rng.integers(q.bounds.low, q.bounds.high, 50, np.int64, endpoint=True)
    codes[:3] = q.bounds.low, q.bounds.high, 2
    x = codes.astype(q.bounds.dtype)
    found = Dequantize(Input(TensorType(str(x.dtype), x.shape, q), name="x")).numpy(x)
    exact = fixed_point.dequantize(x, q)
    assert (np.abs(found - exact) <= 3 * 2.0**-24 * (1 + 2.0**-20) * np.abs(exact)).all()
