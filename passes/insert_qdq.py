"""InsertQdq: decide which values are codes, of which width and scale."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from qcompiler.fixed_point import affine_quantization, weight_quantization
from qcompiler.graph import Constant, Graph, Input, Op, origin
from qcompiler.invariants import no_batch_norm, quantized, real
from qcompiler.ops import Conv, Dequantize, FakeQuantize, MatMul, Quantize
from qcompiler.passes.annotations import annotated, weight_codes
from qcompiler.passes.base import Preserves
from qcompiler.passes.choices import Choices
from qcompiler.passes.evidence import CalibratedPass
from qcompiler.passes.needs import Need
from qcompiler.passes.spec import joined, spec
from qcompiler.types import Quantization, TensorType, common_quantization


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
        return _Inserter(self._choices(graph)).result()

    def observed(self, graph: Graph) -> Mapping[str, int | None]:
        """Every value that becomes codes, unless annotations say its range."""
        choices = self._choices(graph)
        return choices.observed(lambda v: choices.known_range(v) is None)

    def helpful(self, graph: Graph) -> Mapping[str, int | None]:
        """Values whose range only follows from annotations of others."""
        choices = self._choices(graph)
        return choices.observed(
            lambda v: choices.known_range(v) is not None and v not in choices.kept
        )

    def _choices(self, graph: Graph) -> Choices:
        return Choices(annotated(graph), self.known, self.configuration)


@dataclass(frozen=True, eq=False)
class _Inserter:
    choices: Choices
    weights: dict[tuple[Op, str, int], Op] = field(default_factory=dict)

    def result(self) -> Graph:
        """Rebuild the graph, operands first."""
        choices = self.choices
        real_values: dict[Op, Op] = {}
        codes: dict[tuple[Op, Need], Op] = {}

        converted: dict[tuple[Op, Quantization], Op] = {}

        def operand(x: Op, user: Op) -> Op:
            if not choices.is_rounded(x):
                return real_values[x]
            found = dequantized(x, choices.read_width(user, x))
            q = choices.readable(user, x, _meaning(found))
            if q != _meaning(found):
                found = converted.setdefault((found, q), _at_scale(found, q))
            return found

        def dequantized(x: Op, width: Need) -> Op:
            if (x, width) not in codes:
                with origin(x.sources):
                    widest = choices.width(x)
                    if width is widest:
                        value, q = real_values[x], inherited(real_values[x])
                        if x in choices.kept:
                            value = value if q is None else _at_scale(value, q)
                            q = choices.quantization(x, width)
                        q = q or choices.quantization(x, width)
                    else:
                        value = dequantized(x, widest)
                        q = choices.quantization(x, width)
                        if _meaning(value).bounds.bits <= q.bounds.bits:
                            return value
                    codes[x, width] = Dequantize(Quantize(value, q, name=x.name))
            return codes[x, width]

        def inherited(value: Op) -> Quantization | None:
            """The quantization of a moved value is that of the codes it moves."""
            moved = value.fields(value.moves)
            if not moved or not all(isinstance(x, Dequantize) for x in moved):
                return None
            return common_quantization(*(x.operands[0].type for x in moved))

        for node in choices.graph.ops:
            if isinstance(node, (Input, Constant)):
                real_values[node] = node
                continue
            operands = [operand(x, node) for x in node.operands]
            if not choices.config.skips(node):
                operands = self._aligned(node, operands)
                operands = self._constants(node, operands)
            whole = isinstance(node, FakeQuantize)  # said by the codes that it gets
            real_values[node] = operands[0] if whole else node.with_operands(operands)
        outputs = {
            name: dequantized(y, choices.width(y)) if choices.is_computed(y) else real_values[y]
            for name, y in choices.graph.outputs.items()
        }
        return dataclasses.replace(choices.graph, outputs=outputs)

    def _aligned(self, node: Op, operands: list[Op]) -> list[Op]:
        """Operands that an op mixes at the scale of its result, those that it compares at one."""
        compared = tuple(x for x in node.fields(node.compares) if x.type.is_float)
        if mixed := joined(node):
            q = self.choices.quantization(node, self.choices.width(node))
        elif len(compared) > 1:
            mixed, q = compared, self.choices.compared(node)
        else:
            return operands
        return [
            _at_scale(new, q) if any(old is x for x in mixed) else new
            for old, new in zip(node.operands, operands, strict=True)
        ]

    def _constants(self, node: Op, operands: list[Op]) -> list[Op]:
        """Constant factors of products: weights with one scale per output channel."""
        if not isinstance(node, (Conv, MatMul)) or spec(node) is None:
            return operands
        x, weight, *rest = operands
        if isinstance(weight, Constant) and (codes := self._weight_codes(node, weight)):
            weight = Dequantize(codes)
        if isinstance(weight, Constant):
            axis = 0 if isinstance(node, Conv) else weight.type.rank - 1
            storage = self.choices.config.rule(node).weights
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
        q = self.choices.kept.get(weight)
        axis = 0 if isinstance(product, Conv) else weight.type.rank - 1
        if q is None or q.bounds.bits > 8 or q.axis not in (None, axis):
            return None
        codes, meaning = weight_codes(weight.array, q)
        kind = TensorType("int8", codes.shape, meaning)
        return dataclasses.replace(weight, array=codes, tensor_type=kind)


def _meaning(value: Op) -> Quantization:
    assert isinstance(value, Dequantize)
    assert value.x.type.quantization is not None
    return value.x.type.quantization


def _at_scale(x: Op, q: Quantization) -> Op:
    if isinstance(x, Dequantize) and x.x.type.quantization == q:
        return x
    return Dequantize(Quantize(x, q))
