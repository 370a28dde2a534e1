"""StoreStates: states stay codes between calls."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.graph import Graph, Input, Op, fold, rebuilt
from qcompiler.ops import Dequantize, Quantize
from qcompiler.passes.base import Pass, Preserves
from qcompiler.types import TensorType


@dataclass(frozen=True)
class StoreStates(Pass):
    """Take and return the codes of states instead of reals.

    Only where both ends have them in one quantization (`QuantizeStates`); what an op that stayed in
    float makes of a state stays real.

    >>> from qcompiler.ops import Table
    >>> from qcompiler.types import Quantization
    >>> import numpy as np
    >>> from qcompiler.graph import Constant
    >>> q = Quantization.per_tensor("uint8", 0.5)
    >>> h = Input(TensorType("float32", (1, 4)), name="h")
    >>> y = Table(Quantize(h, q), Constant(np.arange(256, dtype=np.uint8)[::-1]), q)
    >>> graph = Graph((h,), {"next": Dequantize(y, name="next")}, states={"h": "next"})
    >>> print(StoreStates()(graph))
    graph(%h: uint8[1x4]@0.5) {
      %next: uint8[1x4]@0.5 = table(%h, uint8[256]#cd6816b7)
      return next=%next
    }
    """

    preserves: ClassVar[Preserves] = "nothing"

    def run(self, graph: Graph) -> Graph:
        """The graph between codes."""
        inputs = {str(x.name): x for x in graph.inputs}
        stored: dict[Op, Input] = {}
        outputs = dict(graph.outputs)
        for name, after in graph.states.items():
            x, y = inputs[name], graph.outputs[after]
            users = graph.users[x]
            if not isinstance(y, Dequantize) or not all(isinstance(u, Quantize) for u in users):
                continue
            q = y.x.type.quantization
            if q is None or any(u.type.quantization != q for u in users):
                continue
            kind = TensorType(q.bounds.dtype, x.type.shape, q)
            stored[x] = dataclasses.replace(x, tensor_type=kind)
            outputs[after] = y.x if y.x.name else dataclasses.replace(y.x, name=y.name)
        if not stored:
            return graph

        def visit(node: Op, operands: list[Op]) -> Op:
            if isinstance(node, Quantize) and node.x in stored:
                return operands[0]
            return rebuilt(node, operands)

        env: dict[Op, Op] = {x: stored.get(x, x) for x in graph.inputs}
        fold(list(outputs.values()), env, visit)
        return dataclasses.replace(
            graph,
            inputs=tuple(stored.get(x, x) for x in graph.inputs),
            outputs={name: env[y] for name, y in outputs.items()},
        )
