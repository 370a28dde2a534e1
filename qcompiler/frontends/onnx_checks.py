"""What is checked and adapted around importers: names, sizes, dtypes, reasons of refusals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from qcompiler.errors import ModelError, QcompilerError, ShapeError, UnsupportedError
from qcompiler.frontends.onnx_model import declared_dtype
from qcompiler.frontends.onnx_node import Importer, Node, name_of
from qcompiler.graph import Constant, Input, Op
from qcompiler.ops import Cast
from qcompiler.types import FLOAT, FLOATS, TensorType

LARGEST = 1 << 31  # elements of one value: beyond it a size is taken for damage


def stand_in(value: ir.Value) -> Op | None:
    """A stand-in of the type that the model declares, where it is static."""
    if value.dtype is None or value.shape is None or not value.shape.is_static():
        return None
    try:
        dtype = declared_dtype(value.dtype)
        return Input(TensorType(FLOAT if dtype in FLOATS else dtype, value.shape.numpy()))
    except QcompilerError:
        return None


def as_declared(op: Op, value: ir.Value) -> Op:
    """An output in the float type that the model declares."""
    dtype = FLOAT if value.dtype is None else declared_dtype(value.dtype)
    narrow = op.type.dtype == FLOAT and dtype in FLOATS - {FLOAT}
    return Cast(op, dtype, sources=op.sources) if narrow else op


def imported(function: Importer, form: Node) -> Sequence[Op]:
    """What an importer makes of a node; its sizes are checked."""
    results = function(form)
    results = results if isinstance(results, tuple) else (results,)
    for y in results:
        if math.prod(y.type.shape) > LARGEST:
            raise form.broken(f"expected a tensor that fits in memory, found {y.type}")
    return [y if y.type.size else _empty(y) for y in results]


def _empty(value: Op) -> Op:
    """A value without elements is known, whatever computes it."""
    return Constant(np.empty(value.type.shape, value.type.dtype), name=value.name)


def all_float(node: ir.Node, operands: Sequence[Op]) -> bool:
    """Whether importers, which know float32 best, can compute a node with constant operands.

    Sums over nothing and the like are left to ONNX's reference.
    """
    if node.op_type in ("Cast", "CastLike", "DynamicQuantizeLinear"):
        return False
    if node.op_type in ("RNN", "GRU", "LSTM"):  # ONNX's reference ignores sequence_lens
        return True
    if node.op_type in ("Resize", "RoiAlign"):  # ONNX's reference differs from its runtime
        return operands[0].type.dtype == FLOAT
    return all(x.type.dtype == FLOAT and x.type.size for x in operands)


def refusal(node: ir.Node, inputs: Iterable[Op | None], error: QcompilerError) -> str:
    """What was refused; shapes of floats that do not fit are an error of the model at once."""
    if isinstance(error, UnsupportedError):
        return str(error)
    computed = [x for x in inputs if x is not None and not isinstance(x, Constant)]
    if dtypes := {x.type.dtype for x in computed} - {FLOAT}:
        return f"{node.op_type} of {' and '.join(sorted(dtypes))}"
    problem = str(error).partition(": ")[2]
    raise ShapeError(f"node {name_of(node)!r} ({node.op_type}): {problem}") from None


def check_names(graph: ir.Graph) -> None:
    """Refuse values of one name.

    Raises:
        ModelError: two nodes, inputs or initializers give a value the same name.
    """
    sources = {x.name: "an input" for x in graph.inputs}
    sources |= dict.fromkeys(graph.initializers, "an initializer")
    for node in graph:
        for value in node.outputs:
            if value.name and value.name in sources:
                raise ModelError(
                    f"value {value.name!r} comes from node {name_of(node)!r} and from "
                    f"{sources[value.name]}"
                )
            sources[value.name] = f"node {name_of(node)!r}"
