"""The extremes of numbers along axes, the same on real numbers and on codes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompiler.graph import Op, op
from qcompiler.ops.arithmetic import expect_numbers
from qcompiler.ops.checks import expect_axes
from qcompiler.types import TensorType


@op
class Extreme(Op):
    """One of the elements along axes, which stay with size 1 and are not empty."""

    x: Op
    axes: tuple[int, ...]

    moves: ClassVar[tuple[str, ...]] = ("x",)

    def infer(self) -> TensorType:
        x = self.x.type
        expect_numbers(self, x)
        expect_axes(self, self.axes, x)
        q = x.quantization
        self.expect(q is None or q.axis is None, "one scale per tensor", x)
        self.expect(all(x.shape[a] > 0 for a in self.axes), "elements along the axes", x)
        return x.with_shape(tuple(1 if i in self.axes else d for i, d in enumerate(x.shape)))

    def onnx(self, o: Any, x: Any) -> Any:
        axes = o.constant(np.array(self.axes, np.int64))
        operator = type(self).__name__
        return o.widened(self.type.dtype, (x,), lambda x: o.op(operator, x, axes, keepdims=1))


@op
class ReduceMax(Extreme):
    """The largest element along axes."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x.max(self.axes, keepdims=True)

    def te(self, t: Any, x: Any) -> Any:
        return t.reduce(t.maximum, self, x, self.type.dtype)


@op
class ReduceMin(Extreme):
    """The smallest element along axes."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x.min(self.axes, keepdims=True)

    def te(self, t: Any, x: Any) -> Any:
        return t.reduce(t.minimum, self, x, self.type.dtype)
