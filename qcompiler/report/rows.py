"""The rows of a comparison: which pairs of values each needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from qcompiler.errors import UsageError
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.ops import Dequantize, Reshape, Transpose
from qcompiler.report.comparison import IsolatedDeviation, Output, Row
from qcompiler.report.deviation import DeviationSums, looks_like_scores
from qcompiler.report.isolate import Links, isolate, roundings
from qcompiler.report.observe import Pair
from qcompiler.types import Quantization


def output_pair(name: str, y: Op, outputs: Mapping[str, Op]) -> Pair:
    """An output of the model, and the one of the same name.

    Raises:
        UsageError: there is none, or it has another shape.
    """
    if name not in outputs or outputs[name].type.shape != y.type.shape:
        raise UsageError(f"output {name!r}: expected one of {y.type} in the other graph too")
    return Pair(y, outputs[name], DeviationSums(scores=looks_like_scores(y.type)))


@dataclass
class _Found:
    """A row, and what its deviations are computed from once all samples are through."""

    row: Row
    own: DeviationSums | None = None
    isolated: DeviationSums | None = None
    outputs: Mapping[str, DeviationSums] = dataclasses.field(default_factory=dict)

    def result(self) -> Row:
        isolated = None
        if self.isolated is not None:
            ends = tuple(Output(name, sums.result()) for name, sums in self.outputs.items())
            isolated = IsolatedDeviation(self.isolated.result(), ends)
        cumulative = None if self.own is None else self.own.result()
        return dataclasses.replace(self.row, cumulative=cumulative, isolated=isolated)


class Rows:
    """The rows of both modes, one for each real value and meaning of its codes."""

    def __init__(self, real: Graph) -> None:
        """Start empty.

        Args:
            real: The float reference.
        """
        self._real = real
        self._found: dict[tuple[Op, Quantization | None], _Found] = {}

    def cumulative(self, integer: Graph) -> Iterator[Pair]:
        """A pair for each value: its codes, or real numbers for values that have none.

        The same elements in another shape or order deviate like those before: they are left out.
        """
        named = {name: value for value, name in self._real.names.items()}
        nodes = [
            (value, node)
            for node in integer.ops
            if not isinstance(node, (Constant, Input, Dequantize, Reshape, Transpose))
            and (value := named.get(node.name or "")) is not None
            and value.type.shape == node.type.shape
        ]
        coded = {value for value, node in nodes if node.type.quantization is not None}
        for value, node in nodes:
            q = node.type.quantization
            if q is None and (value in coded or not node.type.is_float):
                continue
            found = self._at(value, q)
            if found.own is None:
                found.own = DeviationSums(q)
                yield Pair(value, node, found.own)

    def isolated(self, quantized: Graph, links: Links) -> Iterator[Pair]:
        """Pairs for each rounding: the codes, and the outputs of the network behind it."""
        for node in roundings(quantized):
            found = self._at(links[node], node.quantization)
            if found.isolated is not None:
                continue
            variant = isolate(quantized, links, node)
            pairs = {
                name: output_pair(name, y, variant.outputs)
                for name, y in self._real.outputs.items()
            }
            found.isolated = DeviationSums(node.quantization)
            found.outputs = {name: pair.sums for name, pair in pairs.items()}
            yield Pair(variant.value, variant.codes, found.isolated)
            yield from pairs.values()

    def result(self) -> tuple[Row, ...]:
        """All rows, in the order of the network."""
        places = {node: i for i, node in enumerate(self._real.ops)}
        ranked = sorted(self._found.items(), key=lambda item: places[item[0][0]])
        return tuple(found.result() for _, found in ranked)

    def _at(self, value: Op, q: Quantization | None) -> _Found:
        if (value, q) not in self._found:
            name, kind, shape = self._real.names[value], value.kind(), value.type.shape
            storage, scale = (value.type.dtype, None) if q is None else (q.storage, max(q.scale))
            self._found[value, q] = _Found(Row(name, value.sources, kind, shape, storage, scale))
        return self._found[value, q]
