"""Importer of attention, as products around a softmax."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Constant, Op
from qcompiler.ops import Add, And, Expand, MatMul, Mul, Reshape, Softmax, Tanh, Transpose, scalar
from qcompiler.types import FLOAT


@importer("Attention", since=23)
def attention(node: Node) -> Op:
    """softmax(q·kᵀ·scale + bias)·v over the positions that masks keep, head by head."""
    for i, what in ((4, "a cache of keys"), (5, "a cache of values"), (6, "padded keys")):
        if node.optional(i) is not None:
            raise node.unsupported(what)
    packed = node.x.type.rank == 3
    q, k, v = (_heads(node, i, "q" if i == 0 else "kv") for i in range(3))
    heads, size = q.type.shape[1], q.type.shape[3]
    k, v = (_repeated(node, x, heads) for x in (k, v))
    scale = node.attributes.get("scale")
    scores: Op = MatMul(q, Transpose(k, (0, 1, 3, 2)))
    scores = Mul(scores, scalar(size**-0.5 if scale is None else scale, FLOAT))
    if (cap := node.number("softcap")) > 0:
        scores = Mul(Tanh(Mul(scores, scalar(1 / cap, FLOAT))), scalar(cap, FLOAT))
    kept: Op | None = _band(node, *scores.type.shape[2:])
    if (mask := node.optional(3)) is not None:
        if mask.type.shape[-1:] != scores.type.shape[-1:]:
            raise node.unsupported("a mask of fewer keys")
        if mask.type.dtype == "bool":
            kept = mask if kept is None else simplified(And(mask, kept))
        else:
            shape = scores.type.shape
            scores = Add(scores, mask)
            if scores.type.shape != shape:
                raise node.broken(f"expected a mask that broadcasts to {shape}, found {mask.type}")
    y = MatMul(Softmax(scores, 3, kept), v)
    if not packed:
        return y
    n, _, rows, width = y.type.shape
    return Reshape(Transpose(y, (0, 2, 1, 3)), (n, rows, heads * width))


def _heads(node: Node, index: int, whose: str) -> Op:
    """An operand as [n, heads, positions, size]."""
    x = node.operand(index)
    if x.type.rank == 4:
        return x
    heads = node.integer(f"{whose}_num_heads")
    if x.type.rank != 3 or heads < 1 or x.type.shape[2] % heads:
        raise node.broken(f"expected {heads or 'a number of'} heads, found {x.type}")
    n, positions, width = x.type.shape
    return Transpose(Reshape(x, (n, positions, heads, width // heads)), (0, 2, 1, 3))


def _repeated(node: Node, x: Op, heads: int) -> Op:
    """Keys or values for every head of the queries; each serves several where there are fewer."""
    n, own, positions, size = x.type.shape
    if heads == own:
        return x
    if heads % own:
        raise node.broken(f"expected heads that divide {heads}, found {own}")
    groups = Expand(
        Reshape(x, (n, own, 1, positions, size)), (n, own, heads // own, *x.type.shape[2:])
    )
    return Reshape(groups, (n, heads, positions, size))


def _band(node: Node, rows: int, columns: int) -> Constant | None:
    """Which keys a query may see by its place: none behind it if causal, those in its window."""
    ahead = np.arange(columns) - np.arange(rows)[:, None]
    left, right = node.integer("left_window_size", -1), node.integer("right_window_size", -1)
    if node.integer("is_causal"):
        right = 0 if right < 0 else min(right, 0)
    bounds = (-left if left >= 0 else -math.inf, right if right >= 0 else math.inf)
    kept = (ahead >= bounds[0]) & (ahead <= bounds[1])
    return None if kept.all() else Constant(kept)
