"""qcompiler: post-training quantization to integer-only code.

    import qcompiler

    compiled = qcompiler.compile("model.onnx", target="cpu", calibration="calib.npz")
    y = compiled({"x": x})
    compiled.save("model.so")
"""

from qcompiler.artifact import CompiledModel, load
from qcompiler.backends.onnx import export_onnx, export_qdq
from qcompiler.config import QuantizationConfig, Rule, load_config
from qcompiler.driver import (
    Compilation,
    Options,
    SyntheticCalibrationWarning,
    compile,
    compile_model,
    quantize,
)
from qcompiler.errors import QcompilerError
from qcompiler.frontends.onnx import import_onnx
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.types import Quantization, TensorType

__all__ = [
    "Compilation",
    "CompiledModel",
    "Constant",
    "Graph",
    "Input",
    "Op",
    "Options",
    "QcompilerError",
    "Quantization",
    "QuantizationConfig",
    "Rule",
    "SyntheticCalibrationWarning",
    "TensorType",
    "compile",
    "compile_model",
    "evaluate",
    "export_onnx",
    "export_qdq",
    "import_onnx",
    "load",
    "load_config",
    "quantize",
]
