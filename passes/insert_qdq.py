"""InsertQdq: decide which values are codes, of which width and scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from qcompiler.config import QuantizationConfig
from qcompiler.fixed_point import affine_quantization, weight_quantization
from qcompiler.graph import Constant, Graph, Input, Op, origin
from qcompiler.invariants import no_batch_norm, quantized, real
from qcompiler.ops import (
    Add,
    Clip,
    Conv,
    Dequantize,
    FakeQuantize,
    Map,
    MatMul,
    Mul,
    Quantize,
    Relu,
    Softmax,
    Sub,
)
from qcompiler.passes.annotations import Annotated, annotated, signed, weight_codes
from qcompiler.passes.base import Preserves
from qcompiler.passes.evidence import CalibratedPass, Ranges
from qcompiler.passes.needs import (
    PRODUCTS,
    Need,
    is_linear,
    is_steep,
    joined,
    needs,
    takes_any_width,
)
from qcompiler.types import FLOAT, Quantization, Storage, TensorType, common_quantization

MAX_TERMS = 4


@dataclass(frozen=True)
class InsertQdq(CalibratedPass):
    """Put Quantize and Dequantize around every op that integers can compute.

    Weights become int8 per output channel; operands of products, tables and pools 8 bits per
    tensor; residual sums 16 bits; outputs 24 bits (integer-arithmetic.md; the widths are fields of
    the configuration).  A value that only a clamp, a factor or a term uses is not rounded in
    between (Jacob et al. 2018, section 2.4), nor is one operand of a sum.  Ops that only move
    elements keep the quantization of their operand.
    """

    requires = (real, no_batch_norm)
    ensures = (quantized,)
    preserves: ClassVar[Preserves] = "nothing"

    def run(self, graph: Graph) -> Graph:
        """The graph in the quantized language."""
        return _Inserter(annotated(graph), self.known, self.configuration).result()

    def observed(self, graph: Graph) -> Mapping[str, int | None]:
        """Every value that becomes codes, unless annotations say its range."""
        inserter = _Inserter(annotated(graph), self.known, self.configuration)
        return inserter.observed(lambda v: inserter.known_range(v) is None)

    def helpful(self, graph: Graph) -> Mapping[str, int | None]:
        """Values whose range only follows from annotations of others."""
        inserter = _Inserter(annotated(graph), self.known, self.configuration)
        return inserter.observed(
            lambda v: inserter.known_range(v) is not None and v not in inserter.kept
        )


@dataclass(frozen=True, eq=False)
class _Inserter:
    annotated: Annotated
    ranges: Ranges
    config: QuantizationConfig
    chosen: dict[tuple[Op, Need], Quantization] = field(default_factory=dict)
    weights: dict[tuple[Op, str, int], Op] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The graph without annotations."""
        return self.annotated.graph

    @property
    def kept(self) -> Mapping[Op, Quantization]:
        """Values whose codes the model chooses itself."""
        return self.annotated.kept

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
            if self._is_computed(y):
                found[y].add(Need.EXACT)
        for node in reversed(self.graph.ops):
            for x in node.operands:
                found[x].update(self._wants(node, x, found[node]))
        return {node: frozenset(wanted) for node, wanted in found.items()}

    def _wants(self, user: Op, x: Op, result: Collection[Need]) -> Collection[Need]:
        if self.config.skips(user):
            return {Need.EXACT}
        wide = self.config.rule(x).wide_activations
        return needs(user, x, result, self._is_steep, wide)

    def _is_steep(self, function: Map) -> bool:
        method = self.config.rule(function.x).method
        low, high = self.range(function.x, "uint8", method)
        return is_steep(function, low, high)

    @cached_property
    def absorbed(self) -> frozenset[Op]:
        """Values that stay in the accumulators of the op that uses them: never rounded."""
        found: set[Op] = set()
        accumulators: dict[Op, int] = {}
        terms: dict[Op, int] = {}
        tabled: set[Op] = set()
        for node in self.graph.ops:
            accumulators[node] = int(isinstance(node, PRODUCTS))
            terms[node] = int(not isinstance(node, Constant))
            if self.config.skips(node):
                continue
            if isinstance(node, MatMul) and self._is_attention(node):
                found.add(node.a)
            if not isinstance(node, (Add, Sub, Mul, Relu, Clip)):
                continue
            values = [x for x in node.operands if not isinstance(x, Constant)]
            terms[node] = len(values)
            if any(x in tabled or isinstance(x, Map) for x in values):
                # A table takes factors and terms along, and nothing else.
                if isinstance(node, (Add, Mul)) and self._is_tabled(node, tabled):
                    tabled.add(node)
                    found.add(values[0])
                continue
            if isinstance(node, Mul) and len(values) > 1:
                continue
            for x in reversed(values):
                fits = accumulators[node] + accumulators[x] <= 1
                fits = fits and terms[node] + terms[x] - 1 <= MAX_TERMS
                if fits and self._may_be_absorbed(x):
                    found.add(x)
                    accumulators[node] += accumulators[x]
                    terms[node] += terms[x] - 1
        return frozenset(found)

    def _is_tabled(self, node: Add | Mul, tabled: Collection[Op]) -> bool:
        """Whether the table of a function may take a factor, or a term behind it, along."""
        x, constant = node.a, node.b
        if not isinstance(constant, Constant) or node.type.shape != x.type.shape:
            return False
        behind = isinstance(node, Add) and isinstance(x, Mul) and x in tabled
        return (behind or isinstance(x, Map)) and self._only_use(x)

    def _may_be_absorbed(self, x: Op) -> bool:
        clamp_of_clamp = isinstance(x, (Relu, Clip)) and all(
            isinstance(user, (Relu, Clip)) for user in self.graph.users[x]
        )
        return (is_linear(x) or clamp_of_clamp) and self._only_use(x)

    def _only_use(self, x: Op) -> bool:
        """Whether one operand of one op is all that the value is for."""
        user = self.graph.only_user(x)
        return (
            x not in self.kept
            and user is not None
            and sum(y is x for y in user.operands) == 1
            and not self.config.skips(x)
        )

    def _is_attention(self, node: MatMul) -> bool:
        """softmax(x) @ v along the last axis: the weights are never normalised."""
        return (
            isinstance(node.a, Softmax)
            and node.a.axis == node.a.type.rank - 1
            and node.bias is None
            and not isinstance(node.b, Constant)
            and node.a not in self.kept
            and self.graph.only_user(node.a) is not None
            and not self.config.skips(node.a)
        )

    def is_rounded(self, node: Op) -> bool:
        """Whether the value itself becomes codes."""
        known = isinstance(node, Constant) or node in self.absorbed
        return node.type.dtype == FLOAT and not known

    def _is_computed(self, output: Op) -> bool:
        """Whether an output is more than an input that the model hands through."""
        handed_through = isinstance(output, Input) and output not in self.kept
        return self.is_rounded(output) and not handed_through

    def need(self, node: Op) -> Need:
        """The widest codes that a user wants."""
        return max(self.needs[node], default=Need.NARROW)

    def width(self, node: Op) -> Need:
        """The widest codes that there are of a value: NARROW, WIDE or EXACT."""
        return _width(self.need(node))

    def quantization(self, node: Op, need: Need) -> Quantization:
        """What codes of a value mean; decided once per value and width."""
        if (node, need) not in self.chosen:
            self.chosen[node, need] = self._choose(node, need)
        return self.chosen[node, need]

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

    def _compared(self, node: Op) -> Quantization:
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
        only_table = all(isinstance(user, Map) for user in self.graph.users[node])
        if not (only_table and is_linear(node) and self._only_use(node)):
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

    def result(self) -> Graph:
        """Rebuild the graph, operands first."""
        real_values: dict[Op, Op] = {}
        codes: dict[tuple[Op, Need], Op] = {}

        def operand(x: Op, user: Op) -> Op:
            if x in self.absorbed or not self.is_rounded(x):
                return real_values[x]
            wanted = max(self._wants(user, x, self.needs[user]), default=Need.NARROW)
            wider = takes_any_width(user) and wanted is not Need.EXACT
            return dequantized(x, self.width(x) if wider else _width(wanted))

        def dequantized(x: Op, width: Need) -> Op:
            if (x, width) not in codes:
                with origin(x.sources):
                    widest = self.width(x)
                    if width is widest:
                        value, q = real_values[x], inherited(real_values[x])
                        if x in self.kept:
                            value = value if q is None else _at_scale(value, q)
                            q = self.quantization(x, width)
                        q = q or self.quantization(x, width)
                    else:
                        value = dequantized(x, widest)
                        q = self.quantization(x, width)
                        if _bits(value) <= q.bounds.bits:
                            return value
                    codes[x, width] = Dequantize(Quantize(value, q, name=x.name))
            return codes[x, width]

        def inherited(value: Op) -> Quantization | None:
            """The quantization of a moved value is that of the codes it moves."""
            moved = value.fields(value.moves)
            if not moved or not all(isinstance(x, Dequantize) for x in moved):
                return None
            return common_quantization(*(x.operands[0].type for x in moved))

        for node in self.graph.ops:
            if isinstance(node, (Input, Constant)):
                real_values[node] = node
                continue
            operands = [operand(x, node) for x in node.operands]
            if not self.config.skips(node):
                operands = self._aligned(node, operands)
                operands = self._constants(node, operands)
            whole = isinstance(node, FakeQuantize)  # said by the codes that it gets
            real_values[node] = operands[0] if whole else node.with_operands(operands)
        outputs = {
            name: dequantized(y, self.width(y)) if self._is_computed(y) else real_values[y]
            for name, y in self.graph.outputs.items()
        }
        return dataclasses.replace(self.graph, outputs=outputs)

    def _aligned(self, node: Op, operands: list[Op]) -> list[Op]:
        """Operands that an op mixes at the scale of its result, those that it compares at one."""
        compared = tuple(x for x in node.fields(node.compares) if x.type.is_float)
        if mixed := joined(node):
            q = self.quantization(node, self.width(node))
        elif len(compared) > 1:
            mixed, q = compared, self._compared(node)
        else:
            return operands
        return [
            _at_scale(new, q) if any(old is x for x in mixed) else new
            for old, new in zip(node.operands, operands, strict=True)
        ]

    def _constants(self, node: Op, operands: list[Op]) -> list[Op]:
        """Constant factors of products: weights with one scale per output channel."""
        if not isinstance(node, PRODUCTS):
            return operands
        x, weight, *rest = operands
        if isinstance(weight, Constant) and (codes := self._weight_codes(node, weight)):
            weight = Dequantize(codes)
        if isinstance(weight, Constant):
            axis = 0 if isinstance(node, Conv) else weight.type.rank - 1
            storage = self.config.rule(node).weights
            if (weight, storage, axis) not in self.weights:  # once for all steps of a recurrence
                # Not rounded yet: a later pass may choose better codes than the nearest.
                q = weight_quantization(weight.array, storage, axis)
                self.weights[weight, storage, axis] = Dequantize(Quantize(weight, q))
            weight = self.weights[weight, storage, axis]
        if isinstance(x, Constant):
            bound = float(np.abs(x.array).max(initial=0.0))
            x = _at_scale(x, affine_quantization(-bound, bound, "int8"))
        return [x, weight, *rest]

    def _weight_codes(self, product: Op, weight: Constant) -> Constant | None:
        """A weight in the codes that it had, if their scales are those of output channels."""
        q = self.kept.get(weight)
        axis = 0 if isinstance(product, Conv) else weight.type.rank - 1
        if q is None or q.bounds.bits > 8 or q.axis not in (None, axis):
            return None
        codes, meaning = weight_codes(weight.array, q)
        kind = TensorType("int8", codes.shape, meaning)
        return dataclasses.replace(weight, array=codes, tensor_type=kind)


def _width(need: Need) -> Need:
    return Need.WIDE if need is Need.PRECISE else need


def _bits(value: Op) -> int:
    q = value.operands[0].type.quantization if isinstance(value, Dequantize) else None
    return 32 if q is None else q.bounds.bits


def _at_scale(x: Op, q: Quantization) -> Op:
    if isinstance(x, Dequantize) and x.x.type.quantization == q:
        return x
    return Dequantize(Quantize(x, q))
