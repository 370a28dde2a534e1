"""Rounding without data: sums of errors within a kernel and an output channel."""

import numpy as np
import pytest

from qcompiler import fixed_point
from qcompiler.passes.balance import balanced_codes
from qcompiler.types import Quantization


def errors(w: np.ndarray, axis: int, storage: str) -> tuple[np.ndarray, np.ndarray]:
    """Errors in steps of the nearest and of the balanced codes, output channels first."""
    q = fixed_point.weight_quantization(w, storage, axis)
    steps = w / q.scales(w.ndim)
    codes = balanced_codes(w, q, axis)
    assert codes.dtype == q.bounds.dtype
    found = (fixed_point.quantize(w, q) - steps, codes - steps)
    first, second = (np.moveaxis(e, axis, 0) for e in found)
    return first, second


@pytest.mark.parametrize("storage", ["int8", "int4"])
@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (8, 1, 5, 5), (4, 7, 1, 1)])
def test_errors_of_kernels_and_channels_cancel(shape, storage):
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nearest, balanced = errors(w, 0, storage)
    assert np.abs(balanced).max() < 1.01  # the second nearest code, at most
    kernels = np.abs(balanced.reshape(*shape[:2], -1).sum(-1))
    assert kernels.max() <= 1.51  # one more step where the channel's sum needs it
    channels = (np.abs(e.reshape(shape[0], -1).sum(1)) for e in (nearest, balanced))
    before, after = channels
    assert after.max() <= 0.51 < before.max()


def test_columns_of_a_matrix_are_channels():
    w = np.random.default_rng(1).normal(size=(40, 9)).astype(np.float32)
    nearest, balanced = errors(w, 1, "int8")
    assert np.abs(balanced.sum(1)).max() <= 0.51 < np.abs(nearest.sum(1)).max()


def test_codes_that_are_exact_stay():
    w = np.arange(-60, 60, dtype=np.float32).reshape(4, 30)
    q = Quantization.per_tensor("int8", 1.0)
    assert (balanced_codes(w, q, 1) == w).all()
