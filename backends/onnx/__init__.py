"""Graphs as ONNX files: integer operators that anybody's runtime executes, and QDQ."""

from qcompiler.backends.onnx.bfloat16 import widened, without_bfloat16
from qcompiler.backends.onnx.emitter import Emitter
from qcompiler.backends.onnx.qdq import export_qdq, to_qdq_model
from qcompiler.backends.onnx.runner import runner
from qcompiler.backends.onnx.writer import detached, export_onnx, to_model

__all__ = [
    "Emitter",
    "detached",
    "export_onnx",
    "export_qdq",
    "runner",
    "to_model",
    "to_qdq_model",
    "widened",
    "without_bfloat16",
]
