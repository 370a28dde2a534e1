"""MigrateScales: even out the channels in front of a product that no normalization feeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Graph, Op, fold, rebuilt
from qcompiler.invariants import no_batch_norm, real
from qcompiler.ops import MatMul, Movement, Softmax
from qcompiler.passes.base import Preserves
from qcompiler.passes.evidence import CalibratedPass
from qcompiler.passes.linear import Linear, dense


@dataclass(frozen=True)
class MigrateScales(CalibratedPass):
    """Move the scales and offsets of attention's channels into the weights around it.

    SmoothQuant (Xiao et al. 2023, eq. 4) with a term for lopsided ranges as in MPTQ-ViT (Tai et al.
    2024): attention averages the rows of v = x @ W1 + b1, each channel for itself and with weights
    that sum to one.  So channel c may leave W1 divided by r_c and moved by t_c, and the product
    behind attention takes both back: W1' = W1/r, b1' = b1/r + t, W2' = diag(r)·W2,
    b2' = b2 − (r∘t)·W2.  With r_c = a_c^α / w_c^(1−α), normalised to a mean of 1, where a_c is half
    the range of v's channel and w_c the largest of the weights that read it; and t_c such that the
    range is centred, which codes without a zero point want.

    Attributes:
        alpha: How much of the difficulty goes from the values to the weights, 0…1.
        tolerance: Largest |r − 1|, and |t| as a share of the range, that is not worth a change.
    """

    alpha: float = 0.5
    tolerance: float = 0.05

    requires = (real, no_batch_norm)
    ensures = (real, no_batch_norm)
    preserves: ClassVar[Preserves] = "reals"

    def observed(self, graph: Graph) -> Mapping[str, int | None]:
        """The values v, per channel."""
        found = self._pairs(graph).values()
        return {graph.names[pair.first]: pair.first.type.rank - 1 for pair in found}

    def run(self, graph: Graph) -> Graph:
        """Migrate between every value projection and the projection behind attention."""
        first: dict[Op, tuple[np.ndarray, np.ndarray]] = {}
        second: dict[Op, tuple[np.ndarray, np.ndarray]] = {}
        for node, pair in self._pairs(graph).items():
            low, high = self.known.channels(graph.names[pair.first])
            factors, terms = self._chosen(low, high, pair)
            if factors is not None:
                first[pair.first] = (factors, terms)
                second[node] = (factors[pair.source], terms[pair.source])
        if not first:
            return graph

        def visit(node: Op, operands: list[Op]) -> Op:
            old, node = node, rebuilt(node, operands)
            if old in first and (product := dense(node)):
                weight, bias = product.reals
                factors, terms = first[old]
                node = product.replaced(product.x, weight / factors, bias / factors + terms)
            if old in second and (product := dense(node)):
                node = product.compensated(product.x, *second[old])
            return node

        return graph.with_outputs(fold(graph.outputs.values(), {}, visit))

    def _pairs(self, graph: Graph) -> dict[Op, _Pair]:
        """The pairs that are to become integers, by their second product."""
        skips = self.configuration.skips
        found = {node: pair for node in graph.ops if (pair := _pair(node, graph))}
        return {y: p for y, p in found.items() if not (skips(p.first) or skips(y))}

    def _chosen(
        self, low: np.ndarray, high: np.ndarray, pair: _Pair
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """r and t per channel of v; None where they change nothing."""
        half = (high - low) / 2
        weight = np.zeros(len(half))
        np.maximum.at(weight, pair.source, np.abs(pair.second.weight).max(1))
        usable = (half > 0) & (weight > 0)
        if not usable.any():
            return None, half
        factors = np.ones(len(half))
        factors[usable] = half[usable] ** self.alpha / weight[usable] ** (1 - self.alpha)
        factors[usable] /= factors[usable].mean()
        terms = -(high + low) / 2 / factors if pair.sums_to_one else np.zeros(len(half))
        small = np.abs(terms * factors).max() <= self.tolerance * half.max()
        if np.abs(factors - 1).max() <= self.tolerance and small:
            return None, terms
        return factors, terms


@dataclass(frozen=True)
class _Pair:
    """A value projection and the product behind its attention.

    Attributes:
        first: x @ W1 + b1.
        second: … @ W2 + b2.
        source: For each input channel of `second`, the channel of `first` that it averages.
        sums_to_one: Whether the weights of every row do.
    """

    first: MatMul
    second: Linear
    source: np.ndarray
    sums_to_one: bool


def _pair(node: Op, graph: Graph) -> _Pair | None:
    """What stands in front of node = movement(softmax(…) @ movement(first)) @ W2 + b2."""
    if (second := dense(node)) is None:
        return None
    behind: list[Op] = []
    value = second.x
    while isinstance(value, Movement) and graph.only_user(value):
        behind.append(value)
        value = value.x
    match value:
        case MatMul(Softmax() as weights, v, None) if graph.only_user(value):
            pass
        case _:
            return None
    if weights.axis != weights.type.rank - 1:
        return None
    front: list[Op] = []
    attention = value
    while isinstance(v, Movement) and graph.only_user(v):
        front.append(v)
        v = v.x
    if not isinstance(v, MatMul) or not dense(v) or not graph.only_user(v):
        return None
    source = _channels(v, front, attention, behind)
    return source if source is None else _Pair(v, second, source, weights.mask is None)


def _channels(first: MatMul, front: list[Op], attention: Op, behind: list[Op]) -> np.ndarray | None:
    """Follow each channel's number through the movements; None where channels mix."""
    numbers = np.broadcast_to(np.arange(first.type.shape[-1]), first.type.shape)
    for node in reversed(front):
        numbers = node.numpy(numbers)
    if (numbers != numbers[..., :1, :]).any():  # attention averages over this axis
        return None
    if numbers.shape[:-2] != attention.type.shape[:-2]:
        return None
    numbers = np.broadcast_to(numbers[..., :1, :], attention.type.shape)
    for node in reversed(behind):
        numbers = node.numpy(numbers)
    flat = numbers.reshape(-1, numbers.shape[-1])
    return flat[0].copy() if (flat == flat[:1]).all() else None
