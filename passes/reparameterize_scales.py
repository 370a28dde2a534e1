"""ReparameterizeScales: one scale for channels that each had their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.fixed_point import round_half_up
from qcompiler.graph import Constant, Graph, Input, Op, fold, rebuilt
from qcompiler.invariants import no_batch_norm, real
from qcompiler.ops import Add, MatMul, Mul, Normalize
from qcompiler.passes.base import Preserves
from qcompiler.passes.evidence import CalibratedPass
from qcompiler.passes.linear import dense
from qcompiler.types import Storage


@dataclass(frozen=True)
class ReparameterizeScales(CalibratedPass):
    """Fold the scales of the channels behind a normalization into γ, β and the next weights.

    RepQ-ViT (Li et al. 2023, "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of
    Vision Transformers", section 3.3).  Quantized per channel, x ≈ s·(q − z) with vectors s and z.
    With s̃ = mean(s), z̃ = round(mean(z)) and r = s/s̃, the value x' = x/r + s̃·(z − z̃) has the same
    codes under the scalars s̃ and z̃; so γ' = γ/r, β' = β/r + s̃·(z − z̃), and for each product that
    uses it W' = diag(r)·W, b' = b − (s∘(z − z̃))·W.  In real numbers nothing changes.

    Where others use x as well, as the residual sum of a transformer that normalizes behind it, x
    stays, and the products read x' as a copy that is rounded to 8 bits from x's 16.

    Attributes:
        tolerance: Largest |r − 1| that is not worth a change.
    """

    tolerance: float = 0.01

    requires = (real, no_batch_norm)
    ensures = (real, no_batch_norm)
    preserves: ClassVar[Preserves] = "reals"

    def observed(self, graph: Graph) -> Mapping[str, int | None]:
        """The normalized values, per channel."""
        return {graph.names[x]: x.type.rank - 1 for x in graph.ops if self._products(x, graph)}

    def run(self, graph: Graph) -> Graph:
        """Reparameterize every normalization that products use."""
        changes: dict[Op, tuple[np.ndarray, np.ndarray]] = {}
        for x in graph.ops:
            if self._products(x, graph) and (found := self._channels(x, graph.names[x])):
                changes[x] = found
        if not changes:
            return graph
        products = {x: self._products(x, graph) for x in changes}
        copies: dict[Op, Op] = {}

        def visit(node: Op, operands: list[Op]) -> Op:
            if isinstance(node, MatMul) and node.a in changes and node in products[node.a]:
                product = dense(node)
                assert product is not None
                return product.compensated(copies[node.a], *changes[node.a])
            new = rebuilt(node, operands)
            if node not in changes:
                return new
            private = len(products[node]) == len(graph.users[node])
            if private and _is_normalized(node, graph):
                return copies.setdefault(node, _reparameterized(node, operands[0], *changes[node]))
            copies[node] = _copy(new, *changes[node])
            return new

        return graph.with_outputs(fold(graph.ops, {}, visit))

    def _products(self, x: Op, graph: Graph) -> tuple[MatMul, ...]:
        """The products that read codes of a value whose channels may have scales of their own."""
        config = self.configuration
        if config.skips(x):
            return ()
        return tuple(u for u in _products(x, graph) if not config.skips(u))

    def _channels(self, x: Op, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """r and s̃·(z − z̃) per channel; None where they change nothing."""
        low, high = self.known.channels(name)
        bounds = Storage(self.configuration.rule(x).activations)
        span = high - low
        if not (span > 0).any():
            return None
        steps = bounds.high - bounds.low
        scales = np.where(span > 0, span, span[span > 0].mean()) / steps
        zero_points = round_half_up(-low / scales)
        # Channels far from zero drag the mean out of the codes, which then would have to reach it.
        scale, zero_point = scales.mean(), round_half_up(zero_points.mean().clip(0, steps))
        factors, terms = scales / scale, scale * (zero_points - zero_point)
        if np.abs(factors - 1).max() <= self.tolerance and np.abs(terms).max() <= 1.5 * scale:
            return None
        return factors, terms


def _products(x: Op, graph: Graph) -> tuple[MatMul, ...]:
    """The products with weights that use a value whose channels may have scales of their own."""
    if graph.is_output(x) or not (
        isinstance(x, Input) or _is_sum(x) or _is_scaled(x) or _is_normalized(x, graph)
    ):
        return ()
    return tuple(
        u
        for u in graph.users[x]
        if isinstance(u, MatMul)
        and u.a is x
        and dense(u) is not None
        and not (_is_sum(x) and _is_shared(u.b, x, graph))
    )


def _is_shared(weight: Op, x: Op, graph: Graph) -> bool:
    """Whether others than x are multiplied with the weights, as in the steps of a recurrence.

    Each would need weights of its own.
    """
    return any(x not in user.operands for user in graph.users[weight])


def _is_sum(x: Op) -> bool:
    """Whether it is a residual sum."""
    match x:
        case Add(a, b):
            return not isinstance(a, Constant) and not isinstance(b, Constant)
    return False


def _is_scaled(x: Op) -> bool:
    """Whether it is a normalized value that is only scaled per channel, as RMSNorm's."""
    match x:
        case Mul(Normalize(), Constant(array=gamma)):
            return gamma.shape == x.type.shape[-1:]
    return False


def _is_normalized(x: Op, graph: Graph) -> bool:
    """Whether it is the normalized value, scaled and moved per channel."""
    match x:
        case Add(Mul(Normalize(axes=axes), Constant(array=gamma)), Constant(array=beta)):
            channels = x.type.shape[-1:]
            alone = len(graph.users[x.operands[0]]) == 1
            return alone and gamma.shape == beta.shape == channels and axes == (x.type.rank - 1,)
    return False


def _copy(x: Op, factors: np.ndarray, terms: np.ndarray) -> Op:
    """x/r + s̃·(z − z̃)."""
    scaled = Mul(x, Constant((1 / factors).astype(np.float32)))
    return Add(scaled, Constant(terms.astype(np.float32)))


def _reparameterized(x: Op, scaled: Op, factors: np.ndarray, terms: np.ndarray) -> Op:
    """γ' = γ/r and β' = β/r + s̃·(z − z̃)."""
    match x, scaled:
        case Add(b=Constant(array=beta)), Mul(b=Constant(array=gamma)):
            new = dataclasses.replace(scaled, b=Constant((gamma / factors).astype(np.float32)))
            term = Constant((beta / factors + terms).astype(np.float32))
            return dataclasses.replace(x, a=new, b=term)
    raise AssertionError(f"{x.label()} is no normalized value")
