"""Max pooling, the same on real numbers and on codes."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any, ClassVar

import numpy as np

from qcompiler.graph import Op, op
from qcompiler.ops.arithmetic import expect_numbers, extreme
from qcompiler.ops.window import Window
from qcompiler.types import TensorType


@op
class MaxPool(Op):
    """The largest element of each window (padding never wins), on any numbers.

    Attributes:
        x: [n, c, h, w], or [n, h, w, c] when `channels_last`.
        window: Kernel, strides, pads and dilations.
        channels_last: The layout of x and of the result.
    """

    x: Op
    window: Window
    channels_last: bool = False

    moves: ClassVar[tuple[str, ...]] = ("x",)

    def infer(self) -> TensorType:
        x = self.x.type
        self.expect(x.rank == 4, "an operand of rank 4", x)
        expect_numbers(self, x)
        self.expect(x.quantization is None or x.quantization.axis is None, "one scale", x)
        spatial = 1 if self.channels_last else 2
        rows, columns = self.window.output(*x.shape[spatial : spatial + 2])
        counts = self.window.counts(*x.shape[spatial : spatial + 2])
        self.expect(bool(counts.min(initial=1) > 0), "no empty window", self.window)
        shape = (*x.shape[:spatial], rows, columns, *x.shape[spatial + 2 :])
        return x.with_shape(shape)

    @property
    def lowest(self) -> float:
        """What the padding holds."""
        dtype = np.dtype(self.type.dtype)
        return -float("inf") if dtype.kind == "f" else int(np.iinfo(dtype).min)

    def numpy(self, x: np.ndarray) -> np.ndarray:
        if self.channels_last:
            x = x.transpose(0, 3, 1, 2)
        result = np.maximum.reduce([tap for _, _, tap in self.window.taps(x, self.lowest)])
        return np.ascontiguousarray(result.transpose(0, 2, 3, 1) if self.channels_last else result)

    def te(self, t: Any, x: Any) -> Any:
        return t.max_pool(self, x)

    def onnx(self, o: Any, x: Any) -> Any:
        if self.channels_last:
            x = o.op("Transpose", x, perm=[0, 3, 1, 2])
        native = self.type.is_float or self.type.dtype in ("uint8", "int8")
        if native and self.window.overlaps:
            result = o.op("MaxPool", x, **self.window.onnx())
        else:
            result = o.widened(self.type.dtype, (x,), lambda x: self._max_of_slices(o, x))
        return o.op("Transpose", result, perm=[0, 2, 3, 1]) if self.channels_last else result

    def _max_of_slices(self, o: Any, x: Any) -> Any:
        """MaxPool as ONNX Runtime has none; x is [n, c, h, w], maybe widened."""
        dtype = o.widened_dtype(self.type.dtype)
        spatial = 1 if self.channels_last else 2
        sizes = self.type.shape[spatial : spatial + 2]
        taps = self.window.onnx_taps(o, x, np.array(self.lowest, dtype), sizes)
        return reduce(partial(extreme, o, "Max", dtype), taps)
