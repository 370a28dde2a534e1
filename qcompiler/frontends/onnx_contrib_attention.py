"""Importers of ONNX Runtime's attention: packed operands, masks of many forms, caches."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.frontends.onnx_attention import (
    apart,
    appended,
    band,
    before,
    both,
    repeated,
    scores,
    together,
)
from qcompiler.frontends.onnx_contrib import MICROSOFT
from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.frontends.onnx_rotary import places, rotate
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    Cast,
    Concat,
    Gather,
    GreaterEqual,
    MatMul,
    Pad,
    Select,
    Softmax,
    Transpose,
    scalar,
)
from qcompiler.types import FLOAT

_FILTER = -10000.0
"""What masked scores are given where the node says nothing."""


@importer("Attention", domain=MICROSOFT)
def attention(node: Node) -> tuple[Op, ...]:
    """Self-attention with the projection of queries, keys and values in front."""
    if node.optional(6) is not None:
        raise node.unsupported("a shared buffer for its cache")
    if node.integer("do_rotary"):
        raise node.unsupported("do_rotary")
    x, weights = node.x, node.operand(1)
    heads = _count(node, "num_heads")
    width = weights.type.shape[-1]
    sizes = node.integers("qkv_hidden_sizes") or (width // 3,) * 3
    if x.type.rank != 3 or weights.type.rank != 2 or sum(sizes) != width or len(sizes) != 3:
        raise node.broken(f"expected weights for {sizes}, found {weights.type}")
    q, k, v = (
        apart(node, part, heads) for part in _parts(MatMul(x, weights, node.optional(2)), sizes)
    )
    past_k, past_v = None, None
    if (past := node.optional(4)) is not None:
        if past.type.rank != 5 or past.type.shape[0] != 2:
            raise node.broken(f"expected a cache [2, n, heads, positions, d], found {past.type}")
        past_k, past_v = (_row(past, i) for i in range(2))
    y, k, v = _attend(node, (q, k, v), (past_k, past_v), node.optional(3), node.optional(5))
    if len(node.outputs) < 2 or not node.outputs[1]:
        return (y,)
    return y, Concat(tuple(reshaped(z, (1, *z.type.shape)) for z in (k, v)), 0)


@importer("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(node: Node) -> tuple[Op, ...]:
    """Attention of queries, keys and values that are packed in one, in two, or apart."""
    for i, what in ((8, "a shared buffer for its cache"), (9, "beams")):
        if node.optional(i) is not None:
            raise node.unsupported(what)
    heads = _count(node, "num_heads")
    key, value = node.optional(1), node.optional(2)
    parts: tuple[Op, ...]
    if node.x.type.rank == 5:  # [n, positions, heads, 3, d]
        parts = tuple(_unpacked(node.x, i) for i in range(3))
    elif key is not None and key.type.rank == 5:  # [n, positions, heads, 2, d]
        parts = (node.x, _unpacked(key, 0), _unpacked(key, 1))
    elif key is not None and value is not None:
        parts = (node.x, key, value)
    else:
        raise node.broken("expected keys and values")
    if (bias := node.optional(3)) is not None:
        parts = _biased(node, parts, bias)
    q, k, v = (p if p.type.rank == 4 else apart(node, p, heads) for p in parts)
    past = node.optional(6), node.optional(7)
    return _attend(node, (q, k, v), past, node.optional(4), node.optional(5))


def _count(node: Node, name: str) -> int:
    if (count := node.integer(name)) < 1:
        raise node.broken(f"{name}: expected at least 1, found {count}")
    return count


def _parts(x: Op, sizes: tuple[int, ...]) -> list[Op]:
    """x cut along its last axis."""
    last = x.type.rank - 1
    stops = np.cumsum(sizes).tolist()
    return [sliced(x, {last: (b - n, b, 1)}) for n, b in zip(sizes, stops, strict=True)]


def _row(x: Op, index: int) -> Op:
    return reshaped(sliced(x, {0: (index, index + 1, 1)}), x.type.shape[1:])


def _unpacked(x: Op, index: int) -> Op:
    """Part `index` of [n, positions, heads, parts, d] as [n, positions, heads·d]."""
    n, positions, heads, _, size = x.type.shape
    return reshaped(sliced(x, {3: (index, index + 1, 1)}), (n, positions, heads * size))


def _biased(node: Node, parts: tuple[Op, ...], bias: Op) -> tuple[Op, ...]:
    """What [n, positions, width] is gets its part of the bias; the rest is projected already."""
    if any(p.type.rank == 4 for p in parts):
        found = _parts(bias, (parts[0].type.shape[-1], bias.type.size - parts[0].type.shape[-1]))
        return Add(parts[0], found[0]), *parts[1:]
    sizes = tuple(p.type.shape[-1] for p in parts)
    if bias.type.shape != (sum(sizes),):
        raise node.broken(f"expected a bias [{sum(sizes)}], found {bias.type}")
    return tuple(
        Add(p, b) for p, b in zip(parts, map(simplified, _parts(bias, sizes)), strict=True)
    )


def _attend(
    node: Node,
    heads: tuple[Op, Op, Op],
    past: tuple[Op | None, Op | None],
    mask: Op | None,
    terms: Op | None,
) -> tuple[Op, Op, Op]:
    """The result [n, positions, width], and keys and values with the cache in front."""
    q, k, v = heads
    (n, _, queries, _), first = q.type.shape, 0 if past[0] is None else past[0].type.shape[2]
    k, v = appended(past[0], k), appended(past[1], v)
    keys = k.type.shape[2]
    kept = band(queries, keys, first, right=0) if node.integer("unidirectional") else None
    bias = terms
    if mask is not None:
        low = scalar(node.number("mask_filter_value", _FILTER), FLOAT)
        seen = _seen(node, mask, n, queries, keys)
        chosen = simplified(Select(seen, scalar(0, FLOAT), low))
        bias = chosen if terms is None else Add(terms, chosen)
    scale = node.number("scale") or None
    steps = scores(node, q, k, scale, bias=bias, kept=kept)
    return together(MatMul(steps.probabilities, v)), k, v


def _seen(node: Node, mask: Op, n: int, queries: int, keys: int) -> Op:
    """Which keys a mask of ONNX Runtime keeps, [n, 1, 1 or queries, keys]: not 0, or counted."""
    shape = mask.type.shape
    if shape in ((n,), (2 * n,), (3 * n + 2,)):
        wide = simplified(Cast(mask, "int64")) if mask.type.dtype != "int64" else mask
        stop, start = (
            simplified(sliced(wide, {0: (i * n, min(i * n + n, shape[0]), 1)})) for i in range(2)
        )
        kept = before(simplified(reshaped(stop, (n, 1, 1, 1))), keys)
        if shape == (2 * n,):
            first = simplified(reshaped(start, (n, 1, 1, 1)))
            found = both(kept, simplified(GreaterEqual(Constant(np.arange(keys)), first)))
            assert found is not None
            kept = found
        return kept
    if shape == (n, keys):
        mask = reshaped(mask, (n, 1, 1, keys))
    elif shape == (n, queries, keys):
        mask = reshaped(mask, (n, 1, queries, keys))
    elif len(shape) == 4 and shape[1] == 1 and shape[2] >= queries and shape[3] >= keys:
        mask = sliced(mask, {2: (keys - queries, keys, 1), 3: (0, keys, 1)})
    else:
        raise node.unsupported(f"a mask {mask.type} for {queries} queries and {keys} keys")
    return simplified(GreaterEqual(simplified(mask), scalar(1, mask.type.dtype)))


@importer("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(node: Node) -> tuple[Op, ...]:
    """Causal attention of a decoder, keys and values for several heads each; prefill, or one cache.

    The cache that comes in is full, or there is none: its length is a part of the shapes.
    """
    for i, what in (
        (12, "a quantized cache"),
        (13, "a quantized cache"),
        (14, "normalized queries"),
        (15, "normalized keys"),
    ):
        if node.optional(i) is not None:
            raise node.unsupported(what)
    for name, usual in (("qk_output", 0), ("causal", 1), ("sliding_window_cache", 0)):
        if (found := node.integer(name, usual)) != usual:
            raise node.unsupported(f"{name}={found}")
    heads, kv_heads = _count(node, "num_heads"), _count(node, "kv_num_heads")
    x, key, value = node.x, node.optional(1), node.optional(2)
    if key is None or value is None:  # packed
        size = x.type.shape[-1] // (heads + 2 * kv_heads)
        parts = _parts(x, (heads * size, kv_heads * size, kv_heads * size))
    else:
        parts = [x, key, value]
    q, k, v = (apart(node, p, heads if i == 0 else kv_heads) for i, p in enumerate(parts))
    n, _, queries, _ = q.type.shape
    past = node.optional(3), node.optional(4)
    first = 0 if past[0] is None else past[0].type.shape[2]
    lengths = _lengths(node, n, first, queries)
    if node.integer("do_rotary"):
        positions = node.optional(9) or Constant(np.arange(first, first + queries)[None])
        tables = [simplified(Gather(node.operand(i), positions)) for i in (7, 8)]
        interleaved = bool(node.integer("rotary_interleaved"))
        size = 2 * tables[0].type.shape[-1]
        q, k = (rotate(node, z, tables, size, interleaved) for z in (q, k))
    k, v = appended(past[0], k), appended(past[1], v)
    keys = k.type.shape[2]
    window = node.integer("local_window_size", -1)
    kept = band(queries, keys, first, window - 1 if window > 0 else -1, 0)
    kept = both(kept, lengths)
    scale, cap = node.number("scale") or None, node.number("softcap")
    steps = scores(
        node, q, repeated(node, k, heads), scale, cap=cap, bias=node.optional(10), kept=kept
    )
    y = _with_sink(node, steps.biased, kept, repeated(node, v, heads))
    return together(y), k, v


def _lengths(node: Node, n: int, first: int, queries: int) -> Op | None:
    """Which keys are no padding.

    Raises:
        UnsupportedError: a cache that may not be full.
    """
    last = node.operand(5)
    if last.type.size != n:
        raise node.broken(f"expected {n} lengths, found {last.type}")
    keys = first + queries
    if isinstance(last, Constant) and (last.array == keys - 1).all():
        return None
    if first:
        raise node.unsupported("a cache of computed length: export the model without a cache")
    counts = places(last, 1)  # the last place is one less than the count
    return before(simplified(reshaped(Add(counts, scalar(1, "int64")), (n, 1, 1, 1))), keys)


def _with_sink(node: Node, logits: Op, kept: Op | None, v: Op) -> Op:
    """softmax(logits)·v, where a sink takes part in the sum: one more key whose value is 0."""
    sink = node.optional(11)
    if sink is None and node.integer("smooth_softmax", -1) != 1:
        return MatMul(Softmax(logits, 3, kept), v)
    n, heads, queries, _ = logits.type.shape
    column: Op = Constant(np.zeros((n, heads, queries, 1), np.float32))
    if sink is not None:
        column = simplified(Add(column, simplified(reshaped(sink, (1, heads, 1, 1)))))
    if kept is not None:
        always = Constant(np.ones((*kept.type.shape[:-1], 1), bool))
        kept = simplified(Concat((kept, always), kept.type.rank - 1))
    weights = Softmax(Concat((logits, column), 3), 3, kept)
    return MatMul(weights, Pad(v, (0, 0, 0, 0), (0, 0, 1, 0)))


@importer("RelativePositionBias", domain=MICROSOFT)
def relative_position_bias(node: Node) -> Op:
    """T5's terms of relative positions (Raffel et al. 2020, section 2.1): [1, heads, q, k]."""
    table = node.x
    queries, keys = node.known_scalar(1, "query length"), node.known_scalar(2, "key length")
    assert queries is not None
    assert keys is not None
    ahead = np.arange(int(keys)) - np.arange(int(queries))[:, None]
    buckets, base = table.type.shape[0], np.zeros(ahead.shape, np.int64)
    if node.integer("is_bidirectional"):
        buckets //= 2
        base = np.where(ahead > 0, buckets, 0)
        distance = np.abs(ahead)
    else:
        distance = np.maximum(-ahead, 0)
    exact, furthest = buckets // 2, _count(node, "max_distance")
    steps = np.log(np.maximum(distance, 1) / exact) / math.log(furthest / exact)
    far = np.minimum(exact + (steps * (buckets - exact)).astype(np.int64), buckets - 1)
    rows = Constant(base + np.where(distance < exact, distance, far))
    found = simplified(Transpose(simplified(Gather(table, rows)), (2, 0, 1)))
    return simplified(reshaped(found, (1, *found.type.shape)))
