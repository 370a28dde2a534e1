"""Models in half, bfloat16 and double: ends of the model's own dtype, equal in every executor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompiler
from qcompiler.backends.onnx import widened, without_bfloat16
from qcompiler.errors import UsageError
from qcompiler.invariants import float_ops
from qcompiler.report.observe import session

RNG = np.random.default_rng(0)
WIDTHS = {
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float64": TensorProto.DOUBLE,
}


def model(dtype: str) -> onnx.ModelProto:
    """relu(x · w), and the sum of both."""
    element = WIDTHS[dtype]
    weight = numpy_helper.from_array(RNG.standard_normal((6, 6)).astype(dtype), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["v"]),
        helper.make_node("Relu", ["v"], ["y"]),
        helper.make_node("Add", ["x", "y"], ["z"]),
    ]
    ends = [helper.make_tensor_value_info(name, element, [4, 6]) for name in "xyz"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("given", ["float32", "own"])
@pytest.mark.parametrize("dtype", WIDTHS)
def test_every_executor_keeps_the_models_dtype(dtype: str, given: str, tmp_path: Path) -> None:
    source = model(dtype)
    samples = RNG.standard_normal((5, 4, 6)).astype(dtype)
    calibration = [{"x": x.astype("float32") if given == "float32" else x} for x in samples]
    graph = qcompiler.import_onnx(source)
    integer = qcompiler.quantize(graph, calibration)
    assert not list(float_ops(integer))
    compiled = qcompiler.compile(source, "cpu", calibration)
    assert compiled.metadata.float_instructions == 0
    assert {v.type.dtype for v in (*compiled.inputs, *compiled.outputs)} == {dtype}
    assert all(v.quantization is not None for v in (*compiled.inputs, *compiled.outputs))
    run = session(integer, 1)
    for x in samples:
        real = qcompiler.evaluate(graph, {"x": x})
        expected = qcompiler.evaluate(integer, {"x": x})
        found = compiled({"x": x})
        written = dict(zip(expected, run({"x": x}), strict=True))
        for name, y in expected.items():
            assert str(y.dtype) == str(found[name].dtype) == str(written[name].dtype) == dtype
            assert y.tobytes() == found[name].tobytes() == written[name].tobytes()
            wide = real[name].astype("float64")
            np.testing.assert_allclose(y.astype("float64"), wide, atol=0.06)
    with pytest.raises(UsageError, match=f"expected {dtype}"):
        compiled({"x": samples[0].astype("float32")})


def test_a_graph_without_bfloat16_computes_the_same() -> None:
    graph = qcompiler.import_onnx(model("bfloat16"))
    wide = without_bfloat16(graph)
    assert {x.type.dtype for x in (*wide.inputs, *wide.outputs.values())} == {"float32"}
    feed = {"x": RNG.standard_normal((4, 6)).astype("bfloat16")}
    expected, found = qcompiler.evaluate(graph, feed), qcompiler.evaluate(wide, widened(feed))
    for name, y in expected.items():
        np.testing.assert_array_equal(found[name], y.astype("float32"))
    half = qcompiler.import_onnx(model("float16"))
    assert without_bfloat16(half) is half
