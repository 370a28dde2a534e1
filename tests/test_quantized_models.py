"""Models that ONNX Runtime quantized, or as others write them: no data, no float."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import Builder
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

import qcompiler
from qcompiler.frontends.onnx_quantize import BlockScalesWarning
from qcompiler.graph import Constant, Graph
from qcompiler.invariants import float_ops
from qcompiler.ops import ConvInteger, MatMulInteger

RNG = np.random.default_rng(0)
SHAPES = {"cnn": (1, 3, 12, 12), "mlp": (4, 16), "attention": (1, 6, 16)}
QDQ, QOPERATOR = QuantFormat.QDQ, QuantFormat.QOperator
U8, I8, U16, I4 = QuantType.QUInt8, QuantType.QInt8, QuantType.QUInt16, QuantType.QInt4


class Samples(CalibrationDataReader):
    """Random inputs."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.left = iter([{"x": random(shape)} for _ in range(8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


def random(shape: tuple[int, ...]) -> np.ndarray:
    return RNG.uniform(-2, 2, shape).astype(np.float32)


class Network(Builder):
    """Layers with random weights."""

    def weight(self, *shape: int) -> str:
        spread = float(np.prod(shape[1:] if len(shape) > 2 else shape[:1])) ** -0.5
        name = f"w{len(self.initializers)}"
        return self.constant(name, RNG.standard_normal(shape, np.float32) * np.float32(spread))

    def conv(self, x: str, *shape: int, **attributes: Any) -> str:
        return self.node("Conv", x, self.weight(*shape), self.weight(shape[0]), **attributes)

    def linear(self, x: str, inner: int, outer: int) -> str:
        return self.node(
            "Add", self.node("MatMul", x, self.weight(inner, outer)), self.weight(outer)
        )


def cnn(b: Network, x: str) -> str:
    y = b.node("Relu", b.conv(x, 8, 3, 3, 3, pads=[1, 1, 1, 1]))
    z = b.node("Add", b.node("Relu", b.conv(y, 8, 1, 3, 3, pads=[1, 1, 1, 1], group=8)), y)
    z = b.conv(z, 8, 8, 1, 1)
    z = b.node("Mul", z, b.node("Sigmoid", z))
    z = b.node("MaxPool", b.node("Concat", y, z, axis=1), kernel_shape=[2, 2], strides=[2, 2])
    z = b.node("LeakyRelu", b.conv(z, 8, 8, 3, 3, group=2, strides=[2, 2]))
    z = b.node("Flatten", b.node("GlobalAveragePool", z))
    return b.node("Softmax", b.node("Gemm", z, b.weight(8, 5), b.weight(5)))


def mlp(b: Network, x: str) -> str:
    h = b.node("Tanh", b.linear(x, 16, 24))
    return b.linear(b.node("Add", b.node("LeakyRelu", b.linear(h, 24, 24)), h), 24, 5)


def attention(b: Network, x: str) -> str:
    def heads(y: str) -> str:
        y = b.node("Reshape", y, b.constant(f"{y}_shape", np.array([1, 6, 2, 8])))
        return b.node("Transpose", y, perm=[0, 2, 1, 3])

    q, k, v = (heads(b.linear(x, 16, 16)) for _ in range(3))
    scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = b.node("Mul", scores, b.constant("scale", np.float32(8**-0.5)))
    y = b.node("MatMul", b.node("Softmax", scores), v)
    y = b.node("Transpose", y, perm=[0, 2, 1, 3])
    y = b.node("Reshape", y, b.constant("shape", np.array([1, 6, 16])))
    return b.node("Add", b.linear(y, 16, 16), x)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("networks")
    files = {}
    for build in (cnn, mlp, attention):
        b, name = Network(opset=21), build.__name__
        y = b.node("Identity", build(b, b.input("x", list(SHAPES[name]))), outputs=("y",))
        model = onnx.shape_inference.infer_shapes(b.model(y))
        onnx.save(model, files.setdefault(name, folder / f"{name}.onnx"))
    logging.disable(logging.WARNING)  # ONNX Runtime's quantizer recommends to preprocess
    yield files
    logging.disable(logging.NOTSET)


