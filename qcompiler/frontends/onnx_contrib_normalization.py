"""Importers of sums and normalizations that ONNX Runtime's optimizer fuses."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.frontends.onnx_activation import biased, gelu_by_erf
from qcompiler.frontends.onnx_contrib import MICROSOFT
from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_normalization import affine, inverse_deviation
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    Cast,
    Equal,
    Gather,
    Mul,
    Normalize,
    ReduceMean,
    ReduceSum,
    Reshape,
    Sigmoid,
    Softmax,
    Sub,
    scalar,
)


@importer("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(node: Node) -> tuple[Op, ...]:
    """Normalization of a residual sum, and the sum itself."""
    total = _residual(node, node.optional(4))
    axes, epsilon = (total.type.rank - 1,), node.number("epsilon")
    y = affine(node, Normalize(total, axes, epsilon), node.operand(2), node.optional(3))
    mean = ReduceMean(total, axes)
    return y, mean, inverse_deviation(Sub(total, mean), axes, epsilon), total


@importer("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_rms_normalization(node: Node) -> tuple[Op, ...]:
    """The same by root mean square."""
    total = _residual(node, node.optional(3))
    axes, epsilon = (total.type.rank - 1,), node.number("epsilon")
    y = affine(node, Normalize(total, axes, epsilon, center=False), node.operand(2), None)
    return y, ReduceMean(total, axes), inverse_deviation(total, axes, epsilon), total


def _residual(node: Node, bias: Op | None) -> Op:
    return biased(node, biased(node, node.x, bias), node.operand(1))


@importer("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(node: Node) -> tuple[Op, ...]:
    """BERT's embeddings: words, places and segments, summed and normalized; tokens counted."""
    ids = node.x
    if ids.type.rank != 2:
        raise node.broken(f"expected token ids [n, tokens], found {ids.type}")
    n, tokens = ids.type.shape
    places = node.optional(8) or Constant(np.arange(tokens)[None])
    total: Op = Add(Gather(node.operand(2), ids), simplified(Gather(node.operand(3), places)))
    segments, table = node.optional(1), node.optional(4)
    if segments is not None and table is not None:
        total = Add(total, simplified(Gather(table, segments)))
    normal = Normalize(total, (2,), node.number("epsilon"))
    y = affine(node, normal, node.operand(5), node.operand(6))
    mask, count = node.optional(7), Constant(np.zeros(n, np.int32))
    if mask is None:
        return y, count, total
    kept = Cast(Equal(mask, scalar(1, mask.type.dtype)), "int32")
    return y, Reshape(ReduceSum(kept, (1,)), (n,)), total


@importer("BiasAdd", domain=MICROSOFT)
def bias_add(node: Node) -> Op:
    """x + bias + skip."""
    return biased(node, biased(node, node.x, node.operand(1)), node.operand(2))


@importer("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(node: Node) -> Op:
    """The first half of the channels times GELU of the second."""
    x = biased(node, node.x, node.operand(1))
    last, width = x.type.rank - 1, x.type.shape[-1]
    if width % 2:
        raise node.broken(f"expected an even number of channels, found {x.type}")
    first, second = (sliced(x, {last: (a, a + width // 2, 1)}) for a in (0, width // 2))
    return Mul(first, gelu_by_erf(second))


@importer("BiasSoftmax", domain=MICROSOFT)
def bias_softmax(node: Node) -> Op:
    """softmax(x + bias) over the axes from `axis` on."""
    x = biased(node, node.x, node.operand(1))
    axis = node.axis(node.integer("axis"), x.type.rank)
    if axis == x.type.rank - 1:
        return Softmax(x, axis)
    rows = Reshape(x, (math.prod(x.type.shape[:axis]), math.prod(x.type.shape[axis:])))
    return Reshape(Softmax(rows, 1), x.type.shape)


@importer("GroupNorm", domain=MICROSOFT)
def group_norm(node: Node) -> Op:
    """Groups of channels normalized together, and SiLU behind it on demand."""
    return _grouped(node, node.x)


@importer("SkipGroupNorm", domain=MICROSOFT)
def skip_group_norm(node: Node) -> tuple[Op, ...]:
    """The same of a residual sum, and the sum itself; skip is [n, 1, 1, c] or [n, c] at least."""
    skip = node.operand(3)
    if skip.type.rank == 2:
        skip = reshaped(skip, (skip.type.shape[0], 1, 1, skip.type.shape[1]))
    total = biased(node, biased(node, node.x, skip), node.optional(4))
    return _grouped(node, total), total


def _grouped(node: Node, x: Op) -> Op:
    last, shape, groups = node.integer("channels_last"), x.type.shape, node.integer("groups")
    if len(shape) != 4:
        raise node.broken(f"expected images, found {x.type}")
    channels = shape[3] if last else shape[1]
    if groups < 1 or channels % groups:
        raise node.broken(f"groups: expected a divisor of {channels}, found {groups}")
    each = (groups, channels // groups)
    apart = (*shape[:3], *each) if last else (shape[0], *each, *shape[2:])
    axes = (1, 2, 4) if last else (2, 3, 4)
    y: Op = Normalize(Reshape(x, apart), axes, node.number("epsilon"))
    inner = each if last else (*each, 1, 1)
    scale, bias = (simplified(reshaped(node.operand(i), inner)) for i in (1, 2))
    y = Reshape(affine(node, y, scale, bias), shape)
    return Mul(y, Sigmoid(y)) if node.integer("activation") else y
