"""Random nodes of models that are quantized already: both ways to write them, and integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from fuzz_draft import Draft, Value, generates
from fuzz_networks import image, window
from fuzz_runtime import RejectedError

MICROSOFT = "com.microsoft."
Codes = list[Value | None]  # a tensor of codes, its scale, its zero point


def scale_of(d: Draft, x: Value) -> Value:
    """A scale that makes codes of most elements."""
    largest = max(abs(x.low), abs(x.high), 1e-3)
    return d.const(largest / d.pick((100, 127)), np.float32)


def zero(d: Draft, signed: bool) -> Value:
    """A zero point."""
    dtype = np.int8 if signed else np.uint8
    return d.const(d.pick((0, 0, 3, -5)) if signed else d.pick((128, 128, 0, 120)), dtype)


def codes(d: Draft, x: Value | None = None, **wanted: Any) -> Codes:
    """A value rounded to codes."""
    if d.opset < 10:
        raise RejectedError("draft: not in this opset")
    x = x or d.real(**wanted)
    scale, point = scale_of(d, x), zero(d, d.chance(0.4))
    return [d.emit("QuantizeLinear", [x, scale, point])[0], scale, point]


def weights(d: Draft, shape: tuple[int, ...], signed: bool = True) -> Codes:
    """Constant codes with a scale per tensor."""
    low, high, dtype = (-127, 127, np.int8) if signed else (0, 255, np.uint8)
    known = d.integers(shape, low, high, dtype, known=1.0)
    point = d.const(0, dtype) if signed else d.const(128, np.uint8)
    return [known, d.const(float(d.rng.uniform(0.005, 0.05)), np.float32), point]


def result(d: Draft, like: Codes) -> list[Value]:
    """Scale and zero point of a result of the same dtype as some codes."""
    assert like[0] is not None
    scale = d.const(float(d.rng.uniform(0.01, 0.1)), np.float32)
    return [scale, zero(d, like[0].first.dtype == np.int8)]


def real(d: Draft, y: Value, quantization: Codes | list[Value]) -> None:
    """Back to floats, so that others can use the result."""
    if d.chance(0.8):
        d.emit("DequantizeLinear", [y, quantization[-2], quantization[-1]])


@generates("QuantizeLinear", "DequantizeLinear")
def around(d: Draft, op: str) -> None:
    """A value there and back, by one scale or one per channel."""
    if d.opset >= 13 and d.chance(0.25):
        x = d.real(lambda v: v.first.ndim > 1 and v.shape[1] > 0)
        if x.first.ndim < 2:
            raise RejectedError("draft: no channels")
        channels = x.shape[1]
        scale = d.floats((channels,), known=True, low=0.01)
        point = d.const(np.zeros(channels, np.int8))
        y = d.emit("QuantizeLinear", [x, scale, point], axis=1)[0]
        d.emit("DequantizeLinear", [y, scale, point], axis=1)
        return
    x = d.floats(d.shape(2), known=True) if d.chance(0.2) else d.real()
    d.emit("DequantizeLinear", codes(d, x))


@generates("DynamicQuantizeLinear")
def dynamic(d: Draft, op: str) -> None:
    """Codes by a sample's own range."""
    d.emit("DequantizeLinear", list(d.emit(op, [d.real(lambda v: v.first.size > 0)], 3)))


@generates("MatMulInteger", MICROSOFT + "MatMulIntegerToFloat")
def integer_product(d: Draft, op: str) -> None:
    """Sums of codes."""
    x, scale, point = codes(d, d.real(lambda v: v.first.ndim >= 2, rank=d.integer(2, 3)))
    assert x is not None
    depth = x.shape[-1]
    w, w_scale, w_point = weights(d, (depth, d.integer(1, 5)), d.chance(0.5))
    if op == "MatMulInteger":
        d.emit("Cast", d.emit(op, [x, w, point, w_point]), to=1)
    else:
        d.emit(op, [x, w, scale, w_scale, point, w_point])


@generates(MICROSOFT + "DynamicQuantizeMatMul")
def dynamic_product(d: Draft, op: str) -> None:
    """A float operand made codes on the way."""
    x = d.real(lambda v: v.first.ndim >= 2 and v.first.size > 0, rank=2)
    w, scale, point = weights(d, (x.shape[-1], d.integer(1, 5)), d.chance(0.5))
    d.emit(op, [x, w, scale, point])


