"""`qcompile inspect MODEL|LIB`."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from onnx import helper


def facts(qcompile, *arguments):
    result = qcompile("inspect", *arguments, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_model(qcompile, digits):
    found = facts(qcompile, digits / "cnn.onnx")
    assert found["kind"] == "model"
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": [1, 1, 8, 8]}]
    assert found["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [1, 10]}]
    assert found["operators"]["Conv"] == 5
    assert sum(found["operators"].values()) == 20
    assert found["stays_float"] == []
    assert found["problem"] is None


def test_counts(qcompile, tiny):
    found = facts(qcompile, tiny())
    assert (found["macs"], found["parameters"], found["opset"]) == (12, 12, 20)
    assert found["operators"] == {"MatMul": 1, "Relu": 1}


def test_what_stays_in_float(qcompile, tiny):
    def power(model):
        """No integers raise one value to the power of another."""
        second = helper.make_node("MatMul", ["x", "w"], ["g"], name="exponent")
        model.graph.node.insert(0, second)
        model.graph.node[-1].input.append("g")

    found = facts(qcompile, tiny(power, op="Pow"))
    assert [name for name in found["stays_float"] if "last" in name]


def test_open_dimensions(qcompile, tiny):
    model = tiny(shape=("tokens", 4))
    found = facts(qcompile, model)
    assert found["inputs"][0]["shape"] == ["tokens", 4]
    assert found["macs"] is None
    assert "--input-shape x:1x4" in found["problem"]
    assert facts(qcompile, model, "--input-shape", "x:2x4")["macs"] == 24
    assert facts(qcompile, tiny(shape=("batch", 4)))["macs"] == 12  # of one sample


def test_inputs_that_are_constants(qcompile, tiny):
    assert facts(qcompile, tiny(), "--input-value", "x=0.5")["macs"] == 0


def test_unsupported_operators_are_no_failure(qcompile, tiny):
    found = facts(qcompile, tiny(op="Frobnicate", domain="my.ops"))
    assert found["operators"] == {"MatMul": 1, "my.ops.Frobnicate": 1}
    assert "my.ops.Frobnicate" in found["problem"]


def test_library(qcompile, library, digits):
    found = facts(qcompile, library)
    assert found["kind"] == "library"
    (x,) = found["inputs"]
    assert (x["name"], x["dtype"], x["shape"]) == ("x", "float32", [1, 1, 8, 8])
    assert x["quantization"]["storage"] == "uint8"
    source = (digits / "cnn.onnx").read_bytes()
    assert found["source_sha256"] == hashlib.sha256(source).hexdigest()
    assert found["target"] == "cpu"
    assert found["float_instructions"] == 0
    assert found["file_bytes"] == library.stat().st_size
    assert found["kernels"]
    kernel = {"symbol", "implementation", "ops", "role", "float_instructions", "macs", "nbytes"}
    assert all(set(k) == kernel for k in found["kernels"])


def test_keys_are_stable(qcompile, library, tiny):
    shared = ["kind", "path", "file_bytes", "model"]
    assert list(facts(qcompile, tiny())) == [
        *shared, "opset", "inputs", "outputs", "operators", "parameters", "macs", "stays_float",
        "problem",
    ]  # fmt: skip
    assert list(facts(qcompile, library)) == [
        *shared, "inputs", "outputs", "target", "architecture", "cpu", "features", "device", "gpus",
        "toolkit", "qcompiler",
        "tvm", "source_sha256", "states", "programs", "batch", "lengths", "weight_bytes",
        "workspace_bytes", "threads", "float_instructions", "kernels",
    ]  # fmt: skip


def test_text(qcompile, library, tiny):
    text = qcompile("inspect", library).out
    assert "x: float32[1x1x8x8] = 0.00392157·(uint8 − 0)\n" in text
    assert "float instructions  0\n" in text
    text = qcompile("inspect", tiny()).out
    assert "       1  MatMul\n" in text
    assert "macs                12\n" in text


@pytest.mark.parametrize("cut", [1, 4000])
def test_damaged_library(refused, library, tmp_path, cut):
    (tmp_path / "cut.so").write_bytes(library.read_bytes()[:-cut])
    refused(3, "inspect", "cut.so", words=("cut.so", "compile it again"))


def test_changed_library(refused, library, tmp_path):
    data = np.frombuffer(library.read_bytes(), np.uint8).copy()
    data[2000] ^= 1
    (tmp_path / "changed.so").write_bytes(data.tobytes())
    refused(3, "inspect", "changed.so", words=("changed.so", "damaged"))


def test_files_that_are_neither(refused, tmp_path):
    (tmp_path / "text").write_text("neither")
    refused(3, "inspect", "text", words=("text", "not an ONNX model"))
    refused(3, "inspect", "gone", words=("gone", "no such file"))
