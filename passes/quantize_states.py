"""QuantizeStates: one meaning for the codes of a state and of what replaces it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.fixed_point import affine_quantization
from qcompiler.graph import Graph, Op, fold, rebuilt
from qcompiler.invariants import real
from qcompiler.ops import FakeQuantize
from qcompiler.passes.base import Preserves
from qcompiler.passes.evidence import CalibratedPass
from qcompiler.types import FLOAT, Quantization


@dataclass(frozen=True)
class QuantizeStates(CalibratedPass):
    """Annotate each state, and what it becomes, with codes of one quantization for both.

    The codes have the width of residual sums, over the range that either takes, so that what one
    call leaves is what the next one reads, bit for bit, and never becomes float in between.

    >>> from qcompiler.graph import Input
    >>> from qcompiler.ops import Tanh
    >>> from qcompiler.passes.evidence import FixedRanges
    >>> from qcompiler.types import TensorType
    >>> h = Input(TensorType("float32", (1, 4)), name="h")
    >>> graph = Graph((h,), {"next": Tanh(h, name="next")}, states={"h": "next"})
    >>> print(QuantizeStates(FixedRanges({"h": (-2.0, 2.0), "next": (-1.0, 1.0)}))(graph))
    graph(%h: float32[1x4]) {
      %fake_quantize: float32[1x4] = fake_quantize(%h)
      %next_1: float32[1x4] = tanh(%fake_quantize)
      %next: float32[1x4] = fake_quantize(%next_1)
      return next=%next
    }
    """

    requires = (real,)
    preserves: ClassVar[Preserves] = "nothing"

    def run(self, graph: Graph) -> Graph:
        """The graph with annotations."""
        read: dict[Op, Op] = {}
        written: dict[str, FakeQuantize] = {}
        for x, name in _states(graph).items():
            y = graph.outputs[name]
            known = _annotation(graph, x), y.quantization if isinstance(y, FakeQuantize) else None
            q = known[0] or known[1] or self._chosen(graph, x, y)
            if known[0] is None:
                read[x] = FakeQuantize(x, q, sources=x.sources)
            if known[1] != q:
                written[name] = FakeQuantize(y, q, name=y.name, sources=y.sources)
        if not read and not written:
            return graph

        def visit(node: Op, operands: list[Op]) -> Op:
            return rebuilt(node, [read.get(x, x) for x in operands])

        env: dict[Op, Op] = {x: x for x in graph.inputs}
        fold(graph.ops, env, visit)
        outputs = {name: env[y] for name, y in graph.outputs.items()}
        for name, node in written.items():
            outputs[name] = dataclasses.replace(node, x=outputs[name])
        return dataclasses.replace(graph, outputs=outputs)

    def _chosen(self, graph: Graph, x: Op, y: Op) -> Quantization:
        config = self.configuration.rule(x)
        names = (graph.names[x], graph.names[y])
        ranges = [self.known.range(n, config.residuals, config.method) for n in names]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        return affine_quantization(low, high, config.residuals)

    def observed(self, graph: Graph) -> Mapping[str, int | None]:
        """Every state, and what it becomes, unless the model says the codes of either."""
        values: list[Op] = []
        for x, name in _states(graph).items():
            y = graph.outputs[name]
            if _annotation(graph, x) is None and not isinstance(y, FakeQuantize):
                values += [x, y]
        return {graph.names[x]: None for x in values}


def _states(graph: Graph) -> dict[Op, str]:
    """Inputs that are states of real numbers, and the outputs that replace them."""
    inputs = {str(x.name): x for x in graph.inputs}
    found = {inputs[x]: y for x, y in graph.states.items()}
    return {x: y for x, y in found.items() if x.type.dtype == FLOAT}


def _annotation(graph: Graph, x: Op) -> Quantization | None:
    """The only codes in which an input is used."""
    found = {u.quantization if isinstance(u, FakeQuantize) else None for u in graph.users[x]}
    return found.pop() if len(found) == 1 else None
