"""InsertQdq: decide which values are codes, of which width and scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import ClassVar

import numpy as np

from qcompiler.config import QuantizationConfig
from qcompiler.fixed_point import affine_quantization, weight_quantization
from qcompiler.graph import Constant, Graph, Input, Op, origin
from qcompiler.invariants import no_batch_norm, quantized, real
from qcompiler.ops import (
    Add,
    AveragePool,
    Clip,
    Concat,
    Conv,
    Dequantize,
    Map,
    MatMul,
    MaxPool,
    Movement,
    Mul,
    Normalize,
    Quantize,
    ReduceMean,
    Relu,
    Softmax,
    Sub,
)
from qcompiler.passes.base import Preserves
from qcompiler.passes.ranges import CalibratedPass, Ranges
from qcompiler.types import Quantization


class Need(IntEnum):
    """How wide a user wants its operand."""

    NARROW = 0
    """Codes of at most 8 bits: operands of products, tables and pools."""
    WIDE = 1
    """Terms of a residual sum."""
    EXACT = 2
    """Outputs of the model, and operands of ops that stay in float."""


PRODUCTS = (Conv, MatMul)
LINEAR = (Conv, MatMul, AveragePool, ReduceMean, Normalize, Add, Sub, Mul)
"""Ops whose real result is a linear combination of accumulators: it need not be rounded before a
clamp, a factor or a term behind it."""
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
        return _Inserter(graph, self.ranges, self.config).result()

    def observed(self, graph: Graph) -> Mapping[str, int | None]:
        """Every value that becomes codes."""
        inserter = _Inserter(graph, self.ranges, self.config)
        rounded = [v for v in graph.ops if inserter.is_rounded(v)]
        return {graph.names[v]: inserter.table_axis(v) for v in rounded}


@dataclass(frozen=True, eq=False)
class _Inserter:
    graph: Graph
    ranges: Ranges
    config: QuantizationConfig
    chosen: dict[tuple[Op, Need], Quantization] = field(default_factory=dict)

    @cached_property
    def needs(self) -> Mapping[Op, frozenset[Need]]:
        """What the users of each value want, seen through ops that only move elements."""
        needs: dict[Op, set[Need]] = {node: set() for node in self.graph.ops}
        for y in self.graph.outputs.values():
            needs[y].add(Need.EXACT)
        for node in reversed(self.graph.ops):
            for x in node.operands:
                needs[x] |= self._wants(node, needs[node])
        return {node: frozenset(found) for node, found in needs.items()}

    def _wants(self, user: Op, needs: set[Need]) -> set[Need]:
        if self.config.skips(user):
            return {Need.EXACT}
        match user:
            case Conv() | MatMul() | Map() | AveragePool() | MaxPool() | ReduceMean() | Softmax():
                return {Need.NARROW}
            case Normalize():
                return {Need.WIDE}
            case Add(_, Constant()) | Mul(_, Constant()) | Relu() | Clip():
                return needs
            case Add() | Sub():
                return {Need.WIDE}
            case Mul():
                return {Need.NARROW}
            case Movement() | Concat():
                return needs
        return {Need.EXACT}

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
                if len(values) == 1 and isinstance(node, (Add, Mul)) and self._only_use(values[0]):
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

    def _may_be_absorbed(self, x: Op) -> bool:
        clamp_of_clamp = isinstance(x, (Relu, Clip)) and all(
            isinstance(user, (Relu, Clip)) for user in self.graph.users[x]
        )
        return (isinstance(x, LINEAR) or clamp_of_clamp) and self._only_use(x)

    def _only_use(self, x: Op) -> bool:
        """Whether one operand of one op is all that the value is for."""
        users = self.graph.users[x]
        return (
            len(users) == 1
            and sum(y is x for y in users[0].operands) == 1
            and not self.graph.is_output(x)
            and not self.config.skips(x)
        )

    def _is_attention(self, node: MatMul) -> bool:
        """softmax(x) @ v along the last axis: the weights are never normalised."""
        return (
            isinstance(node.a, Softmax)
            and node.a.axis == node.a.type.rank - 1
            and node.bias is None
            and not isinstance(node.b, Constant)
            and len(self.graph.users[node.a]) == 1
            and not self.graph.is_output(node.a)
            and not self.config.skips(node.a)
        )

    def is_rounded(self, node: Op) -> bool:
        """Whether the value itself becomes codes."""
        return not isinstance(node, Constant) and node.type.is_float and node not in self.absorbed

    def need(self, node: Op) -> Need:
        """The widest codes that a user wants."""
        return max(self.needs[node], default=Need.NARROW)

    def quantization(self, node: Op, need: Need) -> Quantization:
        """What codes of a value mean; decided once per value and width."""
        if (node, need) not in self.chosen:
            self.chosen[node, need] = self._choose(node, need)
        return self.chosen[node, need]

    def _choose(self, node: Op, need: Need) -> Quantization:
        users = self.graph.users[node]
        only_concat = len(users) == 1 and isinstance(users[0], Concat)
        if only_concat and not self.graph.is_output(node) and need == self.need(users[0]):
            return self.quantization(users[0], need)  # spares a requantization
        config = self.config.rule(node)
        storage = {
            Need.NARROW: config.activations,
            Need.WIDE: config.residuals,
            Need.EXACT: config.outputs,
        }[need]
        if need is Need.NARROW and node in self.factors:
            storage = "int8"
        if need is Need.NARROW and self.table_axis(node) is not None:
            return self._channel_groups(node)
        low, high = self.ranges.range(self.graph.names[node], storage, config.method)
        return affine_quantization(low, high, storage)

    def table_axis(self, node: Op) -> int | None:
        """The channel axis of a value that only a table reads and that may have many scales."""
        only_table = all(isinstance(user, Map) for user in self.graph.users[node])
        if not (only_table and isinstance(node, LINEAR) and self._only_use(node)):
            return None
        if self.config.rule(node).table_scales < 2 or node.type.rank < 2:
            return None
        return 1 if node.type.rank == 4 else node.type.rank - 1

    def _channel_groups(self, node: Op) -> Quantization:
        """Symmetric int8 with scales s·2^−e per channel, 0 ≤ e < `table_scales`.

        Powers of two as in FQ-ViT (Lin et al. 2022, section 3.2), so that few tables serve all
        channels.
        """
        low, high = self.ranges.channels(self.graph.names[node])
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
        """Values that are multiplied with values: signed and symmetric, without zero points."""
        found: set[Op] = set()
        for node in reversed(self.graph.ops):
            if isinstance(node, MatMul) and not isinstance(node.b, Constant):
                found |= {node.a, node.b}
            if isinstance(node, (Movement, Concat)) and node in found:
                found |= set(node.operands)
        return frozenset(x for x in found if not isinstance(x, Softmax))

    def result(self) -> Graph:
        """Rebuild the graph, operands first."""
        real_values: dict[Op, Op] = {}
        codes: dict[tuple[Op, Need], Op] = {}

        def operand(x: Op, user: Op) -> Op:
            if x in self.absorbed or not self.is_rounded(x):
                return real_values[x]
            wanted = max(self._wants(user, set(self.needs[user])), default=Need.NARROW)
            return dequantized(x, Need.NARROW if wanted is Need.NARROW else self.need(x))

        def dequantized(x: Op, need: Need) -> Op:
            if (x, need) not in codes:
                with origin(x.sources):
                    widest = self.need(x)
                    if need is widest:
                        value = real_values[x]
                        q = inherited(value) or self.quantization(x, need)
                    else:
                        value = dequantized(x, widest)
                        q = self.quantization(x, need)
                        if _is_narrow(value):
                            return value
                    codes[x, need] = Dequantize(Quantize(value, q, name=x.name))
            return codes[x, need]

        def inherited(value: Op) -> Quantization | None:
            """The quantization of a moved value is that of the codes it moves."""
            if isinstance(value, (Movement, MaxPool)) and isinstance(value.x, Dequantize):
                return value.x.x.type.quantization
            return None

        for node in self.graph.ops:
            if isinstance(node, (Input, Constant)):
                real_values[node] = node
                continue
            operands = [operand(x, node) for x in node.operands]
            if isinstance(node, Concat):
                operands = [self._at_scale_of(node, x) for x in operands]
            if isinstance(node, PRODUCTS) and not self.config.skips(node):
                operands = self._weights(node, operands)
            real_values[node] = node.with_operands(operands)
        outputs = {
            name: dequantized(y, self.need(y)) if self.is_rounded(y) else real_values[y]
            for name, y in self.graph.outputs.items()
        }
        return dataclasses.replace(self.graph, outputs=outputs)

    def _at_scale_of(self, concat: Op, x: Op) -> Op:
        q = self.quantization(concat, self.need(concat))
        if isinstance(x, Dequantize) and x.x.type.quantization == q:
            return x
        return Dequantize(Quantize(x, q))

    def _weights(self, node: Op, operands: list[Op]) -> list[Op]:
        """Constant weights quantized with one scale per output channel."""
        axis = 0 if isinstance(node, Conv) else node.operands[1].type.rank - 1
        weight = operands[1]
        if not isinstance(weight, Constant):
            return operands
        q = weight_quantization(weight.array, self.config.rule(node).weights, axis)
        # Not rounded yet: a later pass may choose better codes than the nearest.
        return [operands[0], Dequantize(Quantize(weight, q)), *operands[2:]]


def _is_narrow(value: Op) -> bool:
    return isinstance(value, Dequantize) and value.x.type.dtype in ("uint8", "int8")
