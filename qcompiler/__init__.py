"""qcompiler: post-training quantization to integer-only code.

    import qcompiler

    compiled = qcompiler.compile("model.onnx", target="cpu", calibration="calib.npz")
    y = compiled({"x": x})
    compiled.save("model.so")

Names are imported when they are first used, so that loading a compiled library, or the command
line's help, does not wait for what only compiling needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcompiler.artifact import CompiledModel, load
    from qcompiler.backends.onnx import export_onnx, export_qdq
    from qcompiler.config import QuantizationConfig, Rule, load_config
    from qcompiler.driver import (
        Compilation,
        Options,
        compile,
        compile_model,
        quantize,
    )
    from qcompiler.errors import QcompilerError
    from qcompiler.evidence import Calibration, SyntheticCalibrationWarning
    from qcompiler.frontends.onnx import import_onnx
    from qcompiler.frontends.onnx_selection import LeftOutWarning
    from qcompiler.frontends.torch import import_torch
    from qcompiler.graph import Constant, Graph, Input, Op
    from qcompiler.interpret import evaluate
    from qcompiler.types import Quantization, TensorType

_HOMES = {
    "artifact": ("CompiledModel", "load"),
    "backends.onnx": ("export_onnx", "export_qdq"),
    "config": ("QuantizationConfig", "Rule", "load_config"),
    "driver": (
        "Compilation",
        "Options",
        "compile",
        "compile_model",
        "quantize",
    ),
    "errors": ("QcompilerError",),
    "evidence": ("Calibration", "SyntheticCalibrationWarning"),
    "frontends.onnx": ("import_onnx",),
    "frontends.onnx_selection": ("LeftOutWarning",),
    "frontends.torch": ("import_torch",),
    "graph": ("Constant", "Graph", "Input", "Op"),
    "interpret": ("evaluate",),
    "types": ("Quantization", "TensorType"),
}

__all__ = [
    "Calibration",
    "Compilation",
    "CompiledModel",
    "Constant",
    "Graph",
    "Input",
    "LeftOutWarning",
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
    "import_torch",
    "load",
    "load_config",
    "quantize",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(importlib.import_module(f"qcompiler.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'qcompiler' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
