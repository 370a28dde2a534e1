"""Attention whose state has one size for any number of tokens, and the convolution beside it."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.frontends.onnx_attention import apart, repeated, together
from qcompiler.frontends.onnx_conv import bias_of, convolved
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.frontends.onnx_windows import Axis
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    Concat,
    Exp,
    MatMul,
    Mul,
    Reshape,
    Sigmoid,
    Sub,
    Transpose,
    scalar,
)
from qcompiler.types import FLOAT

LONGEST = 512
"""Tokens that are imported one by one."""


@importer("LinearAttention", since=27)
def linear_attention(node: Node) -> tuple[Op, Op]:
    """S ← e^g·S + k·(β·(v − k·S)) and q·S·scale, token by token (Yang et al. 2024)."""
    rule = node.text("update_rule")
    if rule not in ("linear", "gated", "delta", "gated_delta"):
        raise node.broken(f"update_rule: expected one that is known, found {rule!r}")
    heads, own = node.integer("q_num_heads"), node.integer("kv_num_heads")
    q = apart(node, node.x, heads)
    k, v = (apart(node, node.operand(i), own) for i in (1, 2))
    (n, _, tokens, size), width = k.type.shape, v.type.shape[3]
    if tokens > LONGEST:
        raise node.unsupported(f"{tokens} tokens, at most {LONGEST}")
    decay = _gate(node, 4, "gated" in rule, (own, own * size))
    beta = _gate(node, 5, "delta" in rule, (own, 1))
    grow = None if decay is None else Exp(Transpose(decay, (0, 1, 2, 4, 3)))
    state = node.optional(3) or Constant(np.zeros((n, own, size, width), np.float32))
    results = []
    for t in range(tokens):
        here = (sliced(x, {2: (t, t + 1, 1)}) for x in (q, k, v))
        query, key, value = here
        if grow is not None:
            state = Mul(state, _of_token(grow, t))
        if beta is not None:
            value = Mul(Sub(value, MatMul(key, state)), _of_token(beta, t))
        state = Add(state, Mul(Transpose(key, (0, 1, 3, 2)), value))
        results.append(MatMul(query, repeated(node, state, heads)))
    scale = node.number("scale") or 1 / math.sqrt(size)
    return together(Mul(Concat(tuple(results), 2), scalar(scale, FLOAT))), state


def _gate(node: Node, index: int, wanted: bool, widths: tuple[int, ...]) -> Op | None:
    """A gate [n, tokens, heads·d] as [n, heads, tokens, 1, d]; one head may stand for all."""
    x = node.optional(index)
    if (x is not None) != wanted:
        raise node.broken(f"expected {'an' if wanted else 'no'} operand {index} for its rule")
    if x is None:
        return None
    own = node.integer("kv_num_heads")
    if x.type.rank != 3 or x.type.shape[2] not in widths:
        raise node.broken(f"expected gates of {widths} channels, found {x.type}")
    n, tokens, width = x.type.shape
    heads = 1 if width % own else own
    parts = Transpose(Reshape(x, (n, tokens, heads, width // heads)), (0, 2, 1, 3))
    return Reshape(parts, (n, heads, tokens, 1, width // heads))


def _of_token(x: Op, t: int) -> Op:
    part = sliced(x, {2: (t, t + 1, 1)})
    return reshaped(part, (*part.type.shape[:2], *part.type.shape[3:]))


@importer("CausalConvWithState", since=27)
def causal_convolution(node: Node) -> tuple[Op, Op]:
    """Each channel convolved with what came before, and the last tokens for the next call."""
    x, weight = node.x, node.operand(1)
    if x.type.rank != 3 or weight.type.rank != 3 or weight.type.shape[1] != 1:
        raise node.broken(f"expected [n, c, tokens] and [c, 1, k], found {x.type}, {weight.type}")
    if weight.type.shape[0] != x.type.shape[1]:
        raise node.broken(f"expected a weight for {x.type}, found {weight.type}")
    if (activation := node.text("activation")) not in ("none", "silu", "swish"):
        raise node.broken(f"activation: expected none, silu or swish, found {activation!r}")
    (n, channels, _), kernel = x.type.shape, weight.type.shape[2]
    past = node.optional(3) or Constant(np.zeros((n, channels, kernel - 1), np.float32))
    whole = Concat((past, x), 2) if kernel > 1 else x
    length = whole.type.shape[2]
    y = convolved(node, whole, weight, bias_of(node, 2, channels), [Axis(kernel)], channels)
    if activation != "none":
        y = Mul(y, Sigmoid(y))
    return y, sliced(whole, {2: (length - kernel + 1, length, 1)})
