"""Importers of QuantizeLinear and DequantizeLinear, of ONNX and of ONNX Runtime."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from qcompiler.frontends.onnx_codes import quantized, storage_of
from qcompiler.frontends.onnx_contrib import INT, MICROSOFT, define
from qcompiler.frontends.onnx_integer import real_value
from qcompiler.frontends.onnx_model import dtype_of
from qcompiler.frontends.onnx_node import Node, importer, name_of
from qcompiler.graph import Constant, Graph, Op
from qcompiler.ops import Cast, Expand, FakeQuantize, Reshape, Slice
from qcompiler.types import FLOAT

STORAGES = frozenset(f"{u}int{bits}" for u in ("", "u") for bits in (2, 4, 8, 16, 32))

define("QuantizeLinear(x, y_scale, y_zero_point?) -> y", axis=INT)
define("DequantizeLinear(x, x_scale, x_zero_point?) -> y", axis=INT)


@importer("QuantizeLinear", since=10)
@importer("QuantizeLinear", domain=MICROSOFT)
def quantize_linear(node: Node) -> Op:
    """round(x / scale) + zero_point; the zero point's type, or an attribute, says of what type."""
    x, scale, zero_point = _blocks(node)
    storage = "uint8" if zero_point is None else storage_of(zero_point)
    if zero_point is None and (given := node.integer("output_dtype")):
        storage = dtype_of(ir.DataType(given))
    if storage not in STORAGES:
        raise node.unsupported(f"codes of type {storage}")
    if x.type.dtype != FLOAT:
        x = Cast(x, FLOAT)
    return quantized(node, x, scale, zero_point, storage, _axis(node, x, scale))


@importer("DequantizeLinear", since=10)
@importer("DequantizeLinear", domain=MICROSOFT)
def dequantize_linear(node: Node) -> Op:
    """(x − zero_point)·scale."""
    x, scale, zero_point = _blocks(node)
    if not x.type.is_integer:
        raise node.broken(f"expected integers, found {x.type}")
    return real_value(node, x, scale, zero_point, _axis(node, x, scale))


def _axis(node: Node, x: Op, scale: Op) -> int | None:
    if scale.type.size == 1 or scale.type.rank != 1:
        return None
    return node.axis(node.integer("axis", 1), x.type.rank)


def _blocks(node: Node) -> tuple[Op, Op, Op | None]:
    """The operands, with scales of blocks written out: one per element, or per index of an axis."""
    x, scale, zero_point = node.x, node.operand(1), node.optional(2)
    size = node.integer("block_size")
    if size == 0 or scale.type.size == 1:
        return x, scale, zero_point
    axis = node.axis(node.integer("axis", 1), x.type.rank)
    shape = x.type.shape
    blocks = (*shape[:axis], -(-shape[axis] // max(size, 1)), *shape[axis + 1 :])
    for values in (scale, zero_point):
        if values is not None and values.type.shape != blocks:
            raise node.broken(f"expected {list(blocks)} for blocks of {size}, found {values.type}")
    return x, _repeated(node, scale, size), zero_point and _repeated(node, zero_point, size)


def _repeated(node: Node, values: Op, size: int) -> Op:
    """Each value as often as its block is long."""
    axis = node.axis(node.integer("axis", 1), node.x.type.rank)
    count = node.x.type.shape[axis]
    if isinstance(values, Constant):
        array = np.repeat(values.array, size, axis).take(range(count), axis)
        return replace(values, array=array, tensor_type=None)
    before, (blocks, *after) = values.type.shape[:axis], values.type.shape[axis:]
    whole = (*before, blocks * size, *after)
    apart = Expand(Reshape(values, (*before, blocks, 1, *after)), (*before, blocks, size, *after))
    stops = tuple(count if i == axis else d for i, d in enumerate(whole))
    return Slice(Reshape(apart, whole), (0,) * len(whole), stops, (1,) * len(whole))


class BlockScalesWarning(UserWarning):
    """Weights with a scale for each block were quantized anew, with one per output channel."""


def warn_of_blocks(model: ir.Model, graph: Graph) -> None:
    """Name the nodes whose weights have scales that no quantization of the IR can express."""
    written = [x for x in model.graph if "block_size" in x.attributes]
    if not written:
        return
    kept = {s for x in graph.ops if isinstance(x, FakeQuantize) for s in x.sources}
    used = {s for x in graph.ops for s in x.sources}
    names = [name for x in written if (name := name_of(x)) in used - kept]
    if not names:
        return
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    warnings.warn(
        f"{len(names)} weights have a scale per block, and get one per output channel: {shown}",
        BlockScalesWarning,
        stacklevel=3,
    )
