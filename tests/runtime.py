"""Running exported models in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from qcompiler.graph import Graph
from qcompiler.interpret import evaluate


def run(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Check a model and run it as users do, with all of ONNX Runtime's optimizations."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    content = proto.SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [y.name for y in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


def assert_agrees(graph: Graph, model: ir.Model, feeds: Mapping[str, np.ndarray]) -> None:
    """ONNX Runtime gives the bits of `evaluate` for integers, and nearly its real numbers."""
    expected, found = evaluate(graph, feeds), run(model, feeds)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        if value.dtype.kind == "f":
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(found[name], value)
