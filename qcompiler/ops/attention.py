"""Attention in integers: both products and the softmax between them."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

from qcompiler.graph import Graph, Input, Op, op
from qcompiler.ops.composite import Composite, Fused, inline
from qcompiler.ops.integer import MatMulInteger, ReduceSum
from qcompiler.ops.softmax import Average, Exponentials, Reciprocal


@op
class Attention(Composite):
    """softmax(f(q·k))·v as an `Average`: unnormalised exponentials, divided at the end.

    Attributes:
        query: Codes [..., m, d].
        key: Codes [..., d, n].
        value: Codes [..., n, e].
        table: The exponentials' `values`.
        region: f, elementwise: the 8-bit code of a score, from scores int32 [..., m, n] and what
            `terms` are, in that order.
        terms: What f reads besides, such as biases of positions.
        mask: That of the exponentials, if any.
    """

    query: Op
    key: Op
    value: Op
    table: Op
    region: Graph
    terms: tuple[Op, ...] = ()
    mask: Op | None = None

    decomposed: ClassVar[bool] = True

    def body(self) -> Op:
        last = self.codes.type.rank - 1
        exponentials = Exponentials(self.codes, self.table, last, self.mask)
        weighted = MatMulInteger(exponentials, self.value)
        parts = (self.query, self.key, self.value, weighted)
        leading = {x.type.shape[:-2] for x in parts}
        self.expect(len(leading) == 1, "operands with the same leading axes", leading)
        return Average(weighted, Reciprocal(ReduceSum(exponentials, (last,))))

    @cached_property
    def codes(self) -> Fused:
        """Those of the scores, which one kernel computes even where none spans the whole."""
        operands = (self.query, self.key, *self.terms)
        inside = [Input(x.type, name=f"x{i}", sources=()) for i, x in enumerate(operands)]
        root = inline(self.region, (MatMulInteger(*inside[:2]), *inside[2:]))
        return Fused(operands, Graph(tuple(inside), {"y": root}, "codes"))
