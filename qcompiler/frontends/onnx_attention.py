"""Attention as products around a softmax, and its importer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    And,
    Concat,
    Expand,
    GreaterEqual,
    MatMul,
    Mul,
    Reshape,
    Softmax,
    Sub,
    Tanh,
    Transpose,
    scalar,
)
from qcompiler.types import FLOAT


@dataclass(frozen=True)
class Scores:
    """softmax(f(q·kᵀ·scale) + bias) step by step, each [n, heads, queries, keys].

    Attributes:
        scaled: q·kᵀ·scale.
        capped: cap·tanh(scaled / cap), or `scaled`.
        biased: `capped` with the terms of a mask or of positions.
        kept: Where keys are seen: bool, or None for all.
    """

    scaled: Op
    capped: Op
    biased: Op
    kept: Op | None

    @property
    def probabilities(self) -> Op:
        """Over the keys."""
        return Softmax(self.biased, 3, self.kept)


def scores(
    node: Node,
    q: Op,
    k: Op,
    scale: float | None,
    *,
    cap: float = 0.0,
    bias: Op | None = None,
    kept: Op | None = None,
) -> Scores:
    """The scores of queries [n, heads, queries, d] and keys; the scale is 1/√d by default."""
    if q.type.shape[-1] != k.type.shape[-1]:
        raise node.broken(f"expected queries and keys of one size, found {q.type} and {k.type}")
    scaled: Op = MatMul(q, Transpose(k, (0, 1, 3, 2)))
    factor = q.type.shape[3] ** -0.5 if scale is None else scale
    capped = scaled = Mul(scaled, scalar(factor, FLOAT))
    if cap > 0:
        capped = Mul(Tanh(Mul(scaled, scalar(1 / cap, FLOAT))), scalar(cap, FLOAT))
    biased = capped if bias is None else Add(capped, bias)
    if biased.type.shape != scaled.type.shape:
        raise node.broken(f"expected a mask that broadcasts to {scaled.type}, found {bias}")
    return Scores(scaled, capped, biased, kept)


def apart(node: Node, x: Op, heads: int) -> Op:
    """[n, positions, heads·d] as [n, heads, positions, d]."""
    if x.type.rank != 3 or heads < 1 or x.type.shape[2] % heads:
        raise node.broken(f"expected {heads or 'a number of'} heads, found {x.type}")
    n, positions, width = x.type.shape
    return Transpose(Reshape(x, (n, positions, heads, width // heads)), (0, 2, 1, 3))


def together(x: Op) -> Op:
    """[n, heads, positions, d] as [n, positions, heads·d]."""
    n, heads, positions, size = x.type.shape
    return Reshape(Transpose(x, (0, 2, 1, 3)), (n, positions, heads * size))


def repeated(node: Node, x: Op, heads: int) -> Op:
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


def appended(past: Op | None, x: Op) -> Op:
    """A cache [n, heads, positions, d] and what comes behind it."""
    return x if past is None or not past.type.size else Concat((past, x), 2)


def both(a: Op | None, b: Op | None) -> Op | None:
    """a and b, where None is true."""
    if a is None or b is None:
        return b if a is None else a
    return simplified(And(a, b))


def band(
    queries: int, keys: int, offset: Op | int = 0, left: int = -1, right: int = -1
) -> Op | None:
    """Which keys a query may see by its place, bool [..., queries, keys]; None: all.

    Args:
        queries: How many there are.
        keys: How many there are.
        offset: The place of the first query among the keys; int64 [n, 1, 1, 1] where computed.
        left: How many keys before its own place a query sees; −1 for all.
        right: How many keys behind its own place it sees; −1 for all.
    """
    rows, columns = np.arange(queries)[:, None], np.arange(keys)
    if isinstance(offset, int):
        ahead = columns - rows - offset
        bounds = (-left if left >= 0 else -math.inf, right if right >= 0 else math.inf)
        kept = (ahead >= bounds[0]) & (ahead <= bounds[1])
        return None if kept.all() else Constant(kept)
    place, column = simplified(Add(offset, Constant(rows))), Constant(columns)
    found: Op | None = None
    if left >= 0:
        first = simplified(Sub(place, scalar(left, "int64")))
        found = simplified(GreaterEqual(column, first))
    if right >= 0:
        last = simplified(Add(place, scalar(right, "int64")))
        found = both(found, simplified(GreaterEqual(last, column)))
    return found


def before(counts: Op, keys: int) -> Op:
    """Which keys come before a count: bool [n, 1, 1, keys] of int64 [n, 1, 1, 1]."""
    last = simplified(Sub(counts, scalar(1, "int64")))
    return simplified(GreaterEqual(last, Constant(np.arange(keys))))


@importer("Attention", since=23)
def attention(node: Node) -> Op | tuple[Op, ...]:
    """softmax(q·kᵀ·scale + bias)·v over the positions that masks keep, head by head."""
    packed = node.x.type.rank == 3
    q, k, v = (_heads(node, i, "q" if i == 0 else "kv") for i in range(3))
    k, v = appended(node.optional(4), k), appended(node.optional(5), v)
    n, heads, queries, _ = q.type.shape
    keys, offset = k.type.shape[2], 0 if (past := node.optional(4)) is None else past.type.shape[2]
    place: Op | int = offset
    kept = None
    if (counts := node.optional(6)) is not None:
        counts = reshaped(counts, (n, 1, 1, 1))
        kept = before(counts, keys)
        place = simplified(Sub(counts, scalar(queries, "int64")))
    left, right = node.integer("left_window_size", -1), node.integer("right_window_size", -1)
    if node.integer("is_causal"):
        right = 0 if right < 0 else min(right, 0)
    kept = both(kept, band(queries, keys, place, left, right))
    bias, seen = _mask(node, keys)
    kept = both(kept, seen)
    scale, cap = node.attributes.get("scale"), node.number("softcap")
    steps = scores(node, q, repeated(node, k, heads), scale, cap=cap, bias=bias, kept=kept)
    probabilities = steps.probabilities
    y = MatMul(probabilities, repeated(node, v, heads))
    results = [together(y) if packed else y, k, v]
    if len(node.outputs) > 3 and node.outputs[3]:
        mode = node.integer("qk_matmul_output_mode")
        if mode == 2 and kept is not None:
            raise node.unsupported("scores of −∞ as an output")
        if not 0 <= mode <= 3:
            raise node.broken(f"qk_matmul_output_mode: expected 0 to 3, found {mode}")
        results.append((steps.scaled, steps.capped, steps.biased, probabilities)[mode])
    return tuple(results)


def _heads(node: Node, index: int, whose: str) -> Op:
    """An operand as [n, heads, positions, size]."""
    x = node.operand(index)
    return x if x.type.rank == 4 else apart(node, x, node.integer(f"{whose}_num_heads"))


def _mask(node: Node, keys: int) -> tuple[Op | None, Op | None]:
    """The terms of a mask, and which keys it keeps; it may be shorter than the keys are many."""
    if (mask := node.optional(3)) is None:
        return None, None
    missing = keys - mask.type.shape[-1]
    kept = None
    if missing > 0:
        kept = Constant(np.arange(keys) < mask.type.shape[-1])
        mask = padded(mask, missing)
    if mask.type.dtype == "bool":
        return None, both(mask, kept)
    return mask, kept


def padded(x: Op, count: int) -> Op:
    """x with zeros behind its last axis."""
    zeros = np.zeros((*x.type.shape[:-1], count), x.type.dtype)
    return simplified(Concat((x, Constant(zeros)), x.type.rank - 1))
