"""Rotary position embedding (Su et al. 2021): pairs of channels turned by an angle of the position.

Each half of the result is a sum of two products, so that integers round it once.
"""

from __future__ import annotations

import numpy as np

from qcompiler.frontends.onnx_attention import apart, together
from qcompiler.frontends.onnx_contrib import MICROSOFT
from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Constant, Op
from qcompiler.ops import Add, Cast, Concat, Gather, Mul, Reshape, Sub


@importer("RotaryEmbedding", since=23)
def rotary_embedding(node: Node) -> Op:
    """Angles of positions, or of the tokens themselves."""
    positions = node.optional(3)
    tables = [node.operand(1), node.operand(2)]
    if positions is not None:
        tables = [simplified(Gather(t, positions)) for t in tables]
    return _embedded(node, node.integer("num_heads"), tables)


@importer("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding_of_onnxruntime(node: Node) -> Op:
    """Angles of positions, which are counted from one place where only that is given."""
    if node.integer("is_packed_batching"):
        raise node.unsupported("is_packed_batching")
    if (scale := node.number("scale", 1.0)) != 1:
        raise node.unsupported(f"scale={scale}")
    x, positions = node.x, node.operand(1)
    tokens = x.type.shape[-2]
    if positions.type.size == 1 and positions.type.shape != (1, tokens):
        positions = places(positions, tokens)
    tables = [simplified(Gather(node.operand(i), positions)) for i in (2, 3)]
    heads = node.integer("num_heads")
    if x.type.rank == 3 and not heads:
        heads = x.type.shape[2] // (2 * tables[0].type.shape[-1])
    return _embedded(node, heads, tables)


def places(first: Op, tokens: int) -> Op:
    """int64 [n, tokens]: the numbers from the first places [n] on."""
    first = reshaped(first, (first.type.size, 1))
    wide = first if first.type.dtype == "int64" else simplified(Cast(first, "int64"))
    return simplified(Add(wide, Constant(np.arange(tokens))))


def _embedded(node: Node, heads: int, tables: list[Op]) -> Op:
    x = node.x
    packed = x.type.rank == 3
    rotated = rotate(
        node,
        apart(node, x, heads) if packed else x,
        tables,
        node.integer("rotary_embedding_dim"),
        bool(node.integer("interleaved")),
    )
    return together(rotated) if packed else rotated


def rotate(node: Node, x: Op, tables: list[Op], size: int, interleaved: bool) -> Op:
    """x [n, heads, tokens, d] with its first `size` channels turned, all of them for 0.

    Args:
        node: For errors.
        x: float32.
        tables: Cosines and sines, each [n or 1, tokens, size / 2].
        size: Even.
        interleaved: Pairs are neighbours, not size / 2 apart.
    """
    n, _, tokens, width = x.type.shape
    half = (size or width) // 2
    if 2 * half != (size or width) or not 0 < 2 * half <= width:
        raise node.broken(f"expected an even number of at most {width} channels, found {size}")
    for table in tables:
        if table.type.shape not in ((n, tokens, half), (1, tokens, half)):
            raise node.broken(f"expected angles [{n}, {tokens}, {half}], found {table.type}")
    cos, sin = (simplified(Reshape(t, (t.type.shape[0], 1, tokens, half))) for t in tables)
    step, second = (2, 1) if interleaved else (1, half)
    stop = 2 * half if interleaved else half
    a = sliced(x, {3: (0, stop, step)})
    b = sliced(x, {3: (second, second + stop - (1 if interleaved else 0), step)})
    parts: tuple[Op, ...] = (
        Sub(Mul(a, cos), Mul(b, sin)),
        Add(Mul(b, cos), Mul(a, sin)),
    )
    if interleaved:
        columns = tuple(Reshape(p, (*p.type.shape, 1)) for p in parts)
        parts = (Reshape(Concat(columns, 4), (*x.type.shape[:3], 2 * half)),)
    if 2 * half < width:
        parts += (sliced(x, {3: (2 * half, width, 1)}),)
    return Concat(parts, 3) if len(parts) > 1 else parts[0]
