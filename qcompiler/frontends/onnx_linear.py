"""Importers of products, normalization and softmax."""

from __future__ import annotations

import math

from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Op
from qcompiler.ops import (
    Add,
    BatchNormalization,
    MatMul,
    Mul,
    Reshape,
    Softmax,
    Transpose,
    scalar,
)
from qcompiler.types import FLOAT


@importer("MatMul")
def matmul(node: Node) -> Op:
    """a @ b as numpy defines it, vectors included."""
    return product(node, node.x, node.operand(1))


def product(node: Node, a: Op, b: Op) -> Op:
    """a @ b, either of which may be a vector."""
    if min(a.type.rank, b.type.rank) == 0:
        raise node.broken(f"expected tensors, found {a.type} and {b.type}")
    row, column = a.type.rank == 1, b.type.rank == 1
    if row:
        a = simplified(Reshape(a, (1, *a.type.shape)))
    if column:
        b = simplified(Reshape(b, (*b.type.shape, 1)))
    y = MatMul(a, b)
    shape = list(y.type.shape)
    if column:
        del shape[-1]
    if row:
        del shape[len(shape) - (0 if column else 1) - 1]
    return Reshape(y, tuple(shape)) if row or column else y


@importer("Gemm")
def gemm(node: Node) -> Op:
    """alpha·A'·B' + beta·C, where ' transposes on demand."""
    a, b, c = node.x, node.operand(1), node.optional(2)
    if a.type.rank != 2 or b.type.rank != 2:
        raise node.broken(f"expected matrices, found {a.type} and {b.type}")
    if node.integer("transA"):
        a = simplified(Transpose(a, (1, 0)))
    if node.integer("transB"):
        b = simplified(Transpose(b, (1, 0)))
    b = _scaled(b, node.number("alpha"))
    if c is None or node.number("beta") == 0:
        return MatMul(a, b)
    c = _scaled(c, node.number("beta"))
    columns = b.type.shape[-1:]
    if c.type.shape in (columns, (1, *columns)):
        return MatMul(a, b, c if c.type.rank == 1 else simplified(Reshape(c, columns)))
    y = Add(product := MatMul(a, b), c)
    if y.type.shape != product.type.shape:
        raise node.broken(f"expected C to broadcast to {product.type}, found {c.type}")
    return y


def _scaled(x: Op, factor: float) -> Op:
    return x if factor == 1 else simplified(Mul(x, scalar(factor, FLOAT)))


@importer("BatchNormalization", since=7)
def batch_normalization(node: Node) -> Op:
    """Normalization by stored statistics; until opset 13 more outputs mean training."""
    if node.integer("spatial", 1) != 1:
        raise node.unsupported("spatial=0")
    if any(node.outputs[1:]):
        raise node.unsupported("training outputs: export the model for inference")
    return _normalize(node)


@importer("BatchNormalization", since=14)
def batch_normalization_with_mode(node: Node) -> Op:
    """Normalization by stored statistics, unless an attribute asks for the batch's own."""
    if node.integer("training_mode"):
        raise node.unsupported("training_mode: export the model for inference")
    return _normalize(node)


def _normalize(node: Node) -> Op:
    gamma, beta, mean, variance = (node.operand(i) for i in range(1, 5))
    epsilon = node.number("epsilon")
    return BatchNormalization(node.x, gamma, beta, mean, variance, epsilon)


@importer("Softmax")
def softmax_of_rows(node: Node) -> Op:
    """Until opset 12: x as a matrix whose rows begin at the axis."""
    shape = node.x.type.shape
    axis = node.integer("axis")
    axis = len(shape) if axis == len(shape) else node.axis(axis, len(shape))
    columns = math.prod(shape[axis:])
    if shape and columns == shape[-1]:
        return Softmax(node.x, len(shape) - 1)
    rows = Reshape(node.x, (math.prod(shape[:axis]), columns))
    return Reshape(Softmax(rows, 1), shape)


@importer("Softmax", since=13)
def softmax(node: Node) -> Op:
    """Along one axis."""
    return Softmax(node.x, node.axis(node.integer("axis"), node.x.type.rank))