def session(model: str | Path | bytes) -> onnxruntime.InferenceSession:
    """ONNX Runtime without the fused products, which saturate on CPUs without VNNI."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def integer(model: Path | onnx.ModelProto, calibration: Any = None) -> Graph:
    """The integer graph of a model; nothing is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = qcompiler.quantize(qcompiler.import_onnx(model), calibration)
    assert [node.label() for node in float_ops(graph)] == []
    return graph


def ratio(found: Graph, expected: onnxruntime.InferenceSession, shape: tuple[int, ...]) -> float:
    """Signal to noise in dB, noise being the difference to what ONNX Runtime computes."""
    signal = noise = 0.0
    for _ in range(6):
        x = random(shape)
        (y,) = expected.run(None, {"x": x})
        (z,) = qcompiler.evaluate(found, {"x": x}).values()
        signal += float(np.square(y).sum())
        noise += float(np.square(y - z).sum())
    return 10 * np.log10(signal / max(noise, 1e-12 * signal))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    ("form", "activations", "weights", "per_channel", "extra"),
    [
        (QDQ, U8, I8, False, {}),
        (QDQ, U8, U8, True, {}),
        (QDQ, I8, I8, True, {"DedicatedQDQPair": True}),
        (QDQ, U8, U8, False, {"AddQDQPairToWeight": True, "QuantizeBias": False}),
        (QDQ, I8, I4, True, {"ActivationSymmetric": True}),
        (QDQ, U16, I8, True, {}),
        (QOPERATOR, U8, U8, False, {}),
        (QOPERATOR, I8, I8, True, {}),
    ],
    ids=[
        "u8i8",
        "u8u8-channels",
        "pairs",
        "asymmetric",
        "int4",
        "uint16",
        "operators-u8",
        "operators",
    ],
)
def test_models_of_onnxruntime(
    networks: dict[str, Path],
    tmp_path: Path,
    name: str,
    form: QuantFormat,
    activations: QuantType,
    weights: QuantType,
    per_channel: bool,
    extra: dict[str, Any],
) -> None:
    path = tmp_path / "quantized.onnx"
    quantize_static(
        networks[name],
        path,
        Samples(SHAPES[name]),
        quant_format=form,
        per_channel=per_channel,
        activation_type=activations,
        weight_type=weights,
        extra_options=extra,
    )
    found = integer(path)
    # One code of an output is 1/256 of its range: what is left are roundings of single values.
    assert ratio(found, session(path), SHAPES[name]) > 34


def test_every_executor_gives_the_same_bits(networks: dict[str, Path], tmp_path: Path) -> None:
    path, shape = tmp_path / "quantized.onnx", SHAPES["attention"]
    quantize_static(networks["attention"], path, Samples(shape), activation_type=U8, weight_type=U8)
    made = qcompiler.compile_model(path, "cpu")
    qcompiler.export_onnx(made.integer, tmp_path / "integer.onnx")
    runtime = session(tmp_path / "integer.onnx")
    feeds = {"x": random(shape)}
    ((key, reference),) = qcompiler.evaluate(made.integer, feeds).items()
    assert (made.model(feeds)[key] == reference).all()
    assert (runtime.run(None, feeds)[0] == reference).all()
    assert made.model.metadata.float_instructions == 0


