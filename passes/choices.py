"""Which values of a real graph become codes, of which width and scale."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from qcompiler.config import QuantizationConfig
from qcompiler.fixed_point import affine_quantization
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.ops import Map, MatMul, Softmax
from qcompiler.passes.absorption import Absorption
from qcompiler.passes.annotations import Annotated, signed
from qcompiler.passes.evidence import Ranges
from qcompiler.passes.needs import Demand, Need, is_steep
from qcompiler.passes.spec import CHANNELED, Form, joined, reading, spec, wanted
from qcompiler.types import FLOAT, Quantization, Storage


@dataclass(frozen=True, eq=False)
class Choices:
    """What `InsertQdq` decides of a graph's values, each asked for once.

    Attributes:
        annotated: The graph, and what it says itself.
        ranges: Of values.
        config: What the user chose.
    """

    annotated: Annotated
    ranges: Ranges
    config: QuantizationConfig
    _chosen: dict[tuple[Op, Need], Quantization] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The graph without annotations."""
        return self.annotated.graph

    @property
    def kept(self) -> Mapping[Op, Quantization]:
        """Values whose codes the model chooses itself."""
        return self.annotated.kept

    @cached_property
    def absorption(self) -> Absorption:
        """What nothing rounds."""
        return Absorption(self.graph, self.kept, self.config.skips)

    def name(self, node: Op) -> str:
        """What a value is called where it is observed."""
        return self.annotated.names[node]

    def range(self, node: Op, storage: str, method: str) -> tuple[float, float]:
        """The range of a value: what annotations say, or what was observed."""
        known = None if self.ranges.knows(self.name(node)) else self.known_range(node)
        return self.ranges.range(self.name(node), storage, method) if known is None else known

    def observed(self, wanted: Callable[[Op], bool]) -> Mapping[str, int | None]:
        """Names, with the axis of channels that count, of some values that become codes."""
        rounded = [v for v in self.graph.ops if self.is_rounded(v) and wanted(v)]
        return {self.name(v): self.table_axis(v) for v in rounded}

    def known_range(self, node: Op) -> tuple[float, float] | None:
        """What annotations say of a value; mere bounds do where codes have bits to spare."""
        spare = self.graph.is_output(node) and not self.graph.users[node]
        if spare and Storage(self.config.rule(node).outputs).bits > 16:
            return self.annotated.bounds.get(node)
        return self.annotated.ranges.get(node)

    @cached_property
    def needs(self) -> Mapping[Op, frozenset[Need]]:
        """What the users of each value want, seen through ops that only move elements."""
        found: dict[Op, set[Need]] = {node: set() for node in self.graph.ops}
        for y in self.graph.outputs.values():
            if self.is_computed(y):
                found[y].add(Need.EXACT)
        for node in reversed(self.graph.ops):
            for x in node.operands:
                found[x].update(self._wants(node, x, found[node]))
        return {node: frozenset(wanted) for node, wanted in found.items()}

    def _wants(self, user: Op, x: Op, result: Collection[Need]) -> Collection[Need]:
        if self.config.skips(user):
            return {Need.EXACT}
        wide = self.config.rule(x).wide_activations
        return wanted(user, Demand(x, result, self._is_steep, wide))

    def _is_steep(self, function: Map) -> bool:
        method = self.config.rule(function.x).method
        low, high = self.range(function.x, "uint8", method)
        return is_steep(function, low, high)

    def is_rounded(self, node: Op) -> bool:
        """Whether the value itself becomes codes."""
        known = isinstance(node, Constant) or node in self.absorption.values
        return node.type.dtype == FLOAT and not known

    def is_computed(self, output: Op) -> bool:
        """Whether an output is more than an input that the model hands through."""
        handed_through = isinstance(output, Input) and output not in self.kept
        return self.is_rounded(output) and not handed_through

    def width(self, node: Op) -> Need:
        """The widest codes that there are of a value: NARROW, WIDE or EXACT."""
        return width(max(self.needs[node], default=Need.NARROW))

    def read_width(self, user: Op, x: Op) -> Need:
        """Which codes of a value an op reads; terms are read as they are."""
        need = max(self._wants(user, x, self.needs[user]), default=Need.NARROW)
        found = spec(user)
        wider = found is not None and found.sums and need is not Need.EXACT
        return self.width(x) if wider else width(need)

    def readable(self, user: Op, x: Op, q: Quantization) -> Quantization:
        """What codes of a value have to mean for an op that reads some: as they do, if it can."""
        reads = None if self.config.skips(user) else reading(user, x)
        if reads is None or reads.admits(q):
            return q
        own = self.quantization(x, Need.NARROW if reads.bits <= 8 else Need.WIDE)
        return own if reads.admits(own) else reads.nearest(q)

    def quantization(self, node: Op, need: Need) -> Quantization:
        """What codes of a value mean; decided once per value and width."""
        if (node, need) not in self._chosen:
            self._chosen[node, need] = self._choose(node, need)
        return self._chosen[node, need]

    def _choose(self, node: Op, width: Need) -> Quantization:
        if (q := self._kept(node, width)) is not None:
            return q
        user = self.graph.only_user(node)
        if (
            user is not None
            and width is self.width(user)
            and any(node is x for x in joined(user))
            and not self.config.skips(user)
        ):
            return self.quantization(user, width)  # spares a requantization
        config = self.config.rule(node)
        storage = {
            Need.NARROW: "uint8" if config.wide_activations else config.activations,
            Need.WIDE: config.residuals,
            Need.EXACT: config.outputs,
        }[width]
        if width is Need.NARROW and node in self.factors:
            storage = "int8"
        if width is Need.NARROW and self.table_axis(node) is not None:
            return self._channel_groups(node)
        low, high = self.range(node, storage, config.method)
        return affine_quantization(low, high, storage)

    def _kept(self, node: Op, width: Need) -> Quantization | None:
        """The codes that the model chooses; moved ones are signed if the value is a factor."""
        q = self.kept.get(node) or self.annotated.before_clamp(node)
        if q is None or (width is Need.NARROW and q.bounds.bits > 8):
            return None
        return signed(q) if node in self.factors else q

    def compared(self, node: Op) -> Quantization:
        """One quantization for all operands of which an op wants to know the order."""
        config, compared = self.config.rule(node), node.fields(node.compares)
        storage, method = config.residuals, config.method
        ranges = [self.range(x, storage, method) for x in compared if not isinstance(x, Constant)]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        reach = 4 * max(-low, high)  # a bound far beyond all values may saturate
        for x in compared:
            if isinstance(x, Constant):
                low = min(low, max(float(x.array.min(initial=0)), -reach))
                high = max(high, min(float(x.array.max(initial=0)), reach))
        return affine_quantization(low, high, storage)

    def table_axis(self, node: Op) -> int | None:
        """The channel axis of a value that only a table reads and that may have many scales."""
        if node in self.annotated.ranges:
            return None
        forms, users = self.absorption.forms, self.graph.users[node]
        tables = all(forms[user] is Form.FUNCTION and _reads_channels(user, node) for user in users)
        if not (tables and forms[node] in CHANNELED and self.absorption.is_only_use(node)):
            return None
        if self.config.rule(node).table_scales < 2 or node.type.rank < 2:
            return None
        return 1 if node.type.rank == 4 else node.type.rank - 1

    def _channel_groups(self, node: Op) -> Quantization:
        """Symmetric int8 with scales s·2^−e per channel, 0 ≤ e < `table_scales`.

        Powers of two as in FQ-ViT (Lin et al. 2022, section 3.2), so that few tables serve all
        channels.
        """
        low, high = self.ranges.channels(self.name(node))
        bounds = np.maximum(-low, high)
        largest = float(bounds.max(initial=0.0))
        widest = affine_quantization(-largest, largest, "int8").scale[0]
        ratios = largest / np.maximum(bounds, largest * 2.0**-32) if largest else np.ones(len(low))
        last = self.config.rule(node).table_scales - 1
        exponents = np.clip(np.floor(np.log2(ratios)), 0, last)
        axis = self.table_axis(node)
        assert axis is not None
        return Quantization.per_channel("int8", widest * 2.0**-exponents, axis)

    @cached_property
    def factors(self) -> frozenset[Op]:
        """Values that are multiplied with values: signed and symmetric, without zero points.

        What softmax gives has none either; on the left of a product it may be unsigned.
        """
        left: set[Op] = set()
        right: set[Op] = set()
        for node in reversed(self.graph.ops):
            if isinstance(node, MatMul) and not isinstance(node.b, Constant):
                left.add(node.a)
                right.add(node.b)
            for found in (left, right):
                if node.moves and node in found:
                    found |= set(node.fields(node.moves))
        return frozenset(right | {x for x in left if not isinstance(x, Softmax)})


def width(need: Need) -> Need:
    """The codes that a need is met by: NARROW, WIDE or EXACT."""
    return Need.WIDE if need is Need.PRECISE else need


def _reads_channels(user: Op, x: Op) -> bool:
    return (reads := reading(user, x)) is not None and reads.channels
