"""EqualizeCrossLayer: even out the ranges of neighbouring weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Constant, Graph, Op, fold, rebuilt
from qcompiler.invariants import no_batch_norm, real
from qcompiler.ops import Conv, LeakyRelu, Relu
from qcompiler.passes.base import Pass, Preserves


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
        weights = {conv: _weight(conv) for pair in pairs for conv in pair}
        biases = {conv: _bias(conv) for pair in pairs for conv in pair}
        changed: set[Conv] = set()
        for _ in range(self.sweeps):
            moved = False
            for first, second in pairs:
                s = _factors(weights[first], weights[second], second.groups)
                if np.abs(s - 1).max() <= self.tolerance:
                    continue
                moved = True
                changed |= {first, second}
                weights[first] = weights[first] / s[:, None, None, None]
                biases[first] = biases[first] / s
                weights[second] = weights[second] * _inputs(s, second)
            if not moved:
                break
        return _replaced(graph, changed, weights, biases)


def _pair(node: Op, graph: Graph) -> tuple[Conv, Conv] | None:
    """A convolution and the one in front of it, with only a piecewise linear function between."""
    if not isinstance(node, Conv) or not isinstance(node.weight, Constant):
        return None
    value = node.x
    while isinstance(value, (Relu, LeakyRelu)) and graph.only_user(value):
        value = value.x
    if not isinstance(value, Conv) or not graph.only_user(value):
        return None
    constant = isinstance(value.weight, Constant) and (
        value.bias is None or isinstance(value.bias, Constant)
    )
    return (value, node) if constant else None


def _weight(conv: Conv) -> np.ndarray:
    assert isinstance(conv.weight, Constant)
    return conv.weight.array.astype(np.float64)


def _bias(conv: Conv) -> np.ndarray:
    if isinstance(conv.bias, Constant):
        return conv.bias.array.astype(np.float64)
    return np.zeros(conv.type.shape[1])


def _inputs(s: np.ndarray, second: Conv) -> np.ndarray:
    """The factors of the second weight's elements [o, i, 1, 1], group by group."""
    groups = second.groups
    outputs = second.weight.type.shape[0]
    return np.repeat(s.reshape(groups, -1), outputs // groups, axis=0)[:, :, None, None]


def _factors(first: np.ndarray, second: np.ndarray, groups: int) -> np.ndarray:
    """s_i = √(r1_i / r2_i) (eq. 11); 1 where a range is zero."""
    r1 = np.abs(first).max(axis=(1, 2, 3))
    grouped = np.abs(second).reshape(groups, -1, *second.shape[1:])
    r2 = grouped.max(axis=(1, 3, 4)).reshape(-1)
    usable = (r1 > 0) & (r2 > 0)
    return np.sqrt(np.divide(r1, r2, out=np.ones_like(r1), where=usable))


def _replaced(
    graph: Graph,
    changed: set[Conv],
    weights: Mapping[Conv, np.ndarray],
    biases: Mapping[Conv, np.ndarray],
) -> Graph:
    if not changed:
        return graph

    def visit(node: Op, operands: list[Op]) -> Op:
        if node in changed:
            assert isinstance(node, Conv)
            return dataclasses.replace(
                node,
                x=operands[0],
                weight=Constant(weights[node].astype(np.float32)),
                bias=_new_bias(node, biases[node]),
            )
        return rebuilt(node, operands)

    return graph.with_outputs(fold(graph.outputs.values(), {}, visit))


def _new_bias(node: Conv, bias: np.ndarray) -> Op | None:
    return None if node.bias is None else Constant(bias.astype(np.float32))
