"""The QDQ export: standard operators, runs in ONNX Runtime, at most one step from the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from runtime import run

from qcompiler.backends.onnx import export_qdq, to_qdq_model
from qcompiler.errors import OutputError
from qcompiler.fixed_point import quantize, weight_quantization
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import Conv, Dequantize, Quantize, Relu, Transpose, Window
from qcompiler.types import FLOAT, Quantization, TensorType


def fake(x: Op, storage: str, scale: float, zero: int = 0, name: str | None = None) -> Op:
    """x through codes and back."""
    return Dequantize(Quantize(x, Quantization.per_tensor(storage, scale, zero), name=name))


def convolution(weights: str, activations: str, scale: float, zero: int) -> Graph:
    """A convolution whose input, weight, bias and output are quantized."""
    rng = np.random.default_rng(0)
    x = Input(TensorType(FLOAT, (1, 3, 6, 6)), name="x")
    weight = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    q = weight_quantization(weight, weights, 0)
    codes = Constant(quantize(weight, q), TensorType(q.bounds.dtype, weight.shape, q), name="w")
    bias_q = Quantization.per_channel("int32", 0.05 * np.array(q.scale), 0)
    bias = Constant(np.arange(4, dtype=np.int32), TensorType("int32", (4,), bias_q), name="b")
    window = Window((3, 3), pads=(1, 1, 1, 1))
    y = Conv(fake(x, "uint8", 0.05, 100), Dequantize(codes), Dequantize(bias), window)
    return Graph((x,), {"y": fake(Relu(y), activations, scale, zero, name="codes")})


def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((1, 3, 6, 6)).astype(np.float32)}


def operators(model: ir.Model) -> set[tuple[str, str]]:
    return {(node.domain, node.op_type) for node in model.graph}


@pytest.mark.parametrize("weights", ["int8", "int4", "int6", "int16"])
@pytest.mark.parametrize(
    ("activations", "scale", "zero"),
    [
        ("uint8", 0.05, 3),
        ("int8", 0.1, -5),
        ("int16", 0.001, 0),
        ("uint16", 0.001, 900),
        ("uint4", 0.5, 2),
        ("int6", 0.2, 1),
        ("int12", 0.01, 0),
    ],
)
def test_agrees_to_within_one_step(weights: str, activations: str, scale: float, zero: int) -> None:
    graph = convolution(weights, activations, scale, zero)
    model = to_qdq_model(graph)
    expected, found = evaluate(graph, feeds())["y"], run(model, feeds())["y"]
    assert np.abs(found - expected).max() <= 1.001 * scale
    assert (np.abs(found - expected) > scale / 2).mean() < 0.01  # ties round differently
    assert operators(model) >= {("", "QuantizeLinear"), ("", "DequantizeLinear"), ("", "Conv")}
    assert not model.functions


def test_saturates_at_the_storage_not_at_the_dtype() -> None:
    graph = convolution("int8", "uint4", 0.05, 2)
    found = run(to_qdq_model(graph), feeds())["y"]
    assert found.max() == pytest.approx(0.05 * (15 - 2))


def test_four_bit_weights_are_four_bit_tensors() -> None:
    model = to_qdq_model(convolution("int4", "uint8", 0.05, 3))
    kinds = {name: v.dtype for name, v in model.graph.initializers.items()}
    assert ir.DataType.INT4 in kinds.values()
    assert "w" not in kinds  # the same codes in bytes


def test_weights_are_dequantized_along_their_axis() -> None:
    model = to_qdq_model(convolution("int8", "uint8", 0.05, 3))
    weight = model.graph.initializers["w"]
    ((node, _),) = weight.uses()
    assert node.op_type == "DequantizeLinear"
    assert node.attributes["axis"].as_int() == 0
    scale = node.inputs[1]
    assert scale is not None
    assert scale.shape == [4]


def test_32_bit_codes_stay_float() -> None:
    graph = convolution("int8", "int32", 0.5, 0)
    model = to_qdq_model(graph)
    found, expected = run(model, feeds())["y"], evaluate(graph, feeds())["y"]
    assert 0 < np.abs(found - expected).max() <= 0.5 * 0.5 * 1.001  # not rounded to steps
    assert len([n for n in model.graph if n.op_type == "QuantizeLinear"]) == 1


def test_32_bit_codes_that_are_needed_are_written_out() -> None:
    x = Input(TensorType(FLOAT, (3,)), name="x")
    q = Quantization.per_tensor("int32", 0.5, 1)
    codes = Quantize(x, q)
    graph = Graph((x,), {"codes": codes, "y": Dequantize(codes)})
    array = {"x": np.array([-1e12, 0.25, 1e12], np.float32)}
    found, expected = run(to_qdq_model(graph), array), evaluate(graph, array)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_per_channel_activations_of_unusual_width_and_movement_of_codes() -> None:
    x = Input(TensorType(FLOAT, (2, 3)), name="x")
    codes = Quantize(x, Quantization("uint6", (0.1, 0.2, 0.3), (0, 1, 2), 1))
    graph = Graph((x,), {"y": Dequantize(Transpose(codes, (1, 0)))})
    array = {"x": np.array([[-5, 0.11, 0.4], [99, 99, 99]], np.float32)}
    found, expected = run(to_qdq_model(graph), array)["y"], evaluate(graph, array)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_file_is_written(tmp_path: Path) -> None:
    graph = convolution("int8", "uint8", 0.05, 3)
    export_qdq(graph, tmp_path / "m.onnx")
    assert run(ir.load(tmp_path / "m.onnx"), feeds())["y"].shape == (1, 4, 6, 6)
    with pytest.raises(OutputError, match="cannot be written"):
        export_qdq(graph, tmp_path / "no" / "m.onnx")
