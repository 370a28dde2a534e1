"""Rounding without data: errors of a kernel and of an output channel sum to almost nothing."""

from __future__ import annotations

import numpy as np

from qcompiler.fixed_point import round_half_up
from qcompiler.types import Quantization


def balanced_codes(w: np.ndarray, q: Quantization, axis: int) -> np.ndarray:
    """Codes of weights next to the nearest ones, whose errors cancel.

    SQuant (Guo et al. 2022, "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian
    Approximation", section 3.3): as far as the values that a kernel of a convolution reads are
    alike, what its rounding does to the result is the sum of its errors, and so for a channel of
    values that are mostly positive.  Elements that were rounded farthest go to their second nearest
    code until first the sum of each kernel, then that of each output channel is at most half a
    step.

    Args:
        w: Weights of any rank; the axes behind the first two are those of a kernel.
        q: Symmetric, per tensor or per index of `axis`.
        axis: Of the output channels.

    Returns:
        Codes of the storage's dtype and w's shape.
    """
    moved = np.moveaxis(w.astype(np.float64) / q.scales(w.ndim), axis, 0)
    channels, *rest = moved.shape
    taps = int(np.prod(moved.shape[2:], dtype=np.int64)) if w.ndim > 2 else 1
    steps = moved.reshape(-1, taps)
    codes = round_half_up(steps)
    codes = _balanced(codes, steps, q.bounds.high)
    rows = (channels, int(np.prod(rest, dtype=np.int64)))
    codes = _balanced(codes.reshape(rows), steps.reshape(rows), q.bounds.high)
    codes = np.clip(codes, -q.bounds.high, q.bounds.high).astype(q.bounds.dtype)
    return np.ascontiguousarray(np.moveaxis(codes.reshape(moved.shape), 0, axis))


def _balanced(codes: np.ndarray, steps: np.ndarray, high: int) -> np.ndarray:
    """Codes of each row with some moved by one, so that the errors sum to at most half a step."""
    errors = codes - steps
    total = errors.sum(1)
    sign = np.sign(total)
    wrong = errors * sign[:, None]  # what may be moved: errors of the sum's sign, at most 1/2
    inside = np.abs(codes - sign[:, None]) <= high
    wrong = np.where(inside & (wrong <= 0.5), wrong, 0.0)
    order = np.argsort(-wrong, axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    count = round_half_up(np.abs(total))
    moved = (rank < count[:, None]) & (wrong > 0)
    return codes - (moved * sign[:, None]).astype(np.int64)
