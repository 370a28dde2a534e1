"""Real operators: what float models are made of, in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcompiler.graph import Op, op
from qcompiler.ops.checks import expect_axes, matmul_shape
from qcompiler.ops.window import Window, convolve
from qcompiler.types import FLOAT, TensorType, broadcast

LOWEST = float(np.finfo(np.float32).min)


@op
class Real(Op):
    """An op on float32 values."""

    def infer(self) -> TensorType:
        for x in self.operands:
            self.expect(x.type.dtype == FLOAT, "float32 operands", x.type)
        return TensorType(FLOAT, self.shape_of_result())

    def shape_of_result(self) -> tuple[int, ...]:
        """The shape of the value, from the operands' shapes."""
        raise NotImplementedError(f"{type(self).__name__}.shape_of_result")


@op
class Conv(Real):
    """bias[o] + Σ x·w over a window and the channels of a group.

    Attributes:
        x: [n, c, h, w].
        weight: [o, c / groups, kh, kw].
        bias: [o] or None.
        window: Kernel, strides, zero padding and dilations.
        groups: Number of channel groups.
    """

    x: Op
    weight: Op
    bias: Op | None
    window: Window
    groups: int = 1

    def shape_of_result(self) -> tuple[int, ...]:
        x, w = self.x.type, self.weight.type
        self.expect(x.rank == 4 and w.rank == 4, "operands of rank 4", f"{x} and {w}")
        n, channels, height, width = x.shape
        outputs, inner = w.shape[:2]
        fits = (
            channels == inner * self.groups
            and outputs % self.groups == 0
            and w.shape[2:] == self.window.kernel
        )
        self.expect(fits, f"a weight for {channels} channels, {self.groups} groups", w)
        if self.bias is not None:
            self.expect(self.bias.type.shape == (outputs,), f"a bias [{outputs}]", self.bias.type)
        return (n, outputs, *self.window.output(height, width))

    def numpy(
        self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
    ) -> np.ndarray:
        total = convolve(x, weight, self.window, self.groups, np.float32)
        return total if bias is None else total + bias[:, None, None]

    def te(self, t: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        return t.convolution(self, x, weight, bias, FLOAT)

    def onnx(self, o: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        return o.op("Conv", x, weight, bias, **self.window.onnx(), group=self.groups)


@op
class MatMul(Real):
    """bias + a @ b with numpy's broadcasting of leading axes.

    Attributes:
        a: [..., m, k].
        b: [..., k, n].
        bias: [n] or None.
    """

    a: Op
    b: Op
    bias: Op | None = None

    def shape_of_result(self) -> tuple[int, ...]:
        a, b = self.a.type, self.b.type
        fits = a.rank >= 2 and b.rank >= 2 and a.shape[-1] == b.shape[-2]
        self.expect(fits, "operands [..., m, k] and [..., k, n]", f"{a} and {b}")
        if self.bias is not None:
            self.expect(
                self.bias.type.shape == b.shape[-1:], f"a bias [{b.shape[-1]}]", self.bias.type
            )
        return matmul_shape(self, a, b)

    def numpy(self, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        total = np.matmul(a, b)
        return total if bias is None else total + bias

    def te(self, t: Any, a: Any, b: Any, bias: Any = None) -> Any:
        return t.matmul(self, a, b, bias, FLOAT)

    def onnx(self, o: Any, a: Any, b: Any, bias: Any = None) -> Any:
        total = o.op("MatMul", a, b)
        return total if bias is None else o.op("Add", total, bias)


@op
class BatchNormalization(Real):
    """(x − mean) / √(variance + epsilon)·gamma + beta per channel (axis 1), in inference.

    Attributes:
        x: [n, c, ...].
        gamma: [c]; so are beta, mean and variance.
        epsilon: Added to the variance.
    """

    x: Op
    gamma: Op
    beta: Op
    mean: Op
    variance: Op
    epsilon: float = 1e-5

    def shape_of_result(self) -> tuple[int, ...]:
        self.expect(self.x.type.rank >= 2, "an operand of rank ≥ 2", self.x.type)
        channels = self.x.type.shape[1]
        for p in (self.gamma, self.beta, self.mean, self.variance):
            self.expect(p.type.shape == (channels,), f"parameters [{channels}]", p.type)
        return self.x.type.shape

    def numpy(self, *operands: np.ndarray) -> np.ndarray:
        x, *parameters = operands
        channel = (-1,) + (1,) * (x.ndim - 2)
        gamma, beta, mean, variance = (p.reshape(channel) for p in parameters)
        factor = gamma / np.sqrt(variance + np.float32(self.epsilon))
        return (x - mean) * factor + beta

    def te(self, t: Any, *operands: Any) -> Any:
        x, gamma, beta, mean, variance = operands

        def element(*index: Any) -> Any:
            c = index[1]
            deviation = t.intrinsic("sqrt", variance[c] + t.const(self.epsilon, FLOAT))
            return (x(*index) - mean[c]) * (gamma[c] / deviation) + beta[c]

        return t.compute(self.type.shape, element)

    def onnx(self, o: Any, *operands: Any) -> Any:
        return o.op("BatchNormalization", *operands, epsilon=self.epsilon)


@op
class ReduceMean(Real):
    """The mean over axes, which stay with size 1."""

    x: Op
    axes: tuple[int, ...]

    def shape_of_result(self) -> tuple[int, ...]:
        expect_axes(self, self.axes, self.x.type)
        return tuple(1 if i in self.axes else d for i, d in enumerate(self.x.type.shape))

    @property
    def count(self) -> int:
        """How many elements one mean is taken over."""
        return int(np.prod([self.x.type.shape[a] for a in self.axes], dtype=np.int64))

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x.mean(self.axes, keepdims=True, dtype=np.float32)

    def te(self, t: Any, x: Any) -> Any:
        total = t.reduce(t.sum, self, x, FLOAT)
        return t.compute(self.type.shape, lambda *index: total(*index) / t.const(self.count, FLOAT))

    def onnx(self, o: Any, x: Any) -> Any:
        return o.op("ReduceMean", x, o.constant(np.array(self.axes, np.int64)), keepdims=1)


@op
class AveragePool(Real):
    """The mean of the elements of each window; padding is not counted.

    (Padding that counts is a `Pad` in front.)

    Attributes:
        x: [n, c, h, w].
        window: Kernel, strides, pads and dilations; no window lies wholly in the padding.
    """

    x: Op
    window: Window

    def shape_of_result(self) -> tuple[int, ...]:
        x = self.x.type
        self.expect(x.rank == 4, "an operand of rank 4", x)
        shape = (*x.shape[:2], *self.window.output(*x.shape[2:]))
        self.expect(bool(self.counts().min(initial=1) > 0), "no empty window", self.window)
        return shape

    def counts(self) -> np.ndarray:
        """How many elements each window covers: float32 [oh, ow]."""
        return self.window.counts(*self.x.type.shape[2:]).astype(np.float32)

    def numpy(self, x: np.ndarray) -> np.ndarray:
        total = sum(tap for _, _, tap in self.window.taps(x, 0))
        return np.asarray(total / self.counts(), np.float32)

    def te(self, t: Any, x: Any) -> Any:
        return t.average_pool(self, x)

    def onnx(self, o: Any, x: Any) -> Any:
        if self.window.overlaps:
            return o.op("AveragePool", x, **self.window.onnx(), count_include_pad=0)
        taps = self.window.onnx_taps(o, x, np.zeros((), np.float32), self.type.shape[2:])
        return o.op("Div", o.op("Sum", *taps), o.constant(self.counts()))


@op
class Softmax(Real):
    """exp(x − max) / Σ exp(x − max) along an axis, over the elements that a mask keeps.

    Attributes:
        x: float32.
        axis: The axis of one distribution.
        mask: bool, broadcastable to x, or None; false gives probability exactly 0, and a row
            without any true is all zeros.
    """

    x: Op
    axis: int
    mask: Op | None = None

    def infer(self) -> TensorType:
        x = self.x.type
        self.expect(x.dtype == FLOAT, "a float32 operand", x)
        self.expect(0 <= self.axis < x.rank, "an axis of x", self.axis)
        if self.mask is not None:
            fits = self.mask.type.dtype == "bool" and broadcast(x, self.mask.type) == x.shape
            self.expect(fits, f"a bool mask that fits {x}", self.mask.type)
        return TensorType(FLOAT, x.shape)

    def numpy(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        kept = x if mask is None else np.where(mask, x, np.float32(LOWEST))
        exponentials = np.exp(kept - kept.max(self.axis, keepdims=True))
        if mask is not None:
            exponentials = np.where(mask, exponentials, np.float32(0))
        total = exponentials.sum(self.axis, keepdims=True)
        return exponentials / np.where(total == 0, np.float32(1), total)

    def te(self, t: Any, x: Any, mask: Any = None) -> Any:
        if mask is None:
            return t.topi.nn.softmax(x, self.axis)
        kept = t.compute(
            self.type.shape,
            lambda *i: t.select(t.load(mask, i), x(*i), t.const(LOWEST, FLOAT)),
        )
        result = t.topi.nn.softmax(kept, self.axis)
        return t.compute(
            self.type.shape,
            lambda *i: t.select(t.load(mask, i), result(*i), t.const(0, FLOAT)),
        )

    def onnx(self, o: Any, x: Any, mask: Any = None) -> Any:
        if mask is None:
            return o.op("Softmax", x, axis=self.axis)
        lowest, zero = (o.constant(np.array(v, np.float32)) for v in (LOWEST, 0))
        result = o.op("Softmax", o.op("Where", mask, x, lowest), axis=self.axis)
        return o.op("Where", mask, result, zero)