def test_dynamic_quantization_becomes_static(networks: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "dynamic.onnx"
    quantize_dynamic(networks["mlp"], path, weight_type=I8)
    graph = qcompiler.import_onnx(path)
    found = qcompiler.quantize(graph, {"x": np.concatenate([random((4, 16)) for _ in range(8)])})
    assert list(float_ops(found)) == []
    assert ratio(found, session(networks["mlp"]), (4, 16)) > 20
    ours = {bytes(node.array) for node in weights_of(found)}
    stored = onnx.load(path).graph.initializer
    theirs = [numpy_helper.to_array(x) for x in stored if x.name.endswith("_quantized")]
    assert ours == {bytes(np.ascontiguousarray(w)) for w in theirs}


def weights_of(graph: Graph) -> list[Constant]:
    products = [x for x in graph.ops if isinstance(x, (ConvInteger, MatMulInteger))]
    return [x.weight for x in products if isinstance(x.weight, Constant)]


def pair(b: Builder, x: str, scale: Any, zero: Any, **attributes: int) -> str:
    """QuantizeLinear and DequantizeLinear with parameters of their own."""
    n = len(b.initializers)
    by = b.constant(f"s{n}", np.float32(scale)), b.constant(f"z{n}", np.asarray(zero))
    return b.node(
        "DequantizeLinear", b.node("QuantizeLinear", x, *by, **attributes), *by, **attributes
    )


def test_float_weights_behind_a_pair_as_brevitas_writes_them() -> None:
    b = Builder(opset=21)
    w = b.constant("w", random((16, 5)))
    x = pair(b, b.input("x", [4, 16]), 0.03, np.int8(0))
    w = pair(b, w, np.full(5, 0.02), np.zeros(5, np.int8), axis=1)
    b.node("MatMul", x, pair(b, w, np.full(5, 0.02), np.zeros(5, np.int8), axis=1))
    model = b.model(pair(b, f"v{len(b.nodes) - 1}", 0.1, np.int8(0)))
    found = integer(model)
    assert ratio(found, session(model.SerializeToString()), (4, 16)) > 40
    (weight,) = weights_of(found)
    expected = np.clip(
        np.rint(numpy_helper.to_array(model.graph.initializer[0]) / np.float32(0.02)), -128, 127
    )
    assert (weight.array == expected).all()


def test_codes_of_few_bits_are_clipped_codes_of_eight() -> None:
    b = Builder(opset=21)
    by = b.constant("s", np.float32(0.5)), b.constant("z", np.int8(0))
    ends = b.constant("low", np.int8(-7)), b.constant("high", np.int8(7))
    codes = b.node("Clip", b.node("QuantizeLinear", b.input("x", [4, 16]), *by), *ends)
    x = b.node("DequantizeLinear", codes, *by)
    w = pair(b, b.constant("w", random((16, 5))), 0.02, np.int8(0))
    model = b.model(pair(b, b.node("MatMul", x, w), 0.1, np.int8(0)))
    assert ratio(integer(model), session(model.SerializeToString()), (4, 16)) > 40


def test_a_pair_for_each_user_as_torch_writes_them() -> None:
    b = Builder(opset=21)
    x = b.input("x", [4, 16])
    w = [pair(b, b.constant(f"w{i}", random((16, 16))), 0.02, np.int8(0)) for i in range(2)]
    left, right = (b.node("MatMul", pair(b, x, 0.03, np.uint8(128)), v) for v in w)
    left, right = (pair(b, y, 0.05, np.int8(3)) for y in (left, right))
    model = b.model(pair(b, b.node("Relu", b.node("Add", left, right)), 0.04, np.uint8(0)))
    found = integer(model)
    assert ratio(found, session(model.SerializeToString()), (4, 16)) > 40
    assert sum(isinstance(x, MatMulInteger) for x in found.ops) == 2


def test_codes_on_weights_alone() -> None:
    b = Builder(opset=21)
    q = b.constant("q", RNG.integers(0, 255, (16, 5)).astype(np.uint8))
    by = b.constant("s", np.float32([0.01, 0.02, 0.01, 0.02, 0.03]))
    w = b.node("DequantizeLinear", q, by, b.constant("z", np.uint8([120, 99, 130, 5, 128])), axis=1)
    model = b.model(b.node("MatMul", b.input("x", [4, 16]), w, outputs=("y",)))
    calibration = {"x": np.concatenate([random((4, 16)) for _ in range(200)])}
    found = integer(model, calibration)
    assert ratio(found, session(model.SerializeToString()), (4, 16)) > 28


def test_codes_on_activations_alone() -> None:
    b = Builder(opset=21)
    x = pair(b, b.input("x", [4, 16]), 0.03, np.uint8(128))
    y = b.node("MatMul", x, b.constant("w", random((16, 5))))
    model = b.model(pair(b, y, 0.1, np.int8(0)))
    assert ratio(integer(model), session(model.SerializeToString()), (4, 16)) > 30


def test_values_without_a_range_are_named() -> None:
    b = Builder(opset=21)
    x = pair(b, b.input("x", [4, 16]), 0.03, np.uint8(128))
    y = b.node("MatMul", x, b.constant("w", random((16, 5))), outputs=("product",))
    z = b.node("Sigmoid", y, outputs=("y",))
    graph = qcompiler.import_onnx(b.model(z))
    with pytest.warns(qcompiler.SyntheticCalibrationWarning, match="those of product come from"):
        qcompiler.quantize(graph)


def test_codes_that_come_and_go_as_integers() -> None:
    b = Builder(opset=21)
    by = b.constant("s", np.float32(0.03)), b.constant("z", np.uint8(128))
    x = b.node("DequantizeLinear", b.input("x", [4, 16], TensorProto.UINT8), *by)
    w = pair(b, b.constant("w", random((16, 5))), 0.02, np.int8(0))
    to = b.constant("t", np.float32(0.1)), b.constant("u", np.int8(3))
    y = b.node("QuantizeLinear", b.node("MatMul", x, w), *to, outputs=("y",))
    model = b.model(y, dtype=TensorProto.INT8)
    found = integer(model)
    feeds = {"x": RNG.integers(0, 256, (4, 16), np.uint8)}
    (expected,) = session(model.SerializeToString()).run(None, feeds)
    assert (qcompiler.evaluate(found, feeds)["y"] == expected).all()


def test_products_of_integers_stay_integers() -> None:
    b = Builder(opset=21)
    b.input("x", [4, 16], TensorProto.UINT8)
    b.constant("w", RNG.integers(0, 256, (16, 5)).astype(np.uint8))
    zeros = b.constant("zx", np.uint8(7)), b.constant("zw", np.uint8(100))
    model = b.model(b.node("MatMulInteger", "x", "w", *zeros, outputs=("y",)), dtype=6)
    found = integer(model)
    feeds = {"x": RNG.integers(0, 256, (4, 16), np.uint8)}
    (expected,) = session(model.SerializeToString()).run(None, feeds)
    assert (qcompiler.evaluate(found, feeds)["y"] == expected).all()


def test_weights_in_blocks_are_quantized_anew() -> None:
    b = Builder(opset=21)
    codes = RNG.integers(-8, 8, (16, 5))
    b.initializers.append(helper.make_tensor("q", TensorProto.INT4, (16, 5), codes.reshape(-1)))
    scales = b.constant("s", np.abs(random((4, 5))) * np.float32(0.02))
    w = b.node("DequantizeLinear", "q", scales, axis=0, block_size=4, name="blocks")
    x = pair(b, b.input("x", [4, 16]), 0.03, np.uint8(128))
    model = b.model(pair(b, b.node("MatMul", x, w), 0.01, np.int8(0)))
    with pytest.warns(BlockScalesWarning, match="1 weights have a scale per block.*: blocks$"):
        graph = qcompiler.import_onnx(model)
    found = qcompiler.quantize(graph)
    assert list(float_ops(found)) == []
    assert ratio(found, session(model.SerializeToString()), (4, 16)) > 30
