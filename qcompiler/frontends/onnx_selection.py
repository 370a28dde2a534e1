"""Models that end in a choice of boxes: they are imported up to it.

How many boxes non-maximum suppression keeps depends on their values, while shapes here are static;
and it is no arithmetic that codes would speed up.  What it and the operators behind it read becomes
outputs of the graph, for the application to go on with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from qcompiler.frontends.onnx_control import subgraphs
from qcompiler.frontends.onnx_node import name_of

_LAYERS = frozenset(
    ["Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "RoiAlign", "RNN", "GRU", "LSTM"]
)
"""Operators that are no postprocessing: behind a choice of boxes there is a second stage."""
_SHOWN = 6


class LeftOutWarning(UserWarning):
    """The end of a model was left out: its operands are outputs in place of its results."""


@dataclass(frozen=True)
class Selection:
    """The end of a model, from where it chooses boxes.

    Attributes:
        nodes: Those left out, in the order of the model.
        results: Outputs of the graph that they compute.
        operands: What they read of other nodes.
    """

    nodes: tuple[ir.Node, ...]
    results: tuple[ir.Value, ...]
    operands: tuple[ir.Value, ...]

    @property
    def is_last(self) -> bool:
        """Whether only postprocessing is left out."""
        return not any(node.op_type in _LAYERS for node in self.nodes)

    def outputs(self, declared: list[ir.Value]) -> list[ir.Value]:
        """The declared outputs, the operands in place of the results."""
        found: dict[ir.Value, None] = {}
        for value in declared:
            found.update(dict.fromkeys(self.operands if value in self.results else [value]))
        return list(found)

    def message(self, outputs: list[str]) -> str:
        """What is left out, and what is returned in its place."""
        names = [f"{name_of(node)} ({node.op_type})" for node in self.nodes]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        results = ", ".join(str(value.name) for value in self.results)
        return (
            f"left out from non-maximum suppression on: {', '.join(names[:_SHOWN])}{more}; "
            f"outputs are {', '.join(outputs)}, from which these nodes compute {results}"
        )


def find_selection(graph: ir.Graph) -> Selection | None:
    """The end of a graph that chooses boxes; None where no output depends on such a choice."""
    users: dict[ir.Value, list[ir.Node]] = {}
    for node in graph:
        for value in _read(node):
            users.setdefault(value, []).append(node)
    stack = [node for node in graph if _chooses(node)]
    found: set[ir.Node] = set()
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(user for value in node.outputs for user in users.get(value, []))
    nodes = tuple(node for node in graph if node in found)
    computed = {value for node in nodes for value in node.outputs}
    results = tuple(value for value in graph.outputs if value in computed)
    if not results:
        return None
    operands: dict[ir.Value, None] = {}
    for node in nodes:
        for value in _read(node):
            producer = value.producer()
            if producer is not None and producer.graph is graph and value not in computed:
                operands[value] = None
    return Selection(nodes, results, tuple(operands))


def _chooses(node: ir.Node) -> bool:
    inner = (x for graph in subgraphs(node) for x in graph.all_nodes())
    return any(x.op_type == "NonMaxSuppression" and not x.domain for x in (node, *inner))


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """The values that a node reads, also inside its subgraphs."""
    yield from (x for x in node.inputs if x is not None)
    for graph in subgraphs(node):
        yield from graph.outputs
        for inner in graph.all_nodes():
            yield from (x for x in inner.inputs if x is not None)
