"""Importers of operators that know rows from columns: triangles and unit matrices."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qcompiler.frontends.onnx_fold import LIMIT
from qcompiler.frontends.onnx_logic import selected
from qcompiler.frontends.onnx_model import dtype_of
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Constant, Op
from qcompiler.types import DTYPES


@importer("Trilu", since=14)
def triangle(node: Node) -> Op:
    """The elements on one side of a diagonal, and 0 on the other."""
    x = node.x
    if x.type.rank < 2:
        raise node.broken(f"expected matrices, found {x.type}")
    rows, columns = x.type.shape[-2:]
    k = _within(int(node.known_scalar(1, "k") or 0), rows, columns)
    kept = np.ones((rows, columns), bool)
    kept = np.triu(kept, k) if node.integer("upper") else np.tril(kept, k)
    return selected(Constant(kept), x, Constant(np.zeros((), x.type.dtype)))


@importer("EyeLike", since=9)
def unit_matrix(node: Node) -> Op:
    """1 on a diagonal and 0 elsewhere: known, since shapes are static."""
    if node.x.type.rank != 2:
        raise node.broken(f"expected a matrix, found {node.x.type}")
    rows, columns = node.x.type.shape
    if rows * columns > LIMIT:
        raise node.unsupported(f"a constant result of {node.x.type.size} elements")
    dtype = node.x.type.dtype
    if (element := node.attributes.get("dtype")) is not None:
        try:
            dtype = dtype_of(ir.DataType(int(element)))
        except ValueError as error:
            raise node.broken(f"dtype: {error}") from None
    if dtype not in DTYPES:
        raise node.unsupported(f"dtype {dtype}")
    return Constant(np.eye(rows, columns, _within(node.integer("k"), rows, columns), dtype))


def _within(k: int, rows: int, columns: int) -> int:
    """The diagonal, or the nearest that lies just outside."""
    return max(-rows, min(k, columns))
