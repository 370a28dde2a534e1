"""Drawings of graphs, in the language of Graphviz."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

from qcompiler.graph.base import Constant, Op
from qcompiler.graph.blocks import blocks

if TYPE_CHECKING:
    from qcompiler.graph.graph import Graph

REAL, WHOLE = "#f4cfa8", "#cfe3c2"
"""Colours of values: real numbers and integers."""


def to_dot(graph: Graph) -> str:
    """The graph in DOT: `dot -Tsvg graph.dot -o graph.svg` draws it.

    A box per op, without constants, in a frame per block; boxes are orange where the value is real,
    green where it is whole: what stays in float between the ends of an integer graph is seen.
    """
    ids = {node: f"n{i}" for i, node in enumerate(graph.ops) if not isinstance(node, Constant)}
    parts = blocks(graph)
    framed = {node for part in parts for node in part}
    return "\n".join(
        [
            f"digraph {_quoted(graph.name)} {{",
            '  node [shape=box, style=filled, fontname="sans-serif"];',
            *(f"  {_box(node, graph, ids[node])}" for node in ids if node not in framed),
            *(line for i, part in enumerate(parts) for line in _frame(i, part, graph, ids)),
            *(f"  {ids[x]} -> {ids[y]};" for y in ids for x in y.operands if x in ids),
            *_ends(graph, ids),
            "}",
        ]
    )


def _frame(number: int, block: tuple[Op, ...], graph: Graph, ids: dict[Op, str]) -> Iterator[str]:
    paths = [re.split("([/.])", source) for node in block for source in node.sources]
    levels = zip(*paths, strict=False)
    common = takewhile(lambda parts: len(set(parts)) == 1, levels)
    label = "".join(parts[0] for parts in common).rstrip("/.") or f"block {number}"
    yield f"  subgraph cluster_{number} {{"
    yield f"    label={_quoted(label)};"
    for node in block:
        yield f"    {_box(node, graph, ids[node])}"
    yield "  }"


def _box(node: Op, graph: Graph, name: str) -> str:
    label = f"{graph.names[node]}\n{node.kind()}\n{node.type}"
    colour = REAL if node.type.is_float else WHOLE
    return f'{name} [label={_quoted(label)}, fillcolor="{colour}"];'


def _ends(graph: Graph, ids: dict[Op, str]) -> Iterator[str]:
    for i, (name, y) in enumerate(graph.outputs.items()):
        yield f"  y{i} [label={_quoted(name)}, shape=ellipse];"
        if y in ids:
            yield f"  {ids[y]} -> y{i};"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
