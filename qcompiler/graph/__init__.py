"""The IR: immutable typed ops, and graphs of them.

An op *is* the value that it computes.  It is a frozen dataclass with identity semantics, whose
fields are operands (`Op`, `Op | None` or a tuple of them) and attributes; building one infers and
checks its type.  `dataclasses.replace` edits, `match` recognises, what no output reaches is dead.

    >>> from qcompiler.ops import Add, Relu
    >>> from qcompiler.types import TensorType
    >>> x = Input(TensorType("float32", (2,)), name="x")
    >>> print(Graph((x,), {"y": Relu(Add(x, x))}))
    graph(%x: float32[2]) {
      %add: float32[2] = add(%x, %x)
      %relu: float32[2] = relu(%add)
      return y=%relu
    }
"""

from qcompiler.graph.base import Constant, Input, Op, fold, op, origin, rebuilt, toposort
from qcompiler.graph.graph import Graph, Rule

__all__ = [
    "Constant",
    "Graph",
    "Input",
    "Op",
    "Rule",
    "fold",
    "op",
    "origin",
    "rebuilt",
    "toposort",
]
