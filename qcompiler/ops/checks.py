"""What ops of several languages demand of shapes and axes."""

from __future__ import annotations

import numpy as np

from qcompiler.graph import Op
from qcompiler.types import TensorType


def matmul_shape(node: Op, x: TensorType, w: TensorType) -> tuple[int, ...]:
    """The shape of x @ w (numpy's rules for rank ≥ 2).

    Raises:
        TypingError: the leading axes do not broadcast.
    """
    try:
        leading = np.broadcast_shapes(x.shape[:-2], w.shape[:-2])
    except ValueError:
        node.expect(False, "leading axes that broadcast", f"{x} and {w}")
    return (*map(int, leading), x.shape[-2], w.shape[-1])


def expect_axes(node: Op, axes: tuple[int, ...], x: TensorType) -> None:
    """Refuse axes that x lacks, twice the same, or none (which would mean all to ONNX)."""
    fits = len(axes) > 0 and len(set(axes)) == len(axes) and all(0 <= a < x.rank for a in axes)
    node.expect(fits, f"distinct axes below {x.rank}", axes)
