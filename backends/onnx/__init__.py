"""Graphs as ONNX files: integer operators that anybody's runtime executes, and QDQ."""

from qcompiler.backends.onnx.emitter import Emitter
from qcompiler.backends.onnx.writer import export_onnx, to_model

__all__ = ["Emitter", "export_onnx", "to_model"]
