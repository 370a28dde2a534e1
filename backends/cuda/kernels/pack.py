"""Weights in the order in which lanes want them: each reads its share of 16 columns at once."""

from __future__ import annotations

import numpy as np

from qcompiler.backends.tvm.problem import Matmul

from .plan import MMA_DEPTH, Plan


def pack(plan: Plan, weight: np.ndarray) -> np.ndarray:
    """The weight as [columns / 16, depth / 32, 512] int8, zeros where it ends.

    Lane 4·g + t of a warp finds at byte 16·lane the right operands of two `mma` steps side by side:
    of column g and of column g + 8, terms 4·t … + 3 and 16 + 4·t … + 3 of the 32.

    Args:
        plan: Of the problem.
        weight: int8 [o, c, kh, kw] of a convolution, int8 [n, k, 1, 1] of a product.
    """
    columns, steps, _ = plan.packed_shape
    runs = weight.transpose(0, 2, 3, 1).reshape(plan.columns, -1, plan.run)
    runs = np.pad(runs, ((0, 0), (0, 0), (0, plan.filled - plan.run)))
    rows = runs.reshape(plan.columns, plan.depth)
    padded = np.zeros((columns * 16, steps * MMA_DEPTH), np.int8)
    padded[: plan.columns, : plan.depth] = rows
    parts = padded.reshape(columns, 2, 8, steps, 2, 4, 4)  # …, half, g, step, register, t, byte
    return np.ascontiguousarray(parts.transpose(0, 3, 2, 5, 1, 4, 6)).reshape(plan.packed_shape)


def as_windows(problem: object, weight: np.ndarray) -> np.ndarray:
    """The weight [k, n] of a product as [n, k, 1, 1]; that of a convolution as it is."""
    return weight.T[:, :, None, None] if isinstance(problem, Matmul) else weight
