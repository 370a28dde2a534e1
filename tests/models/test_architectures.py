"""The exporter scripts: one architecture exported, and what they say where torch is absent."""

import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

MODELS = Path(__file__).resolve().parents[2] / "models"
needs_torch = pytest.mark.skipif(
    not (importlib.util.find_spec("torch") and importlib.util.find_spec("transformers")),
    reason="needs torch and transformers",
)


@pytest.mark.parametrize("script", ["architectures.py", "digits/train.py"])
def test_without_torch_the_scripts_say_what_to_install(script: str) -> None:
    code = (
        "import runpy, sys; sys.modules['torch'] = None; "
        f"runpy.run_path({str(MODELS / script)!r}, run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith("pip install 'qcompiler[models]'")
    assert "Traceback" not in result.stderr


@needs_torch
def test_mobilenet_v2_keeps_batch_normalization_and_computes_finite_logits(tmp_path: Path) -> None:
    path = tmp_path / "mobilenet_v2.onnx"
    script = str(MODELS / "architectures.py")
    arguments = ["mobilenet_v2", str(path), "--batch", "2"]
    subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True)

    operators = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert operators["Conv"] == operators["BatchNormalization"] == 52
    others = {"Clip", "Add", "ReduceMean", "Reshape", "Gemm"}
    assert set(operators) == {"Conv", "BatchNormalization"} | others
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    (logits,) = session.run(None, {"x": x})
    assert logits.shape == (2, 1000)
    assert np.isfinite(logits).all()
    assert logits.std() > 0.05
