"""Values that a model keeps in codes: what the import makes of them in every placement."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import Builder, assert_agrees, by_onnxruntime, refused

from qcompiler.errors import ModelError, UnsupportedError
from qcompiler.frontends.onnx import import_onnx
from qcompiler.graph import Constant, Graph
from qcompiler.interpret import evaluate
from qcompiler.ops import Codes, FakeQuantize, MatMul
from qcompiler.types import Quantization

RNG = np.random.default_rng(0)
BY = Quantization.per_tensor("uint8", float(np.float32(0.05)), 90)


def parameters(b: Builder, name: str, scale: float, zero_point: np.integer) -> tuple[str, str]:
    b.constant(f"{name}_scale", np.float32(scale))
    return f"{name}_scale", b.constant(f"{name}_zero", np.array(zero_point))


def moved(*steps: str) -> tuple[Builder, str]:
    """x quantized, then moved by operators on codes, not yet dequantized."""
    b = Builder(opset=21)
    by = parameters(b, "x", 0.05, np.uint8(90))
    value = b.node("QuantizeLinear", b.input("x", [1, 4, 6, 6]), *by)
    for step in steps:
        match step:
            case "Reshape":
                value = b.node(step, value, b.constant("shape", np.array([1, 4, 6, 6])))
            case "Transpose":
                value = b.node(step, value, perm=[0, 1, 3, 2])
            case "MaxPool":
                value = b.node(step, value, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            case "Concat":
                value = b.node(step, value, value, axis=1)
            case "Pad":
                pads = b.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
                value = b.node(step, value, pads, b.constant("code", np.uint8(7)))
            case "Clip":
                ends = b.constant("low", np.uint8(85)), b.constant("high", np.uint8(99))
                value = b.node(step, value, *ends)
    return b, value


def imported(b: Builder, value: str) -> Graph:
    model = b.model(b.node("DequantizeLinear", value, "x_scale", "x_zero", outputs=("y",)))
    x = RNG.standard_normal((1, 4, 6, 6), np.float32)
    assert_agrees(model, {"x": x})
    return import_onnx(model)


@pytest.mark.parametrize(
    "steps",
    [
        (),
        ("Reshape",),
        ("Transpose", "Pad", "MaxPool"),
        ("MaxPool", "Concat"),
        ("Concat", "Clip", "Transpose"),
    ],
    ids="-".join,
)
def test_codes_that_are_only_moved_stay_real_values(steps: tuple[str, ...]) -> None:
    graph = imported(*moved(*steps))
    assert all(node.type.is_float for node in graph.ops)
    (y,) = graph.outputs.values()
    assert isinstance(y, FakeQuantize)
    assert y.quantization == BY


def test_other_integer_operators_get_the_codes() -> None:
    b, codes = moved("Transpose")
    model = b.model(b.node("Cast", codes, to=TensorProto.FLOAT, outputs=("y",)))
    assert_agrees(model, {"x": RNG.standard_normal((1, 4, 6, 6), np.float32)})
    assert any(isinstance(node, Codes) for node in import_onnx(model).ops)


def test_codes_can_be_inputs_and_outputs() -> None:
    b = Builder(opset=21)
    by = parameters(b, "x", 0.05, np.uint8(90))
    real = b.node("DequantizeLinear", b.input("x", [2, 9], TensorProto.UINT8), *by)
    codes = b.node("QuantizeLinear", b.node("Relu", real), *by, outputs=("y",))
    model = b.model(codes, dtype=TensorProto.UINT8)
    assert_agrees(model, {"x": RNG.integers(0, 255, (2, 9), np.uint8)})
    assert import_onnx(model).outputs["y"].type.dtype == "uint8"


def test_another_scale_is_another_value() -> None:
    b, codes = moved()
    other = parameters(b, "z", 0.2, np.uint8(3))
    model = b.model(b.node("DequantizeLinear", codes, *other, outputs=("y",)))
    assert_agrees(model, {"x": RNG.standard_normal((1, 4, 6, 6), np.float32)})


def test_one_value_however_often_it_is_dequantized() -> None:
    b, codes = moved()
    a, c = (b.node("DequantizeLinear", codes, "x_scale", "x_zero") for _ in range(2))
    graph = import_onnx(b.model(b.node("Mul", a, c, outputs=("y",))))
    assert len({x for node in graph.ops for x in node.operands if isinstance(x, FakeQuantize)}) == 1


@pytest.mark.parametrize("element", ["INT4", "UINT4", "INT2"])
def test_weights_of_few_bits(element: str) -> None:
    bits, signed = int(element[-1]), element.startswith("I")
    low = -(1 << bits - 1) if signed else 0
    codes = RNG.integers(low, low + (1 << bits), (3, 4))
    b = Builder(opset=25)
    kind = getattr(TensorProto, element)
    b.initializers.append(helper.make_tensor("w", kind, (3, 4), codes.reshape(-1)))
    b.constant("scale", np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    w = b.node("DequantizeLinear", "w", "scale", axis=1)
    graph = import_onnx(b.model(b.node("MatMul", b.input("x", [2, 3]), w, outputs=("y",))))
    (y,) = graph.outputs.values()
    match y:
        case MatMul(_, FakeQuantize(Constant(array=array), quantization)):
            assert quantization.storage == element.lower()
            assert quantization.axis == 1
            np.testing.assert_allclose(array, codes * np.array([0.1, 0.2, 0.3, 0.4]), rtol=1e-6)
        case _:
            pytest.fail(str(graph))


@pytest.mark.parametrize("activations", ["dynamic", "codes"])
def test_products_of_integers_are_products_of_reals(activations: str) -> None:
    b = Builder(opset=21)
    x = b.input("x", [3, 8])
    if activations == "dynamic":
        codes, scale, zero = b.node("DynamicQuantizeLinear", x, outputs=("q", "s", "z")), "s", "z"
    else:
        scale, zero = parameters(b, "x", 0.03, np.uint8(128))
        codes = b.node("QuantizeLinear", x, scale, zero)
    weight = RNG.integers(-60, 60, (8, 4), np.int8)
    b.constant("w", weight)
    total = b.node("MatMulInteger", codes, "w", zero, b.constant("wz", np.int8(5)))
    real = b.node("Cast", b.node("Unsqueeze", total, b.constant("axes", np.array([0]))), to=1)
    factor = b.node("Mul", scale, b.constant("ws", np.float32(0.01)))
    model = b.model(b.node("Mul", real, factor, outputs=("y",)))
    graph = import_onnx(model)
    assert all(node.type.is_float for node in graph.ops)
    feeds = {"x": np.clip(RNG.standard_normal((3, 8), np.float32), -3, 3)}
    (expected,) = by_onnxruntime(model, feeds)
    assert np.abs(evaluate(graph, feeds)["y"] - expected).max() < 0.02 * np.abs(expected).max()


def test_dynamic_codes_are_nobody_elses() -> None:
    b = Builder(opset=21)
    b.node("DynamicQuantizeLinear", b.input("x", [3, 8]), outputs=("q", "s", "z"), name="dyn")
    model = b.model("q", dtype=TensorProto.UINT8)
    refused(UnsupportedError, model, "DynamicQuantizeLinear in front of anything", "dyn")


def test_long_products_do_not_pass_for_exact_integers() -> None:
    b = Builder(opset=21)
    b.input("x", [3, 4000], TensorProto.UINT8)
    b.constant("w", RNG.integers(-9, 9, (4000, 2), np.int8))
    model = b.model(b.node("MatMulInteger", "x", "w", name="long"), dtype=TensorProto.INT32)
    refused(UnsupportedError, model, "stay integers", "long")


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf])
def test_a_scale_that_is_none(scale: float) -> None:
    b = Builder(opset=21)
    b.constant("s", np.float32(scale))
    model = b.model(b.node("QuantizeLinear", b.input("x", [3]), "s"), dtype=TensorProto.UINT8)
    refused(ModelError, model, "positive finite scales")


def test_scales_that_do_not_fit() -> None:
    b = Builder(opset=21)
    b.constant("s", np.ones(4, np.float32))
    model = b.model(b.node("QuantizeLinear", b.input("x", [2, 3]), "s"), dtype=TensorProto.UINT8)
    refused(ModelError, model, "4 scales on axis 1 of float32[2x3]")


def test_codes_of_floats_are_refused_by_name() -> None:
    b = Builder(opset=21)
    b.constant("s", np.float32(1))
    value = b.node("QuantizeLinear", b.input("x", [2]), "s", output_dtype=TensorProto.FLOAT8E4M3FN)
    model = b.model(b.node("DequantizeLinear", value, "s"))
    refused(UnsupportedError, model, "codes of type float8e4m3fn")


def test_dynamic_codes_of_constants_are_constants() -> None:
    b = Builder(opset=21)
    b.input("x", [3, 8], TensorProto.UINT8)
    weight = b.constant("w", RNG.normal(size=(3, 8)).astype(np.float32))
    b.node("DynamicQuantizeLinear", weight, outputs=("q", "s", "z"))
    model = b.model(b.node("Max", "x", "q"), dtype=TensorProto.UINT8)
    feeds = {"x": RNG.integers(0, 255, (3, 8), np.uint8)}
    (expected,) = by_onnxruntime(model, feeds)
    assert (next(iter(evaluate(import_onnx(model), feeds).values())) == expected).all()


def test_biases_are_added_to_accumulators() -> None:
    """As older versions of ONNX Runtime quantize convolutions: biases in steps of both scales."""
    b = Builder(opset=12)
    x = b.input("x", [1, 2, 5, 5])
    codes = b.node("DynamicQuantizeLinear", x, outputs=("q", "s", "z"))
    weight = RNG.integers(0, 255, (3, 2, 3, 3), np.uint8)
    product = b.node(
        "ConvInteger", codes, b.constant("w", weight), "z", b.constant("wz", np.uint8(127))
    )
    scale = b.node("Mul", "s", b.constant("ws", np.float32(0.004)))
    steps = b.node("Div", b.constant("bias", np.array([0.3, -0.2, 0.0017], np.float32)), scale)
    bias = b.node("Cast", b.node("Floor", steps), to=TensorProto.INT32)
    column = b.node("Reshape", bias, b.constant("shape", np.array([1, 3, 1, 1])))
    total = b.node("Cast", b.node("Add", product, column), to=TensorProto.FLOAT)
    model = b.model(b.node("Mul", total, scale, outputs=("y",)))
    graph = import_onnx(model)
    assert all(node.type.is_float for node in graph.ops)
    feeds = {"x": RNG.standard_normal((1, 2, 5, 5), np.float32)}
    (expected,) = by_onnxruntime(model, feeds)
    found = evaluate(graph, feeds)["y"]
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert np.abs((found - expected).mean((0, 2, 3))).max() < 2e-3  # a bias that is lost shows here


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_accumulators_are_numbers_of_the_scale_that_dequantizes_them(scale: float) -> None:
    b, rng = Builder(), np.random.default_rng(0)
    b.input("x", [2, 5], TensorProto.UINT8)
    weight = b.constant("w", rng.integers(-9, 9, (5, 3), np.int8))
    total = b.node("MatMulInteger", "x", weight)
    b.node("DequantizeLinear", total, b.constant("s", np.float32(scale)), outputs=("y",))
    assert_agrees(b.model("y"), {"x": rng.integers(0, 256, (2, 5), np.uint8)})


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_computed_scales_of_any_axis(axis: int) -> None:
    b, rng, shape = Builder(), np.random.default_rng(0), (2, 3, 4)
    b.input("x", list(shape), TensorProto.UINT8)
    b.input("scale", [shape[axis]])
    zero = b.constant("zero", rng.integers(0, 256, shape[axis], np.uint8))
    b.node("DequantizeLinear", "x", "scale", zero, outputs=("y",), axis=axis)
    codes = rng.integers(0, 256, shape, np.uint8)
    feeds = {"x": codes, "scale": rng.uniform(0.1, 0.2, shape[axis]).astype(np.float32)}
    assert_agrees(b.model("y"), feeds)


def test_a_computed_scale_of_an_accumulator() -> None:
    b, rng = Builder(), np.random.default_rng(0)
    b.input("x", [2, 5], TensorProto.UINT8)
    weight = b.constant("w", rng.integers(-9, 9, (5, 3), np.int8))
    b.node(
        "DequantizeLinear", b.node("MatMulInteger", "x", weight), b.input("s", []), outputs=("y",)
    )
    feeds = {"x": rng.integers(0, 256, (2, 5), np.uint8), "s": np.array(0.25, np.float32)}
    assert_agrees(b.model("y"), feeds)


def test_one_scale_is_for_the_whole_tensor_whatever_the_axis() -> None:
    b = Builder()
    b.input("x", [3], TensorProto.UINT8)
    b.node("DequantizeLinear", "x", b.input("scale", [1]), outputs=("y",))  # axis 1 of rank 1
    feeds = {"x": np.array([0, 7, 255], np.uint8), "scale": np.array([0.5], np.float32)}
    found = evaluate(import_onnx(b.model("y")), feeds)["y"]
    assert (found == np.array([0, 3.5, 127.5], np.float32)).all()
