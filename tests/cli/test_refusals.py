"""Every bad input gives one line that names the offender and the remedy, and its own exit code."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

import qcompiler.driver
from qcompiler.errors import QcompilerError


def test_missing_file(refused):
    refused(3, "gone.onnx", words=("gone.onnx", "no such file"))


def test_text_file(refused, tmp_path):
    Path(tmp_path, "notes.onnx").write_text("These are notes.\n")
    refused(3, "notes.onnx", words=("notes.onnx", "not an ONNX model"))


def test_truncated_model(refused, tiny):
    path = tiny()
    path.write_bytes(path.read_bytes()[:-40])
    refused(4, path, words=("tiny.onnx", "truncated", "again"))


@pytest.mark.parametrize(
    ("op", "domain", "name"), [("Frobnicate", "", "Frobnicate"), ("Relu", "my.ops", "my.ops.Relu")]
)
def test_unknown_operator(refused, tiny, op, domain, name):
    refused(5, tiny(op=op, domain=domain), words=("tiny.onnx", name, "last", "not supported"))


@pytest.mark.parametrize(
    ("location", "code", "words"),
    [
        ("w.bin", 3, ("'w'", "w.bin", "is missing", "beside the model")),
        ("../w.bin", 4, ("'w'", "w.bin", "outside the model's folder", "move it")),
    ],
)
def test_external_data(refused, tiny, location, code, words):
    def externalize(model):
        (tensor,) = model.graph.initializer
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    refused(code, tiny(externalize), words=("tiny.onnx", *words))


def test_dynamic_dimension(refused, tiny):
    words = ("tiny.onnx", "'x'", "length", "--input-shape x:1x4")
    refused(6, tiny(shape=("length", 4)), words=words)


@pytest.mark.parametrize(
    ("code", "value", "found"), [(4, np.nan, "1 NaN"), (5, -np.inf, "1 infinite")]
)
def test_weights_that_are_no_numbers(refused, tiny, code, value, found):
    weight = np.ones((4, 3), np.float32)
    weight[2, 1] = value
    refused(code, tiny(weight=weight), words=("tiny.onnx", "'w'", found, "finite"))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros((8, 4)), "b": np.zeros(8)}, ("'x'", "'a', 'b'", "name the arrays")),
        ({"x": np.zeros((8, 5), np.float32)}, ("'x'", "[8, 5]", "[N, 4]", "resize")),
        ({"x": np.zeros((8, 4), np.uint8)}, ("'x'", "uint8", "float32", "preprocessed")),
        ({"x": np.zeros((8, 4), np.complex64)}, ("'x'", "complex64", "float32", "convert")),
        ({"x": np.full((8, 4), np.nan)}, ("'x'", "NaN", "remove")),
        ({"x": np.zeros((0, 4), np.float32)}, ("no samples at all", "at least 1")),
    ],
)
def test_calibration_data_that_does_not_fit(refused, tiny, samples, arrays, words):
    refused(7, tiny(), "--calib", samples(**arrays), words=("calib.npz", *words))


def test_calibration_archive_without_arrays(refused, tiny, tmp_path):
    np.savez(tmp_path / "empty.npz")
    refused(7, tiny(), "--calib", "empty.npz", words=("empty.npz", "'x'", "name the arrays"))


def test_calibration_file_that_is_missing(refused, tiny):
    refused(3, tiny(), "--calib", "gone.npz", words=("gone.npz", "existing"))


def test_unknown_target(refused, tiny):
    words = ("'cpu:386'", "cpu:generic", "cpu:aarch64")
    refused(8, tiny(), "--target", "cpu:386", words=words)


def test_output_folder_that_is_missing(refused, tiny, samples):
    words = ("gone/m.so", "No such file or directory", "folder that exists")
    refused(9, tiny(), "--calib", samples(), "-o", "gone/m.so", words=words)


def test_output_that_is_a_folder(refused, tiny, samples, tmp_path):
    Path(tmp_path, "folder").mkdir()
    words = ("folder", "not a regular file", "name a file")
    refused(9, tiny(), "--calib", samples(), "-o", "folder", words=words)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write there")
def test_output_folder_that_is_read_only(refused, tiny, samples, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    words = ("folder/m.so", "Permission denied", "writable")
    refused(9, tiny(), "--calib", samples(), "-o", "folder/m.so", words=words)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_output_folder_that_nobody_can_write(refused, tiny, samples):
    refused(9, tiny(), "--calib", samples(), "-o", "/proc/m.so", words=("/proc/m.so", "writable"))


def test_output_that_is_the_model(refused, tiny):
    path = tiny()
    before = path.read_bytes()
    words = ("is what is read", "-o")
    refused(9, path, "-o", path, "--emit", "onnx", words=words)
    assert path.read_bytes() == before


def test_unwritable_output_is_found_before_the_work(refused, tiny, monkeypatch):
    def work(*_arguments, **_options):
        raise AssertionError("worked before looking at the output")

    monkeypatch.setattr(qcompiler.driver, "compile_model", work)
    refused(9, tiny(), "-o", "gone/m.so", words=("gone/m.so",))


def test_operator_that_must_stay_in_float(refused, tiny, samples):
    arguments = (tiny(), "--calib", samples(), "--skip", "product", "--require-integer", "-q")
    refused(10, *arguments, words=("--require-integer", "product"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--input-shape", "x=1x4"), ("'x=1x4'", "name:1x3x32x32")),
        (("--input-shape", "z:1x4"), ("z", "no such input", "x")),
        (("--input-value", "x:1"), ("'x:1'", "name=1 or name=1,2.5")),
        (("--input-value", "x=1,much"), ("'x=1,much'", "name=1 or name=1,2.5")),
        (("--input-value", "z=1"), ("z", "no such input", "x")),
        (("--softmax", "fast"), ("softmax", "'fast'", "table, shift, log2")),
        (("--gelu", "fast"), ("gelu", "'fast'", "table, shift")),
        (("--preset", "best"), ("preset", "'best'", "default, i-vit")),
        (("--calib-method", "best"), ("'best'", "min-max, moving-average, percentile, mse")),
        (("--passes", "fold-batchnorm"), ("'fold-batchnorm'", "fold-batch-norm")),
        (("--passes", "equalize-cross-layer{sweeps=few}"), ("sweeps='few'", "expected int")),
        (("--disable-pass", "inline"), ("--disable-pass inline", "canonicalize")),
        (("--stop-after", "inline"), ("--stop-after inline", "canonicalize")),
        (("--dump-ir-after", "inline"), ("--dump-ir-after inline", "canonicalize")),
        (("--inline",), ("--inline", "--emit onnx")),
        (("--emit", "qdq", "--require-integer"), ("--require-integer", "qdq")),
        (("--emit", "onnx", "--stop-after", "fuse"), ("--stop-after", "--emit")),
        (("-o", "m.onnx"), ("m.onnx", "a library is written", "--emit")),
        (("--mean", "0.5"), ("--mean", "folder of images")),
    ],
)
def test_options_that_do_not_fit(refused, tiny, arguments, words):
    refused(2, tiny(), *arguments, words=words)


def test_configuration_that_does_not_exist(refused, tiny):
    refused(3, tiny(), "--config", "gone.yaml", words=("gone.yaml", "No such file"))
    Path("deep.yaml").write_text(f"method: {'[' * 5000}")
    refused(3, tiny(), "--config", "deep.yaml", words=("deep.yaml", "nested too deeply"))


def test_every_kind_of_error_has_an_exit_code_of_its_own():
    kinds = [QcompilerError, *QcompilerError.__subclasses__()]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)


def test_exit_codes_are_documented():
    text = Path(qcompiler.__file__, "../cli/README.md").resolve().read_text("utf-8")
    for kind in [QcompilerError, *QcompilerError.__subclasses__()]:
        assert f"| {kind.exit_code} | " in text
