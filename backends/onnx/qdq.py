"""The quantized stage as an ordinary QDQ model, for other tools."""

from __future__ import annotations

import os
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx_ir as ir

from qcompiler.backends.onnx.emitter import Emitter, data_type
from qcompiler.backends.onnx.writer import build, save
from qcompiler.graph import Constant, Graph
from qcompiler.ops import Composite, Dequantize, Quantize
from qcompiler.types import FLOAT, Quantization

_STANDARD = frozenset(["int8", "uint8", "int16", "uint16"])
_FOUR_BITS = {"int4": ml_dtypes.int4, "uint4": ml_dtypes.uint4}


def to_qdq_model(graph: Graph) -> ir.Model:
    """A graph in the quantized language, with standard QuantizeLinear and DequantizeLinear.

    QuantizeLinear rounds half to even where `Quantize` rounds half up, and divides by the scale
    where `Quantize` multiplies by its inverse: codes on a tie may differ by one.  Constants of 4
    bits become INT4 or UINT4 tensors; other codes of unusual widths are clipped in float first.
    QuantizeLinear knows no 32-bit codes: those values stay float.

    Args:
        graph: In the quantized language.

    Raises:
        UnsupportedError: an output is named like an input.
    """
    return build(graph, _QDQEmitter(graph), graph.names)


def export_qdq(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph in the quantized language as a QDQ ONNX file (see `to_qdq_model`).

    Raises:
        OutputError: the file cannot be written.
        UnsupportedError: the graph does not fit an ONNX file.
    """
    save(to_qdq_model(graph), path)


class _QDQEmitter(Emitter):
    """Writes the two ends of a quantized value as the standard operators."""

    def __init__(self, graph: Graph) -> None:
        super().__init__([*graph.names.values(), *graph.outputs])
        self._float = {
            node
            for node in graph.ops
            if isinstance(node, Quantize)
            and node.quantization.bounds.bits > 16
            and not graph.is_output(node)
            and all(isinstance(user, Dequantize) for user in graph.users[node])
        }

    def composite(self, node: Composite, values: Sequence[ir.Value]) -> ir.Value:
        match node:
            case Quantize() if node in self._float:
                return self._passed_on(values[0])
            case Quantize(quantization=q) if q.bounds.dtype in _STANDARD:
                return self._quantize(q, values[0])
            case Dequantize(x=x) if x in self._float:
                return self._passed_on(values[0])
            case Dequantize(x=Constant(array=codes)) if _storage(node) in _FOUR_BITS:
                codes = codes.astype(_FOUR_BITS[_storage(node)])
                return self._dequantize(_quantization(node), self.constant(codes), codes.dtype)
            case Dequantize(x=x) if x.type.dtype in _STANDARD or _is_plain_int32(node):
                return self._dequantize(_quantization(node), values[0], np.dtype(x.type.dtype))
        return super().composite(node, values)

    def _passed_on(self, value: ir.Value) -> ir.Value:
        result = self.op("Identity", value)
        result.dtype = data_type(FLOAT)
        return result

    def _quantize(self, q: Quantization, value: ir.Value) -> ir.Value:
        bounds = q.bounds
        if q.storage != bounds.dtype:
            ends = [(np.array(v) - q.zero_point) * q.scale for v in (bounds.low, bounds.high)]
            value = self._clipped(value, q, ends)
        scale, zero_point = self._parameters(q, np.dtype(bounds.dtype))
        return self.op("QuantizeLinear", value, scale, zero_point, **_axis(q))

    def _clipped(self, value: ir.Value, q: Quantization, ends: list[np.ndarray]) -> ir.Value:
        """The value within real bounds that may differ along q's axis."""
        rank = len(value.shape or ())
        shape = [-1 if i == q.axis else 1 for i in range(rank)] if q.axis is not None else []
        low, high = (self.constant(v.astype(np.float32).reshape(shape)) for v in ends)
        return self.op("Min", self.op("Max", value, low), high)

    def _dequantize(self, q: Quantization, codes: ir.Value, dtype: np.dtype) -> ir.Value:
        scale, zero_point = self._parameters(q, dtype)
        return self.op("DequantizeLinear", codes, scale, zero_point, **_axis(q))

    def _parameters(self, q: Quantization, dtype: np.dtype) -> tuple[ir.Value, ir.Value]:
        shape = () if q.axis is None else (-1,)
        scale = np.array(q.scale, np.float32).reshape(shape)
        zero_point = np.array(q.zero_point).astype(dtype).reshape(shape)
        return self.constant(scale), self.constant(zero_point)


def _axis(q: Quantization) -> dict[str, int]:
    return {} if q.axis is None else {"axis": q.axis}


def _quantization(node: Dequantize) -> Quantization:
    q = node.x.type.quantization
    assert q is not None  # or else it could not have been built
    return q


def _is_plain_int32(node: Dequantize) -> bool:
    """DequantizeLinear has no other 32-bit codes than int32 with the zero point 0."""
    return node.x.type.dtype == "int32" and not any(_quantization(node).zero_point)


def _storage(node: Dequantize) -> str:
    return _quantization(node).storage
