"""Importers of normalization by the statistics of the value itself."""

from __future__ import annotations

from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Op
from qcompiler.ops import Add, Mul, Normalize


@importer("LayerNormalization", since=17)
def layer_normalization(node: Node) -> Op:
    """(x − mean) / √(variance + epsilon)·scale + bias over the axes from `axis` on."""
    rank = node.x.type.rank
    axes = tuple(range(node.axis(node.integer("axis"), rank), rank))
    return _affine(node, Normalize(node.x, axes, node.number("epsilon")))


def _affine(node: Node, y: Op) -> Op:
    """y·scale + bias by the operands 1 and 2, which may not enlarge it."""
    bias = node.optional(2)
    scaled: Op = Mul(y, node.operand(1))
    result = scaled if bias is None else Add(scaled, bias)
    if result.type != y.type:
        raise node.broken(f"expected scale and bias that broadcast to {y.type}")
    return result
