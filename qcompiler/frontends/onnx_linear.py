"""Importers of products, normalization and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_index import positions
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reduce import reduced_sum
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    ArgMax,
    BatchNormalization,
    Div,
    Equal,
    Exp,
    Log,
    MatMul,
    Mul,
    ReduceMax,
    Reshape,
    Select,
    Softmax,
    Sqrt,
    Sub,
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
    parameters, epsilon = (gamma, beta, mean, variance), node.number("epsilon")
    rank, shape = node.x.type.rank, gamma.type.shape
    expected = node.x.type.shape[1:] if node.integer("spatial", 1) != 1 else node.x.type.shape[1:2]
    if rank < 2 or any(p.type.shape != expected for p in parameters):
        raise node.broken(f"expected parameters {list(expected)} for {node.x.type}, found {shape}")
    if all(isinstance(p, Constant) for p in parameters) and len(expected) == 1:
        return BatchNormalization(node.x, gamma, beta, mean, variance, epsilon)
    deviation = simplified(Sqrt(simplified(Add(variance, scalar(epsilon, FLOAT)))))
    factor = simplified(Div(gamma, deviation))
    term = simplified(Sub(beta, simplified(Mul(mean, factor))))
    wide = (*expected, *(1,) * (rank - 1 - len(expected)))
    scaled = Mul(node.x, simplified(Reshape(factor, wide)))
    return Add(scaled, simplified(Reshape(term, wide)))


def _of_rows(build: Callable[[Op, int], Op]) -> Callable[[Node], Op]:
    """Until opset 12: x as a matrix whose rows begin at the axis."""

    def read(node: Node) -> Op:
        shape = node.x.type.shape
        axis = node.integer("axis")
        axis = len(shape) if axis == len(shape) else node.axis(axis, len(shape))
        columns = math.prod(shape[axis:])
        if shape and columns == shape[-1]:
            return build(node.x, len(shape) - 1)
        rows = Reshape(node.x, (math.prod(shape[:axis]), columns))
        return Reshape(build(rows, 1), shape)

    return read


def _along(build: Callable[[Op, int], Op]) -> Callable[[Node], Op]:
    """Since opset 13: along one axis."""
    return lambda node: build(node.x, node.axis(node.integer("axis"), node.x.type.rank))


def _log_softmax(x: Op, axis: int) -> Op:
    """log softmax(x), which does not underflow."""
    shifted = Sub(x, ReduceMax(x, (axis,)))
    return Sub(shifted, Log(reduced_sum(Exp(shifted), (axis,))))


def _hardmax(x: Op, axis: int) -> Op:
    """1 at the first largest element of an axis, 0 elsewhere."""
    here = Equal(ArgMax(x, axis), positions(x.type.shape, axis))
    return Select(here, scalar(1, FLOAT), scalar(0, FLOAT))


softmax_of_rows = importer("Softmax")(_of_rows(Softmax))
softmax = importer("Softmax", since=13)(_along(Softmax))
for _name, _build in {"Hardmax": _hardmax, "LogSoftmax": _log_softmax}.items():
    importer(_name)(_of_rows(_build))
    importer(_name, since=13)(_along(_build))