@generates("ConvInteger", "QLinearConv", MICROSOFT + "QLinearConv")
def integer_convolution(d: Draft, op: str) -> None:
    """Convolutions of codes."""
    x = image(d)
    kernel, attributes = window(d, x)
    q = codes(d, x)
    w = weights(d, (d.integer(1, 4), x.shape[1], *kernel))
    if op == "ConvInteger":
        assert q[0] is not None
        if q[0].first.dtype != np.uint8:
            raise RejectedError("draft: signed codes")
        w = weights(d, (d.integer(1, 4), x.shape[1], *kernel), signed=False)
        d.emit("Cast", d.emit(op, [q[0], w[0], q[2], w[2]], **attributes), to=1)
        return
    y = result(d, q)
    real(d, d.emit(op, [*q, *w, *y], **attributes)[0], y)


@generates("QLinearMatMul", MICROSOFT + "QGemm")
def quantized_product(d: Draft, op: str) -> None:
    """Products of codes, requantized."""
    q = codes(d, d.real(lambda v: v.first.ndim >= 2 and v.first.size > 0, rank=2))
    assert q[0] is not None
    w = weights(d, (q[0].shape[-1], d.integer(1, 5)))
    y = result(d, q)
    bias: Codes = [None] if op.endswith("QGemm") else []
    real(d, d.emit(op, [*q, *w, *bias, *y])[0], y)


@generates(*(f"{MICROSOFT}QLinear{name}" for name in (
    "Add", "Mul", "LeakyRelu", "Sigmoid", "Softmax", "AveragePool", "GlobalAveragePool", "Concat",
    "Where",
)))  # fmt: skip
def quantized(d: Draft, op: str) -> None:
    """ONNX Runtime's operators of codes."""
    name = op.rpartition("QLinear")[2]
    pool = name.endswith("Pool")
    x = image(d) if pool else d.real(lambda v: v.first.ndim > 0 and v.first.size > 0)
    q = codes(d, x)
    y = result(d, q)
    match name:
        case "Add" | "Mul" | "Where":
            other = scale_of(d, x)
            signed = y[1].first.dtype == np.int8
            low, high = (-128, 127) if signed else (0, 255)
            dtype: Any = np.int8 if signed else np.uint8
            known = d.integers(d.broadcastable(x.shape), low, high, dtype, known=1.0)
            second = [known, other, y[1]]
            chosen = [d.condition(d.broadcastable(x.shape))] if name == "Where" else []
            made = d.emit(op, [*chosen, *q, *second, *y])
        case "LeakyRelu" | "Sigmoid":
            made = d.emit(op, [*q, *y], **({"alpha": 0.2} if name == "LeakyRelu" else {}))
        case "Softmax":
            made = d.emit(op, [*q, *y], axis=-1, opset=13)
        case "Concat":
            made = d.emit(op, [*y, *q, *q], axis=d.integer(0, x.first.ndim - 1))
        case _:
            kernel, attributes = window(d, x)
            given = {"kernel_shape": kernel, **attributes} if name == "AveragePool" else {}
            made = d.emit(op, [*q, *y], **given)
    real(d, made[0], y)


@generates(MICROSOFT + "MatMulNBits")
def few_bits(d: Draft, op: str) -> None:
    """Weights of 4 bits in blocks."""
    depth, columns = d.pick((16, 32)), d.integer(1, 5)
    x = d.real(shape=(d.integer(1, 4), depth))
    packed = d.const(d.rng.integers(0, 256, (columns, depth // 16, 8)), np.uint8)
    scales = d.const(d.rng.uniform(0.01, 0.1, columns * (depth // 16)), np.float32)
    d.emit(op, [x, packed, scales], K=depth, N=columns, bits=4, block_size=16)


@generates("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot")
def bits(d: Draft, op: str) -> None:
    """Of whole numbers."""
    if op == "BitShift":
        x = d.integers(d.shape(2), 0, 255, np.uint8)
        d.emit(op, [x, d.const(d.integer(0, 7), np.uint8)], direction=d.pick(("LEFT", "RIGHT")))
        return
    x = d.integers(d.shape(2), -99, 99)
    d.emit(op, [x] if op == "BitwiseNot" else [x, d.integers(d.broadcastable(x.shape), -99, 99)])
