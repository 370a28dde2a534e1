"""FoldBatchNorm: normalization becomes part of the weights in front of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from qcompiler.graph import Constant, Graph, Op
from qcompiler.invariants import no_batch_norm, real
from qcompiler.ops import (
    Add,
    BatchNormalization,
    Conv,
    MatMul,
    Mul,
    Reshape,
    Slice,
    Transpose,
)
from qcompiler.passes.base import Pass, Preserves
from qcompiler.passes.linear import is_known, linear, output_axis


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch normalization, and factors per channel, into the product in front.

    With f = γ/√(σ² + ε): conv(x, W, b) becomes conv(x, f·W, f·(b − μ) + β) (Jacob et al. 2018,
    section 3.2).  A normalization behind anything else becomes x·f + (β − μ·f).

    A product that others use as well stays, lest it be computed twice.  Depth-to-space in between,
    as of a transposed convolution, is no obstacle.

    Before::

        graph(%x: float32[1x2x4x4]) {
          %conv: float32[1x2x4x4] = conv(%x, float32[2x2x1x1]#w, window=1x1)
          %batch_normalization: float32[1x2x4x4] = batch_normalization(%conv, float32[2]#g, ...)
          return y=%batch_normalization
        }

    After::

        graph(%x: float32[1x2x4x4]) {
          %conv: float32[1x2x4x4] = conv(%x, float32[2x2x1x1]#fw, float32[2]#b, window=1x1)
          return y=%conv
        }
    """

    requires = (real,)
    ensures = (real, no_batch_norm)
    preserves: ClassVar[Preserves] = "reals"

    def run(self, graph: Graph) -> Graph:
        """Fold until nothing changes."""
        while True:
            uses: dict[Op, int] = {}
            lift, factor, term = (
                partial(rule, uses) for rule in (lift_affine, fold_factor, fold_term)
            )
            new = graph.rewrite(to_affine, lift, factor, term, uses=uses)
            if new is graph:
                return graph
            graph = new


def to_affine(node: Op) -> Op | None:
    """Batch normalization with known parameters → x·f + (β − μ·f), in float64."""
    if not isinstance(node, BatchNormalization):
        return None
    known = [p.array.astype(np.float64) for p in node.operands[1:] if isinstance(p, Constant)]
    if len(known) < len(node.operands) - 1:
        return None
    gamma, beta, mean, variance = known
    factor = gamma / np.sqrt(variance + node.epsilon)
    shape = (-1, *(1,) * (node.x.type.rank - 2))
    f, c = (v.astype(np.float32).reshape(shape) for v in (factor, beta - mean * factor))
    return Add(Mul(node.x, Constant(f)), Constant(c))


def fold_factor(uses: Mapping[Op, int], node: Op) -> Op | None:
    """product·c → product with weights·c and bias·c, unless others use the product."""
    if _is_shared(uses, node):
        return None
    match node:
        case Mul(Conv() | MatMul() as product, Constant(array=c)) if found := linear(product):
            factors = _channels(c, node, product, output_axis(product))
            return None if factors is None else found.scaled(factors)
    return None


def fold_term(uses: Mapping[Op, int], node: Op) -> Op | None:
    """product + c → product with bias + c, unless others use the product."""
    if _is_shared(uses, node):
        return None
    match node:
        case Add(Conv() | MatMul() as product, Constant(array=c)) if is_known(product.bias):
            terms = _channels(c, node, product, output_axis(product))
        case _:
            return None
    if terms is None:
        return None
    if isinstance(product.bias, Constant):
        terms = product.bias.array + terms
    return dataclasses.replace(product, bias=Constant(terms))


def lift_affine(uses: Mapping[Op, int], node: Op) -> Op | None:
    """A factor or term per channel behind what spreads channels over blocks → in front of it.

    So it reaches the convolution that computes the phases of a transposed one.
    """
    match node:
        case Mul(Slice() | Reshape() as x, Constant(array=c)) | Add(
            Slice() | Reshape() as x, Constant(array=c)
        ) if x.type.rank > 2 and uses.get(x, 1) == 1:
            values = _channels(c, node, x, axis=1)
        case _:
            return None
    if values is None:
        return None
    n, channels = x.type.shape[:2]
    match x:
        case Slice(inner) if inner.type.shape[1] == channels:
            pass
        case Reshape(Transpose(Reshape(inner, apart), order)) if (
            inner.type.rank > 2
            and (order[:2], apart[:2], inner.type.shape[0]) == ((0, 1), (n, channels), n)
            and inner.type.shape[1] in channels * np.cumprod(apart[2:])
        ):
            values = np.repeat(values, inner.type.shape[1] // channels)
        case _:
            return None
    wide = values.reshape(-1, *(1,) * (inner.type.rank - 2))
    return _on_top(x, inner, type(node)(inner, Constant(wide)))


def _on_top(x: Op, inner: Op, new: Op) -> Op:
    """The same movements of another operand."""
    return new if x is inner else x.with_operands([_on_top(x.operands[0], inner, new)])


def _is_shared(uses: Mapping[Op, int], node: Op) -> bool:
    return any(isinstance(x, (Conv, MatMul)) and uses.get(x, 1) > 1 for x in node.operands)


def _channels(c: np.ndarray, node: Op, product: Op, axis: int) -> np.ndarray | None:
    """The constant as one float32 per channel; None where it varies along another axis."""
    if node.type != product.type:
        return None
    padded = c.reshape((1,) * (product.type.rank - c.ndim) + c.shape)
    if any(d != 1 for i, d in enumerate(padded.shape) if i != axis):
        return None
    return np.broadcast_to(padded.reshape(-1), (product.type.shape[axis],)).astype(np.float32)
