"""Integer primitives: products into int32 accumulators, sums, tables.

Operands are raw codes and padding is raw 0: what zero points contribute is in the bias, and a
padding that means a zero point is an explicit `Pad`.  So a primitive computes the same whatever
its operands' types say they mean.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from qcompiler.graph import Constant, Op, op
from qcompiler.interval import Interval
from qcompiler.ops.arithmetic import Elementwise
from qcompiler.ops.checks import expect_axes, matmul_shape
from qcompiler.ops.window import Window, convolve
from qcompiler.types import Quantization, TensorType

INT32_MAX = 2**31 - 1
NOTHING = Interval(0, 0)


@op
class Product(Op):
    """A sum of products of 8-bit codes, in an int32."""

    proved: ClassVar[bool] = True

    def check_codes(self, x: Op, weight: Op) -> None:
        """Both operands hold 8-bit codes, the right one signed."""
        self.expect(x.type.dtype in ("uint8", "int8"), "uint8 or int8 codes", x.type)
        self.expect(weight.type.dtype == "int8", "int8 codes", weight.type)

    def check_bias(self, bias: Op | None, channels: int) -> None:
        """The bias is int32, one per output channel."""
        if bias is not None:
            self.expect(
                (bias.type.dtype, bias.type.shape) == ("int32", (channels,)),
                f"a bias int32[{channels}]",
                bias.type,
            )

    def sums(self, axes: tuple[int, ...], x: Interval, w: Interval, bias: Interval) -> Interval:
        """Of Σ x·w + bias over axes of the weight: per output channel where the weight is known.

        What adds up to it fits as well: executors add the bias at either end.
        """
        weight, *rest = self.operands[1:]
        x |= NOTHING  # the padding, and terms that are not added yet
        if not isinstance(weight, Constant):
            terms = math.prod(weight.type.shape[a] for a in axes)
            return self.fitting((x * w).total(terms)) + bias
        above = np.maximum(weight.array, 0).sum(axes, dtype=np.int64)
        below = weight.array.sum(axes, dtype=np.int64) - above
        lows, highs = (a * above + b * below for a, b in ((x.low, x.high), (x.high, x.low)))
        parts = self.fitting(Interval.of(lows) | Interval.of(highs))
        if not rest or not isinstance(rest[0], Constant):
            return parts + bias
        codes = rest[0].array.astype(np.int64)
        return Interval.of(lows + codes) | Interval.of(highs + codes)

    def product_quantization(self, x: Op, weight: Op, axis: int) -> Quantization | None:
        """Scale s_x·s_w of the accumulator, whose bias accounts for all zero points."""
        a, b = x.type.quantization, weight.type.quantization
        if a is None or b is None or a.axis is not None:
            return None
        scales = a.scale[0] * np.array(b.scale)
        if b.axis is None:
            return Quantization.per_tensor("int32", float(scales[0]))
        return Quantization.per_channel("int32", scales, axis)


def to_unsigned(o: Any, x: Any, signed: bool) -> tuple[Any, Any]:
    """Codes and their zero point as uint8.

    ONNX Runtime's u8·s8 and s8·s8 products saturate on CPUs without VNNI; u8·u8 is exact on all.
    """
    if not signed:
        return x, o.constant(np.zeros((), np.uint8))
    wide = o.op("Cast", x, to=o.dtype("int32"))
    moved = o.op("Add", wide, o.constant(np.array(128, np.int32)))
    return o.op("Cast", moved, to=o.dtype("uint8")), o.constant(np.array(128, np.uint8))


@op
class ConvInteger(Product):
    """bias[o] + Σ x·w over a window and the channels of a group, in int32.

    Attributes:
        x: Codes [n, c, h, w], or [n, h, w, c] when `channels_last`.
        weight: int8 codes [o, c / groups, kh, kw].
        bias: int32 [o] or None.
        window: Kernel, strides, pads (raw 0) and dilations.
        groups: Number of channel groups.
        channels_last: The layout of x and of the result.
    """

    x: Op
    weight: Op
    bias: Op | None
    window: Window
    groups: int = 1
    channels_last: bool = False

    def infer(self) -> TensorType:
        self.check_codes(self.x, self.weight)
        x, w = self.x.type, self.weight.type
        self.expect(x.rank == 4 and w.rank == 4, "operands of rank 4", f"{x} and {w}")
        n, channels, height, width = (
            (x.shape[0], x.shape[3], *x.shape[1:3]) if self.channels_last else x.shape
        )
        outputs, inner = w.shape[:2]
        fits = (
            channels == inner * self.groups
            and outputs % self.groups == 0
            and w.shape[2:] == self.window.kernel
        )
        self.expect(fits, f"a weight for {channels} channels, {self.groups} groups", w)
        self.check_bias(self.bias, outputs)
        rows, columns = self.window.output(height, width)
        if self.channels_last:
            shape = (n, rows, columns, outputs)
        else:
            shape = (n, outputs, rows, columns)
        axis = 3 if self.channels_last else 1
        return TensorType("int32", shape, self.product_quantization(self.x, self.weight, axis))

    def numpy(
        self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
    ) -> np.ndarray:
        if self.channels_last:
            x = x.transpose(0, 3, 1, 2)
        total = convolve(x, weight, self.window, self.groups, np.float64).astype(np.int32)
        if bias is not None:
            total += bias[:, None, None]
        return np.ascontiguousarray(total.transpose(0, 2, 3, 1)) if self.channels_last else total

    def interval(self, x: Interval, weight: Interval, bias: Interval = NOTHING) -> Interval:
        return self.sums((1, 2, 3), x, weight, bias)

    def te(self, t: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        return t.convolution(self, x, weight, bias, "int32")

    def onnx(self, o: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        if self.channels_last:
            x = o.op("Transpose", x, perm=[0, 3, 1, 2])
        x, x_zero = to_unsigned(o, x, self.x.type.dtype == "int8")
        weight, w_zero = to_unsigned(o, weight, True)
        attributes = {**self.window.onnx(), "group": self.groups}
        total = o.op("ConvInteger", x, weight, x_zero, w_zero, **attributes)
        if bias is not None:
            shape = o.constant(np.array([1, -1, 1, 1], np.int64))
            total = o.op("Add", total, o.op("Reshape", bias, shape))
        return o.op("Transpose", total, perm=[0, 2, 3, 1]) if self.channels_last else total


@op
class MatMulInteger(Product):
    """bias[n] + Σ_k x[…, m, k]·w[…, k, n] in int32, with numpy's broadcasting of leading axes.

    Attributes:
        x: Codes [..., m, k].
        weight: int8 codes [..., k, n].
        bias: int32 [n] or None.
    """

    x: Op
    weight: Op
    bias: Op | None = None

    def infer(self) -> TensorType:
        self.check_codes(self.x, self.weight)
        x, w = self.x.type, self.weight.type
        fits = x.rank >= 2 and w.rank >= 2 and x.shape[-1] == w.shape[-2]
        self.expect(fits, "operands [..., m, k] and [..., k, n]", f"{x} and {w}")
        self.check_bias(self.bias, w.shape[-1])
        shape = matmul_shape(self, x, w)
        quantization = self.product_quantization(self.x, self.weight, len(shape) - 1)
        return TensorType("int32", shape, quantization)

    def numpy(
        self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
    ) -> np.ndarray:
        total = (x.astype(np.float64) @ weight.astype(np.float64)).astype(np.int32)
        return total if bias is None else total + bias

    def interval(self, x: Interval, weight: Interval, bias: Interval = NOTHING) -> Interval:
        return self.sums((self.weight.type.rank - 2,), x, weight, bias)

    def te(self, t: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        return t.matmul(self, x, weight, bias, "int32")

    def onnx(self, o: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        x, x_zero = to_unsigned(o, x, self.x.type.dtype == "int8")
        weight, w_zero = to_unsigned(o, weight, True)
        total = o.op("MatMulInteger", x, weight, x_zero, w_zero)
        return total if bias is None else o.op("Add", total, bias)


@op
class ReduceSum(Op):
    """The sum over axes, which stay with size 1.

    Attributes:
        x: Integers.
        axes: Axes to sum over.
        dtype: "int32" or "int64".
    """

    x: Op
    axes: tuple[int, ...]
    dtype: str = "int32"

    def infer(self) -> TensorType:
        x = self.x.type
        self.expect(x.is_integer, "integers", x)
        self.expect(self.dtype in ("int32", "int64"), "int32 or int64", self.dtype)
        expect_axes(self, self.axes, x)
        shape = tuple(1 if i in self.axes else d for i, d in enumerate(x.shape))
        return TensorType(self.dtype, shape)

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x.sum(self.axes, dtype=self.dtype, keepdims=True)

    def interval(self, x: Interval) -> Interval:
        return x.total(math.prod(self.x.type.shape[a] for a in self.axes))

    def te(self, t: Any, x: Any) -> Any:
        return t.reduce(t.sum, self, x, self.dtype)

    def onnx(self, o: Any, x: Any) -> Any:
        wide = o.op("Cast", x, to=o.dtype(self.dtype))
        return o.op("ReduceSum", wide, o.constant(np.array(self.axes, np.int64)), keepdims=1)


@op
class Lookup(Elementwise):
    """table[index]: `index` elementwise, `table` of rank 1 as a whole.

    Attributes:
        index: int32, within the table.
        table: Rank 1, any dtype.
    """

    index: Op
    table: Op

    whole: ClassVar[tuple[str, ...]] = ("table",)

    def infer(self) -> TensorType:
        self.expect(self.index.type.dtype == "int32", "an int32 index", self.index.type)
        self.expect(self.table.type.rank == 1, "a table of rank 1", self.table.type)
        return TensorType(self.table.type.dtype, self.index.type.shape)

    def numpy(self, index: np.ndarray, table: np.ndarray) -> np.ndarray:
        return table[index]

    def interval(self, index: Interval, table: Interval) -> Interval:
        inside = Interval(0, self.table.type.size - 1)
        self.prove(index <= inside, f"indices of {inside}", str(index))
        return table

    def scalar(self, t: Any, index: Any, table: Any) -> Any:
        return table[index]

    def onnx(self, o: Any, index: Any, table: Any) -> Any:
        return o.op("Gather", table, index, axis=0)
