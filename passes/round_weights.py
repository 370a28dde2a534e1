"""RoundWeights: choose the codes of weights for what they do to the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy import linalg

from qcompiler.calibrate.moments import Moments
from qcompiler.fixed_point import dequantize, round_half_up
from qcompiler.graph import Constant, Graph, Op, fold, rebuilt
from qcompiler.invariants import quantized
from qcompiler.ops import Dequantize, MatMul, Quantize
from qcompiler.passes.base import Pass, Preserves
from qcompiler.types import Quantization, TensorType

BLOCK = 64
"""Channels whose errors are passed on to the later blocks at once."""


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Round the weights of matrix products so that their errors cancel on real inputs.

    GPTQ (Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers", algorithm 1, after Hassibi & Stork's optimal brain surgeon): with H = Σ x·xᵀ over
    the inputs of a product, weights are rounded one input channel after the other, and each error
    is made good by the channels not yet rounded, −e·H⁻¹[i, j:] / H⁻¹[i, i].  Channels go by
    falling H[i, i].  What remains of the mean error, E[x]·(W − Ŵ), goes into the bias (bias
    correction, Nagel et al. 2019, section 4.2).

    Attributes:
        moments: Second moments of the inputs of products, by value name in the graph.
        damping: Added to the diagonal of H, as a share of its mean.
        most_channels: Products with more input channels are rounded to nearest.
    """

    moments: Mapping[str, Moments] = field(default_factory=dict)
    damping: float = 0.01
    most_channels: int = 4096

    requires = (quantized,)
    ensures = (quantized,)
    preserves: ClassVar[Preserves] = "nothing"

    def observed(self, graph: Graph) -> Mapping[str, int]:
        """The inputs of products by name, with the number of their channels."""
        found = {}
        for node in graph.ops:
            match node:
                case MatMul(x, Dequantize(Quantize(Constant() as w))) if w.type.rank == 2:
                    if w.type.shape[0] <= self.most_channels:
                        found[graph.names[x]] = w.type.shape[0]
        return found

    def run(self, graph: Graph) -> Graph:
        """Round every weight whose inputs were observed."""
        factors: dict[str, tuple[np.ndarray, np.ndarray]] = {}

        def visit(node: Op, operands: list[Op]) -> Op:
            new = rebuilt(node, operands)
            name = graph.names[node.a] if isinstance(node, MatMul) else ""
            if name not in self.moments:
                return new
            if name not in factors:
                factors[name] = _factor(self.moments[name], self.damping)
            return self._rounded(new, name, *factors[name])

        return graph.with_outputs(fold(graph.outputs.values(), {}, visit))

    def _rounded(self, node: Op, name: str, order: np.ndarray, u: np.ndarray) -> Op:
        match node:
            case MatMul(_, Dequantize(Quantize(Constant(array=w) as old, q)), bias) if (
                w.ndim == 2 and (bias is None or isinstance(bias, Constant))
            ):
                codes = _codes(w.astype(np.float64), q, order, u)
            case _:
                return node
        kind = TensorType(q.bounds.dtype, w.shape, q)
        rest = self.moments[name].mean @ (w - dequantize(codes, q))
        if bias is not None:
            rest = rest + bias.array
        weight = Dequantize(Constant(codes, kind, name=old.name, sources=old.sources))
        return dataclasses.replace(node, b=weight, bias=Constant(rest.astype(np.float32)))


def _factor(moments: Moments, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """The order of the channels, and the upper Cholesky factor of H⁻¹ in that order."""
    h = moments.products / max(moments.count, 1)
    diagonal = h.diagonal().copy()
    h[np.diag_indices_from(h)] += damping * diagonal.mean() + np.finfo(np.float64).tiny
    order = np.argsort(-diagonal, kind="stable")
    inverse = linalg.inv(h[np.ix_(order, order)])
    return order, linalg.cholesky(inverse, lower=False)


def _codes(w: np.ndarray, q: Quantization, order: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Codes of the weights [k, n], rounded channel by channel in blocks."""
    scales, bounds = np.array(q.scale), q.bounds
    left = w[order].copy()
    codes = np.empty(w.shape, np.int64)
    size = len(order)
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        errors = np.empty((end - start, w.shape[1]))
        for i in range(start, end):
            codes[i] = np.clip(round_half_up(left[i] / scales), -bounds.high, bounds.high)
            errors[i - start] = (left[i] - codes[i] * scales) / u[i, i]
            left[i + 1 : end] -= np.outer(u[i, i + 1 : end], errors[i - start])
        left[end:] -= u[start:end, end:].T @ errors
    result = np.empty(w.shape, bounds.dtype)
    result[order] = codes.astype(bounds.dtype)
    return result
