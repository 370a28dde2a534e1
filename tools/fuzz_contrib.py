"""Random nodes of ONNX Runtime's own operators, which its optimizer writes into float models."""

from __future__ import annotations

from typing import Any

import numpy as np
from fuzz_draft import Draft, Value, generates
from fuzz_networks import window
from fuzz_runtime import RejectedError

MICROSOFT = "com.microsoft."

UNRUN = frozenset(
    MICROSOFT + name
    for name in (
        "BiasAdd", "BiasSoftmax", "BiasSplitGelu", "GemmFastGelu", "GroupNorm", "SkipGroupNorm",
        "RelativePositionBias",
    )
) | {MICROSOFT + "DequantizeLinear", MICROSOFT + "QuantizeLinear"}  # fmt: skip
"""Operators that ONNX Runtime has for other devices only, or that stand for a standard one."""


@generates(MICROSOFT + "FusedMatMul", MICROSOFT + "TransposeMatMul")
def fused_matmul(d: Draft, op: str) -> None:
    """A product with transposed operands and a factor."""
    x = d.real(lambda v: v.first.ndim >= 2, rank=d.integer(2, 4))
    flipped = d.chance(0.4)
    depth = x.shape[-2] if flipped else x.shape[-1]
    shape = (*x.shape[:-2], depth, d.integer(1, 5))
    w = d.real(shape=shape if d.chance(0.4) else shape[-2:], known=0.7)
    d.emit(op, [x, w], transA=int(flipped), alpha=d.pick((1.0, 0.5)))


@generates(MICROSOFT + "FusedGemm")
def fused_gemm(d: Draft, op: str) -> None:
    """A product, a bias and a function."""
    x = d.real(rank=2)
    columns = d.integer(1, 5)
    operands = [x, d.floats((x.shape[1], columns), known=True), d.floats((columns,), known=True)]
    d.emit(op, operands, activation=d.pick(("Relu", "Sigmoid", "Tanh")))


@generates(MICROSOFT + "FusedConv")
def fused_conv(d: Draft, op: str) -> None:
    """A convolution and a function."""
    x = d.real(lambda v: 0 < v.first.size <= 1024, rank=4)
    kernel, attributes = window(d, x)
    w = d.floats((d.integer(1, 4), x.shape[1], *kernel), known=True)
    bias = [d.floats(w.shape[:1], known=True)] if d.chance(0.7) else []
    d.emit(op, [x, w, *bias], activation=d.pick(("Relu", "Sigmoid", "Tanh")), **attributes)


@generates(MICROSOFT + "MultiHeadAttention", MICROSOFT + "Attention")
def heads(d: Draft, op: str) -> None:
    """Packed operands; one product for all three of them."""
    batch, length, number, depth = (d.integer(1, n) for n in (2, 4, 3, 4))
    hidden = number * depth
    shape = (batch, length, hidden)
    if op.endswith("MultiHeadAttention"):
        d.emit(op, [d.real(shape=shape) for _ in range(3)], num_heads=number)
        return
    weights = [d.floats((hidden, 3 * hidden), known=True), d.floats((3 * hidden,), known=True)]
    extra = {"unidirectional": 1} if d.chance(0.3) else {}
    d.emit(op, [d.real(shape=shape), *weights], num_heads=number, **extra)


@generates(MICROSOFT + "GroupQueryAttention")
def grouped(d: Draft, op: str) -> None:
    """Prefill: no cache yet, all keys of full length."""
    batch, length, depth = d.integer(1, 2), d.integer(1, 4), 8
    groups, each = d.integer(1, 2), d.integer(1, 2)
    q = d.real(shape=(batch, length, groups * each * depth))
    k, v = (d.real(shape=(batch, length, groups * depth)) for _ in range(2))
    seen = d.const(np.full(batch, length - 1), np.int32)
    operands: list[Value | None] = [q, k, v, None, None, seen, d.const(length, np.int32)]
    d.emit(op, operands, 3, num_heads=groups * each, kv_num_heads=groups)


@generates(MICROSOFT + "RotaryEmbedding")
def rotary(d: Draft, op: str) -> None:
    """Pairs turned by their position."""
    batch, length, number, depth = (d.integer(1, n) for n in (2, 4, 3, 3))
    x = d.real(shape=(batch, number, length, 2 * depth))
    places = d.const(np.tile(np.arange(length), (batch, 1)), np.int64)
    tables = [d.floats((8, depth), known=True) for _ in range(2)]
    d.emit(op, [x, places, *tables], interleaved=int(d.chance(0.5)))


@generates(MICROSOFT + "EmbedLayerNormalization")
def embedding(d: Draft, op: str) -> None:
    """Rows of tables, added and normalized."""
    batch, length, hidden = d.integer(1, 2), d.integer(1, 4), d.integer(1, 6)
    words = d.integers((batch, length), 0, 4, np.int32, known=0.0)
    tables = [d.floats((n, hidden), known=True) for n in (5, 8)]
    scale, shift = (d.floats((hidden,), known=True) for _ in range(2))
    operands: list[Value | None] = [words, None, *tables, None, scale, shift]
    d.emit(op, operands, 2)


@generates("LinearAttention", "CausalConvWithState")
def stateful(d: Draft, op: str) -> None:
    """Sequences with a state."""
    batch, length, channels = (d.integer(1, n) for n in (2, 4, 3))
    if op == "CausalConvWithState":
        x = d.real(shape=(batch, channels, length))
        w = d.floats((channels, 1, d.integer(1, 3)), known=True)
        d.emit(op, [x, w], 2)
        return
    if d.opset < 27:
        raise RejectedError("draft: not in this opset")
    depth = d.integer(1, 4)
    attributes: dict[str, Any] = {"q_num_heads": channels, "kv_num_heads": channels}
    operands = [d.real(shape=(batch, length, channels * depth)) for _ in range(3)]
    d.emit(op, operands, 2, update_rule="linear", **attributes)
