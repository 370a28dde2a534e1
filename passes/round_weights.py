"""RoundWeights: choose the codes of weights for what they do to the result."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy import linalg

from qcompiler.config import ROUNDING
from qcompiler.errors import CalibrationError, UsageError
from qcompiler.fixed_point import dequantize, round_half_up
from qcompiler.graph import Constant, Graph, Op, fold, rebuilt
from qcompiler.invariants import quantized
from qcompiler.ops import Conv, Dequantize, MatMul, Quantize
from qcompiler.passes.balance import balanced_codes
from qcompiler.passes.base import GIVEN, Preserves
from qcompiler.passes.evidence import ConfiguredPass
from qcompiler.types import Quantization, TensorType

if TYPE_CHECKING:
    from typing_extensions import Self

    from qcompiler.calibrate.moments import Moments
    from qcompiler.passes.evidence import Evidence

BLOCK = 64
"""Channels whose errors are passed on to the later blocks at once."""


@dataclass(frozen=True)
class RoundWeights(ConfiguredPass):
    """Round the weights of matrix products so that their errors cancel on real inputs.

    GPTQ (Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
    Transformers", algorithm 1, after Hassibi & Stork's optimal brain surgeon): with H = Σ x·xᵀ over
    the inputs of a product, weights are rounded one input channel after the other, and each error
    is made good by the channels not yet rounded, −e·H⁻¹[i, j:] / H⁻¹[i, i].  Channels go by
    falling H[i, i].  What remains of the mean error, E[x]·(W − Ŵ), goes into the bias (bias
    correction, Nagel et al. 2019, section 4.2).

    Without data ("balanced"), errors are made to cancel within kernels and output channels of all
    products and convolutions (`balance.balanced_codes`).

    Attributes:
        method: "gptq", "balanced" or "nearest": how the weights are rounded of which the
            configuration does not say it.  So a pass that is named does its work, and the one in
            `DEFAULT`, which names "nearest", what the configuration says.
        damping: Added to the diagonal of H, as a share of its mean.
        most_channels: Products with more input channels are rounded to nearest.
        moments: Second moments of the inputs of products, by value name in the graph; None: what
            samples show.

    Raises:
        UsageError: a method that does not exist.
        CalibrationError: when run, where weights want moments and the pass has none.
    """

    method: str = "gptq"
    damping: float = 0.01
    most_channels: int = 4096
    moments: Mapping[str, Moments] | None = field(default=None, metadata=GIVEN)

    requires = (quantized,)
    ensures = (quantized,)
    preserves: ClassVar[Preserves] = "nothing"

    def __post_init__(self) -> None:
        if self.method not in ROUNDING:
            raise UsageError(
                f"method: expected one of {', '.join(ROUNDING)}, found {self.method!r}"
            )

    def prepared(self, graph: Graph, evidence: Evidence) -> Self:
        """The pass with moments of what it wants observed, unless it has its own."""
        step = super().prepared(graph, evidence)
        if step.moments is not None:
            return step
        moments = evidence.samples.moments(graph, step.observed(graph))
        return dataclasses.replace(step, moments=moments)

    def observed(self, graph: Graph) -> Mapping[str, int]:
        """The inputs of products by name, with the number of their channels."""
        found = {}
        for node in graph.ops:
            match node:
                case MatMul(x, Dequantize(Quantize(Constant() as w))) if w.type.rank == 2:
                    if w.type.shape[0] <= self.most_channels and self._rounds(node, "gptq"):
                        found[graph.names[x]] = w.type.shape[0]
        return found

    def run(self, graph: Graph) -> Graph:
        """Round every weight as it is to be."""
        return self._with_feedback(graph).rewrite(self._balance)

    def _rounds(self, product: Op, method: str) -> bool:
        """Whether the weights of a product are rounded by this method."""
        return (self.configuration.rule(product).rounding or self.method) == method

    def _balance(self, node: Op) -> Op | None:
        return _balanced(node) if self._rounds(node, "balanced") else None

    def _with_feedback(self, graph: Graph) -> Graph:
        if self.moments is None and (missing := self.observed(graph)):
            raise CalibrationError(
                f"pass {self.title()}: value '{next(iter(missing))}' has no moments: let "
                "qcompiler.quantize run the pass on calibration data, or give it moments="
            )
        moments = self.moments or {}
        names: dict[Op, list[str]] = {}  # weight → the inputs of all products that share it
        chosen: set[Op] = set()
        for node in graph.ops:
            if not isinstance(node, MatMul) or not self._rounds(node, "gptq"):
                continue
            if (name := graph.names[node.a]) in moments:
                chosen.add(node)
                names.setdefault(node.b, []).append(name)
        factors: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}
        rounded: dict[Op, Op] = {}

        def visit(node: Op, operands: list[Op]) -> Op:
            new = rebuilt(node, operands)
            if not isinstance(node, MatMul) or node not in chosen:
                return new
            if node.b not in rounded:
                inputs = tuple(names[node.b])
                if inputs not in factors:
                    factors[inputs] = _factor([moments[n] for n in inputs], self.damping)
                rounded[node.b] = _rounded(node.b, *factors[inputs])
            mean = moments[graph.names[node.a]].mean
            return _corrected(new, mean, node.b, rounded[node.b])

        return graph.with_outputs(fold(graph.outputs.values(), {}, visit))


def _corrected(node: Op, mean: np.ndarray, old: Op, new: Op) -> Op:
    """The product with rounded weights, what remains of their mean error in its bias."""
    match node, old, new:
        case (
            MatMul(bias=None | Constant() as bias),
            Dequantize(Quantize(Constant(array=w), q)),
            Dequantize(Constant(array=codes)),
        ):
            rest = mean @ (w - dequantize(codes, q))
            if bias is not None:
                rest = rest + bias.array
            return dataclasses.replace(node, b=new, bias=Constant(rest.astype(np.float32)))
    return node


def _balanced(node: Op) -> Op | None:
    """A product with weights that are not rounded yet → with codes whose errors cancel."""
    match node:
        case Conv(_, Dequantize(Quantize(Constant() as w, q)) as old):
            axis = 0
        case MatMul(_, Dequantize(Quantize(Constant() as w, q)) as old) if w.type.rank == 2:
            axis = 1
        case _:
            return None
    if any(q.zero_point) or q.axis not in (None, axis):
        return None
    codes = balanced_codes(w.array, q, axis)
    kind = TensorType(q.bounds.dtype, w.type.shape, q)
    new = Dequantize(Constant(codes, kind, name=w.name, sources=w.sources))
    return node.with_operands(new if x is old else x for x in node.operands)


def _rounded(weight: Op, order: np.ndarray, u: np.ndarray) -> Op:
    """Dequantized constant weights with the codes rounded; other values as they are."""
    match weight:
        case Dequantize(Quantize(Constant(array=w) as old, q)) if w.ndim == 2:
            codes = _codes(w.astype(np.float64), q, order, u)
            kind = TensorType(q.bounds.dtype, w.shape, q)
            return Dequantize(Constant(codes, kind, name=old.name, sources=old.sources))
    return weight


def _factor(moments: Sequence[Moments], damping: float) -> tuple[np.ndarray, np.ndarray]:
    """The order of the channels, and the upper Cholesky factor of H⁻¹ in that order.

    H is summed over the inputs of all products with the same weights, such as a recurrence's steps.
    """
    products = functools.reduce(np.add, (m.products for m in moments))
    h = products / max(sum(m.count for m in moments), 1)
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
