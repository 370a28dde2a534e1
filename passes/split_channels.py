"""SplitChannels: a channel that dwarfs all others becomes several."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Constant, Graph, Input, Op, fold, rebuilt
from qcompiler.invariants import no_batch_norm, real
from qcompiler.ops import Add, Map, MatMul, Mul, inline
from qcompiler.passes.base import Preserves
from qcompiler.passes.evidence import CalibratedPass
from qcompiler.passes.linear import dense
from qcompiler.types import Storage


@dataclass(frozen=True)
class SplitChannels(CalibratedPass):
    """Split the widest channels between a nonlinear function and the product behind it.

    Massive activations (Sun et al. 2024) make one channel of a transformer's hidden layer twenty
    times as wide as the others, and 8 bits per tensor then leave those next to nothing.  Such a
    channel h with weights w becomes n equal parts h/n, each with the weights w: the sum is the same
    (outlier channel splitting, Zhao et al. 2019; channel disassembly in QLLM, Liu et al. 2024,
    section 4.1), the widest part n times narrower, and no weight grows.  Part j is moved by j/n of
    a step, which the bias takes back: the parts then round at different places, and their sum keeps
    the resolution of one narrow channel.  The copies are made in the product in front, so only
    f(x @ W1 + b1) @ W2 + b2 is split.

    Attributes:
        growth: Channels that may be added, as a share of those there are.
        gain: How many times narrower the widest channel must become to be worth it.
    """

    growth: float = 0.05
    gain: float = 1.25

    requires = (real, no_batch_norm)
    ensures = (real, no_batch_norm)
    preserves: ClassVar[Preserves] = "reals"

    def observed(self, graph: Graph) -> Mapping[str, int | None]:
        """The values of the functions, per channel."""
        return {graph.names[f]: f.type.rank - 1 for f in self._functions(graph).values()}

    def run(self, graph: Graph) -> Graph:
        """Split wherever the widest channel gains."""
        copies: dict[Op, np.ndarray] = {}
        steps: dict[Op, float] = {}
        for node, f in self._functions(graph).items():
            low, high = self.known.channels(graph.names[f])
            spans = np.maximum(high, 0.0) - np.minimum(low, 0.0)
            limit = self._limit(spans)
            if spans.max() < self.gain * limit:
                continue
            copies[node] = np.maximum(np.ceil(spans / limit), 1).astype(np.int64)
            steps[node] = limit / Storage(self.configuration.rule(f).activations).high
        if not copies:
            return graph

        def visit(node: Op, operands: list[Op]) -> Op:
            if node in copies:
                return _split(node, operands, copies[node], steps[node])
            return rebuilt(node, operands)

        return graph.with_outputs(fold(graph.outputs.values(), {}, visit))

    def _functions(self, graph: Graph) -> dict[Op, Map]:
        """The functions whose channels may be split, by the products behind them.

        Where any of the three ops stays in float, splitting would only cost.
        """
        skips = self.configuration.skips
        found = {node: pair for node in graph.ops if (pair := _pair(node, graph))}
        return {y: f for y, (x, f) in found.items() if not (skips(x) or skips(f) or skips(y))}

    def _limit(self, spans: np.ndarray) -> float:
        """The narrowest bound on all parts that the allowed growth affords."""
        budget = int(self.growth * len(spans))
        low, high = 0.0, float(spans.max())
        for _ in range(40):
            middle = (low + high) / 2
            needed = np.ceil(spans / middle).clip(1).sum() - len(spans) if middle else np.inf
            low, high = (middle, high) if needed > budget else (low, middle)
        return high


def _pair(node: Op, graph: Graph) -> tuple[MatMul, Map] | None:
    """For node = f(x @ W1 + b1) @ W2 + b2: its first product and its function."""
    match node:
        case MatMul(Map(MatMul() as first) as f) if dense(first) and dense(node):
            return (first, f) if graph.only_user(first) and graph.only_user(f) else None
    return None


def _split(node: Op, operands: list[Op], copies: np.ndarray, step: float) -> Op:
    """The second product, rebuilt on a wider first one."""
    f = operands[0]
    assert isinstance(f, Map)
    first, second = dense(f.x), dense(node)
    assert first is not None
    assert second is not None
    source = np.repeat(np.arange(len(copies)), copies)
    part = np.arange(len(source)) - np.repeat(np.cumsum(copies) - copies, copies)
    terms = step * part / copies[source]
    weight = np.ascontiguousarray(first.weight[:, source])
    bias = None if first.bias is None else first.bias[source]
    wide = dataclasses.replace(first.replaced(first.x, weight, bias), name=None)
    x = Input(wide.type, name="x", sources=())
    region = Graph((x,), {"y": inline(f.region, (x,))}, f.region.name)
    value = Mul(Map(wide, region, sources=f.sources), Constant(_float32(1 / copies[source])))
    longer = dataclasses.replace(second, weight=second.weight[source])
    moved = Add(value, Constant(_float32(terms)), sources=f.sources)
    return longer.replaced(moved, longer.weight, longer.without(terms))


def _float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)
