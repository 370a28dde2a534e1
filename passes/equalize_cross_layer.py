"""EqualizeCrossLayer: even out the ranges of neighbouring weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Graph, Op, fold, rebuilt
from qcompiler.invariants import no_batch_norm, real
from qcompiler.ops import Conv, LeakyRelu, Relu
from qcompiler.passes.base import Pass, Preserves
from qcompiler.passes.linear import Linear, linear


@dataclass(frozen=True)
class EqualizeCrossLayer(Pass):
    """Scale channels between two convolutions so that both weights use their range.

    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction",
    section 4.1: f(s·x) = s·f(x) for s > 0 and f linear per piece, so channel i may leave the first
    convolution divided by s_i and enter the second multiplied by it; s_i = √(r1_i / r2_i) (eq. 11)
    gives both weights the range √(r1_i·r2_i).  Only where the value between them has no other
    user.  A pair whose ratios are all within `tolerance` of 1 stays as it is.

    Attributes:
        sweeps: Rounds over all pairs: equalizing one pair moves its neighbours.
        tolerance: Largest |s − 1| that is not worth a change.
    """

    sweeps: int = 20
    tolerance: float = 0.01

    requires = (real, no_batch_norm)
    ensures = (real, no_batch_norm)
    preserves: ClassVar[Preserves] = "reals"

    def run(self, graph: Graph) -> Graph:
        """Equalize until no pair moves, or `sweeps` times."""
        pairs = [pair for node in graph.ops if (pair := _pair(node, graph))]
        reals = {product.node: product.reals for pair in pairs for product in pair}
        changed: dict[Op, Linear] = {}
        for _ in range(self.sweeps):
            moved = False
            for first, second in pairs:
                (w1, b1), (w2, b2) = reals[first.node], reals[second.node]
                s = _factors(w1, w2, second.groups)
                if np.abs(s - 1).max() <= self.tolerance:
                    continue
                moved = True
                changed |= {first.node: first, second.node: second}
                reals[first.node] = w1 / s[:, None, None, None], b1 / s
                reals[second.node] = w2 * _inputs(s, len(w2), second.groups), b2
            if not moved:
                break
        if not changed:
            return graph

        def visit(node: Op, operands: list[Op]) -> Op:
            if (product := changed.get(node)) is None:
                return rebuilt(node, operands)
            weight, bias = reals[product.node]
            return product.replaced(operands[0], weight, None if product.bias is None else bias)

        return graph.with_outputs(fold(graph.outputs.values(), {}, visit))


def _pair(node: Op, graph: Graph) -> tuple[Linear, Linear] | None:
    """A convolution and the one in front of it, with only a piecewise linear function between."""
    if not isinstance(node, Conv):
        return None
    value = node.x
    while isinstance(value, (Relu, LeakyRelu)) and graph.only_user(value):
        value = value.x
    if not isinstance(value, Conv) or not graph.only_user(value):
        return None
    first, second = linear(value), linear(node)
    return (first, second) if first and second else None


def _inputs(s: np.ndarray, outputs: int, groups: int) -> np.ndarray:
    """The factors of the second weight's elements [o, i, 1, 1], group by group."""
    return np.repeat(s.reshape(groups, -1), outputs // groups, axis=0)[:, :, None, None]


def _factors(first: np.ndarray, second: np.ndarray, groups: int) -> np.ndarray:
    """s_i = √(r1_i / r2_i) (eq. 11); 1 where a range is zero."""
    r1 = np.abs(first).max(axis=(1, 2, 3))
    grouped = np.abs(second).reshape(groups, -1, *second.shape[1:])
    r2 = grouped.max(axis=(1, 3, 4)).reshape(-1)
    usable = (r1 > 0) & (r2 > 0)
    return np.sqrt(np.divide(r1, r2, out=np.ones_like(r1), where=usable))
