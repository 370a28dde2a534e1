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
        self.expect(self.window.overlaps, "pads below the kernel size", self.window)
        self.expect(x.quantization is None or x.quantization.axis is None, "one scale", x)
        spatial = 1 if self.channels_last else 2
        rows, columns = self.window.output(*x.shape[spatial : spatial + 2])
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
        if self.type.is_float or self.type.dtype in ("uint8", "int8"):
            result = o.op("MaxPool", x, **self.window.onnx())
        else:
            result = o.widened(self.type.dtype, (x,), lambda x: self._max_of_slices(o, x))
        return o.op("Transpose", result, perm=[0, 2, 3, 1]) if self.channels_last else result

    def _max_of_slices(self, o: Any, x: Any) -> Any:
        """MaxPool for integers that ONNX Runtime has none for; x is [n, c, h, w], maybe widened."""
        window, spatial = self.window, 1 if self.channels_last else 2
        (sh, sw), (dh, dw) = window.strides, window.dilations
        rows, columns = self.type.shape[spatial : spatial + 2]
        top, left, bottom, right = window.pads
        if any(window.pads):
            pads = o.constant(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
            lowest = o.constant(np.array(self.lowest, o.widened_dtype(self.type.dtype)))
            x = o.op("Pad", x, pads, lowest, mode="constant")
        axes, steps = (o.constant(np.array(v, np.int64)) for v in ((2, 3), (sh, sw)))
        taps = []
        for i, j in np.ndindex(*window.kernel):
            starts = (i * dh, j * dw)
            stops = (i * dh + (rows - 1) * sh + 1, j * dw + (columns - 1) * sw + 1)
            first, last = (o.constant(np.array(v, np.int64)) for v in (starts, stops))
            taps.append(o.op("Slice", x, first, last, axes, steps))
        return reduce(partial(extreme, o, "Max", o.widened_dtype(self.type.dtype)), taps)
