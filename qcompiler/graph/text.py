"""The printed form of a graph: short, stable, and shared by doctests, golden tests and dumps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.graph.base import Constant, Input, Op

if TYPE_CHECKING:
    from qcompiler.graph.graph import Graph

INDENT = "  "


def to_text(graph: Graph) -> str:
    """One line per op, operands first; scalars inline, arrays as type and digest."""
    return "\n".join(_lines(graph, "graph"))


def _lines(graph: Graph, head: str) -> list[str]:
    names = graph.names
    inputs = ", ".join(f"%{names[x]}: {x.type}" for x in graph.inputs)
    body = [
        line
        for node in graph.ops
        if not isinstance(node, (Input, Constant))
        for line in _statement(node, graph)
    ]
    outputs = ", ".join(f"{name}={_reference(y, names)}" for name, y in graph.outputs.items())
    return [
        f"{head}({inputs}) {{",
        *(INDENT + line for line in body),
        f"{INDENT}return {outputs}",
        "}",
    ]


def _statement(node: Op, graph: Graph) -> list[str]:
    names = graph.names
    regions = {k: v for k, v in node.attributes.items() if isinstance(v, type(graph))}
    arguments = [_reference(x, names) for x in node.operands]
    arguments += [
        f"{k}={_attribute(v)}"
        for k, v in node.attributes.items()
        if k not in regions and k not in ("quantization", "tensor_type")
    ]
    line = f"%{names[node]}: {node.type} = {node.kind()}({', '.join(arguments)})"
    if not regions:
        return [line]
    (region,) = regions.values()
    head, *rest = _lines(region, f"{line} ")
    return [head, *rest]


def _reference(node: Op, names: Mapping[Op, str]) -> str:
    if not isinstance(node, Constant):
        return f"%{names[node]}"
    if node.is_scalar and node.type.rank == 0:
        return f"{node.array[()]}"
    return f"{node.type}#{digest(node.array)}"


def _attribute(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_attribute, value))}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def digest(array: np.ndarray) -> str:
    """Eight hexadecimal digits of the array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:8]
