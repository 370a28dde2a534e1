"""The committed digits models and data: what models/README.md says of them must be true."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
import pytest

from qcompiler.backends.onnx.writer import to_model
from qcompiler.driver import Options, compile_model
from qcompiler.interpret import evaluate

MODELS = Path(__file__).resolve().parents[2] / "models"
DIGITS = MODELS / "digits"
NAMES = ["cnn", "vit", "lstm", "gru"]


def stated_accuracy(name: str) -> float:
    """Return the percentage that models/README.md states for a file."""
    row = re.search(rf"^\| `{name}\.onnx` .*?([\d.]+) %", (MODELS / "README.md").read_text(), re.M)
    assert row, f"models/README.md states no accuracy for {name}.onnx"
    return float(row[1])


def test_data_have_the_documented_shapes() -> None:
    calibration, test = np.load(DIGITS / "calib.npz"), np.load(DIGITS / "test.npz")
    assert calibration.files == ["x"]
    assert test.files == ["x", "y"]
    assert calibration["x"].shape == (200, 1, 8, 8)
    assert test["x"].shape == (400, 1, 8, 8)
    assert calibration["x"].dtype == test["x"].dtype == np.float32
    assert test["y"].shape == (400,)
    assert test["y"].dtype == np.int64
    for images in (calibration["x"], test["x"]):
        np.testing.assert_array_equal(np.unique(images * 16), np.arange(17))
    assert min(Counter(test["y"].tolist()).values()) >= 30  # every class can be judged


def test_calibration_and_test_images_are_disjoint() -> None:
    calibration = {image.tobytes() for image in np.load(DIGITS / "calib.npz")["x"]}
    test = {image.tobytes() for image in np.load(DIGITS / "test.npz")["x"]}
    assert len(calibration) == 200
    assert len(test) == 400
    assert not calibration & test


@pytest.mark.parametrize("name", NAMES)
def test_onnx_has_a_static_signature_and_no_trace_of_the_exporting_machine(name: str) -> None:
    model = onnx.load(DIGITS / f"{name}.onnx")
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert shapes == {"x": [1, 1, 8, 8], "logits": [1, 10]}
    assert [(o.domain, o.version >= 18) for o in model.opset_import] == [("", True)]
    assert all(node.name for node in model.graph.node)
    assert not any(node.metadata_props for node in model.graph.node)


def test_cnn_keeps_batch_normalization_and_its_variety() -> None:
    operators = Counter(node.op_type for node in onnx.load(DIGITS / "cnn.onnx").graph.node)
    assert operators["BatchNormalization"] == operators["Conv"] == 5
    assert {"Add", "Relu", "HardSwish", "MaxPool", "ReduceMean", "Gemm"} <= set(operators)


def test_vit_has_the_operators_of_a_transformer() -> None:
    operators = Counter(node.op_type for node in onnx.load(DIGITS / "vit.onnx").graph.node)
    assert operators["Softmax"] == operators["Gelu"] == 4
    assert operators["LayerNormalization"] == 9


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrences_are_nodes(name: str) -> None:
    operators = Counter(node.op_type for node in onnx.load(DIGITS / f"{name}.onnx").graph.node)
    assert operators[name.upper()] == 1


@pytest.mark.parametrize("name", NAMES)
def test_float_accuracy_is_the_stated_one(name: str) -> None:
    data = np.load(DIGITS / "test.npz")
    session = ort.InferenceSession(DIGITS / f"{name}.onnx", providers=["CPUExecutionProvider"])
    predicted = [session.run(None, {"x": x[None]})[0].argmax() for x in data["x"]]
    # One image of 400 may sit on a decision boundary that another CPU's rounding moves.
    assert 100 * np.mean(predicted == data["y"]) >= stated_accuracy(name) - 0.25


@pytest.mark.parametrize(
    ("file", "limit"),
    [
        ("cnn.onnx", 64),
        ("vit.onnx", 512),
        ("lstm.onnx", 64),
        ("gru.onnx", 64),
        ("calib.npz", 16),
        ("test.npz", 32),
    ],
)
def test_files_stay_small(file: str, limit: int) -> None:
    assert (DIGITS / file).stat().st_size <= limit * 1024


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_models_as_integers_lose_at_most_half_a_point(name: str) -> None:
    data = np.load(DIGITS / "test.npz")
    calibration = {"x": np.load(DIGITS / "calib.npz")["x"]}
    options = Options(require_integer=True)
    done = compile_model(DIGITS / f"{name}.onnx", "cpu", calibration, options=options)
    logits = np.stack([done.model(x[None])["logits"][0] for x in data["x"]])
    accuracy = 100 * np.mean(logits.argmax(1) == data["y"])
    assert accuracy >= stated_accuracy(name) - 0.5
    proto = onnx_ir.to_proto(to_model(done.integer))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for x, found in zip(data["x"][:20], logits, strict=False):
        feeds = {"x": x[None]}
        np.testing.assert_array_equal(evaluate(done.integer, feeds)["logits"][0], found)
        np.testing.assert_array_equal(session.run(None, feeds)[0][0], found)
