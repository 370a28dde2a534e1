"""`qcompile MODEL` and its options."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import qcompiler
import qcompiler.driver
from qcompiler.artifact import load
from qcompiler.passes import DEFAULT, LOWERING


def run_onnx(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_library_and_integer_onnx_return_the_same_bits(qcompile, tiny, samples):
    model, data = tiny(), samples()
    assert qcompile(model, "--calib", data).code == 0
    assert qcompile("compile", model, "--calib", data, "--emit", "onnx").code == 0
    compiled = load("tiny.so")
    batches = np.load(data)["x"][:, None]
    expected = np.stack([run_onnx("tiny.int.onnx", x) for x in batches])
    assert np.any(expected)
    assert np.array_equal(np.stack([compiled({"x": x})["y"] for x in batches]), expected)


def test_figures_at_the_end(qcompile, tiny, samples):
    result = qcompile(tiny(), "--calib", samples(), "-o", "out.so")
    assert result.code == 0
    rows = dict(re.findall(r"^(\S[\w ]*?)  +(\S.*?) *$", result.out, re.M))
    assert rows["operators"].endswith(" integer, 0 float")
    assert rows["MACs"] == "100.0 % integer of 0.00 million"
    assert rows["constants"].startswith("48 B → ")
    assert {"library", "time"} <= set(rows)
    assert rows["output"] == "out.so"
    assert result.files == {"tiny.onnx", "calib.npz", "out.so"}


def test_options_may_come_first(qcompile, tiny, samples):
    result = qcompile("--emit", "onnx", "--calib", samples(), tiny())
    assert result.code == 0
    assert "tiny.int.onnx" in result.files


def test_missing_calibration_data_cannot_be_overlooked(qcompile, tiny, samples):
    warned = qcompile(tiny(), "--emit", "onnx", "-q")
    assert warned.code == 0
    assert warned.err.count("NO CALIBRATION DATA") == 1
    assert "random numbers" in warned.err
    assert "WARNING" not in qcompile(tiny(), "--emit", "onnx", "--calib", samples()).err


def test_seed_of_random_samples(qcompile, tiny, tmp_path):
    def compiled(seed):
        assert qcompile(tiny(), "--emit", "onnx", "--seed", seed).code == 0
        return (tmp_path / "tiny.int.onnx").read_bytes()

    first = compiled(1)
    assert compiled(1) == first
    assert compiled(2) != first


def test_number_of_samples(qcompile, tiny, samples, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 4)).astype(np.float32) * np.arange(1, 9, dtype=np.float32)[:, None]

    def compiled(data, *options):
        result = qcompile(tiny(), "--emit", "onnx", "--calib", data, *options)
        assert result.code == 0
        return (tmp_path / "tiny.int.onnx").read_bytes()

    all_of_them = compiled(samples(x=x))
    assert compiled(samples(x=x), "--num-samples", 3) == compiled(samples(x=x[:3])) != all_of_them


def test_calibration_method_beats_the_configuration(qcompile, tiny, samples, tmp_path):
    x = np.random.default_rng(0).standard_t(2, size=(256, 4)).astype(np.float32)
    (tmp_path / "q.yaml").write_text("method: min-max\nactivations: uint4\n")

    def compiled(*options):
        arguments = (tiny(), "--emit", "onnx", "--calib", samples(x=x), *options)
        assert qcompile(*arguments).code == 0
        return (tmp_path / "tiny.int.onnx").read_bytes()

    default, config = compiled(), compiled("--config", "q.yaml")
    both = compiled("--config", "q.yaml", "--calib-method", "mse")
    assert len({default, config, both}) == 3


def test_images_are_preprocessed(qcompile, tiny, tmp_path):
    (tmp_path / "photos").mkdir()
    for level in (64, 255):
        Image.new("L", (4, 1), level).save(tmp_path / "photos" / f"{level}.png")

    def reshape(model):
        (x,) = model.graph.input
        for size in (1, 1, 1, 4):
            x.type.tensor_type.shape.dim.add(dim_value=size)
        del x.type.tensor_type.shape.dim[:2]

    def compiled(*options):
        arguments = (tiny(reshape), "--emit", "onnx", "--calib", "photos", *options)
        result = qcompile(*arguments)
        assert result.code == 0, result.err
        return (tmp_path / "tiny.int.onnx").read_bytes()

    plain = compiled()
    assert compiled("--mean", "0.0", "--std", "1", "--layout", "NCHW") == plain
    assert compiled("--mean", "0.5") != plain
    assert compiled("--std", "0.5") != plain


def test_what_is_skipped_stays_in_float_and_is_named(qcompile, tiny, samples):
    result = qcompile(tiny(), "--calib", samples(), "--emit", "onnx", "--skip", "prod*")
    assert result.code == 0
    assert "left in float" in result.out
    assert "product" in result.out
    assert "0.0 % integer" in result.out


def test_input_shape(qcompile, tiny, samples):
    arguments = (tiny(shape=("n", 4)), "--calib", samples(), "--emit", "onnx")
    assert qcompile(*arguments, "--input-shape", "x:2x4").code == 0
    assert run_onnx("tiny.int.onnx", np.ones((2, 4), np.float32)).shape == (2, 3)


def test_input_value(qcompile, tiny, samples):
    arguments = (tiny(), "--calib", samples(), "--emit", "onnx")
    assert qcompile(*arguments, "--input-value", "x=0.5,1,-2,0").code == 0
    assert not onnx.load("tiny.int.onnx").graph.input


def test_quantized_stage(qcompile, tiny, samples):
    result = qcompile(tiny(), "--calib", samples(), "--emit", "qdq")
    assert result.code == 0
    nodes = onnx.load("tiny.qdq.onnx").graph.node
    assert {"QuantizeLinear", "DequantizeLinear", "MatMul"} <= {node.op_type for node in nodes}


def test_inlined_composites(qcompile, tiny, samples):
    arguments = (tiny(), "--calib", samples(), "--emit", "onnx")
    assert qcompile(*arguments).code == 0
    functions = onnx.load("tiny.int.onnx").functions
    assert qcompile(*arguments, "--inline").code == 0
    assert functions
    assert not onnx.load("tiny.int.onnx").functions


def test_stop_after_prints_the_graph(qcompile, tiny):
    result = qcompile(tiny(), "--stop-after", "canonicalize")
    assert result.code == 0
    assert result.out.startswith("graph(%x: float32[1x4]) {\n")
    assert "relu(" in result.out
    assert result.err == ""  # nobody looked at samples
    assert result.files == {"tiny.onnx"}


def test_stop_after_lowering_writes_the_graph(qcompile, tiny, samples, tmp_path):
    arguments = (tiny(), "--calib", samples(), "--stop-after", "fuse", "-o", "graph.txt")
    result = qcompile(*arguments)
    assert (result.code, result.out) == (0, "")
    assert "fused(" in (tmp_path / "graph.txt").read_text()
    assert qcompile(*arguments[:-1], "graph.dot").code == 0
    assert (tmp_path / "graph.dot").read_text().startswith("digraph ")


def test_pass_lists(qcompile, tiny):
    arguments = (tiny(), "--stop-after", "fold-batch-norm", "-v")
    passes = "canonicalize, fold-batch-norm{}, equalize-cross-layer{sweeps=2}"
    for options, expected in (
        ((), ["canonicalize", "fold-batch-norm"]),
        (("--disable-pass", "canonicalize"), ["fold-batch-norm"]),
        (("--passes", passes), ["canonicalize", "fold-batch-norm"]),
    ):
        result = qcompile(*arguments, *options)
        assert result.code == 0, result.err
        assert [line.split()[0] for line in result.err.splitlines()] == expected


def test_dumps(qcompile, tiny, samples, tmp_path):
    model, data = tiny(), samples()
    arguments = (model, "--calib", data, "--emit", "onnx", "-q")
    shown = qcompile(*arguments, "--dump-ir-after", "insert-qdq")
    assert shown.err.startswith("// insert-qdq\ngraph(%x: float32[1x4]) {\n")
    assert shown.err.count("graph(%x") == 1
    every = qcompile(*arguments, "--dump-ir-after", "all")
    assert every.err.count("graph(%x") == 1 + len(DEFAULT)
    assert qcompile(*arguments, "--dump-ir-dir", "a/b").err == ""
    names = sorted(p.name for p in (tmp_path / "a" / "b").iterdir())
    titles = ["start", *(p.title() for p in DEFAULT)]
    assert names == [f"{i:02}-{title}.txt" for i, title in enumerate(titles)]


def test_verbose_and_quiet(qcompile, tiny, samples):
    model, data = tiny(), samples()
    loud = qcompile(model, "--calib", data, "-v")
    for step in (*DEFAULT, *LOWERING):
        assert re.search(rf"^{step.title()} +\d+\.\d+ s ", loud.err, re.M)
    assert re.search(r"^qc_0_quantize: .*, entry, \d+ float instructions: ", loud.err, re.M)
    silent = qcompile(model, "--calib", data, "-q")
    assert (silent.code, silent.out, silent.err) == (0, "", "")


def test_dump_folder_that_cannot_be_made(qcompile, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    result = qcompile(tiny(), "--emit", "onnx", "--dump-ir-dir", "file")
    assert result.code == 9
    assert result.err.startswith("qcompile: error: file: cannot be made")
    assert "tiny.int.onnx" not in result.files


@pytest.mark.parametrize("option", ["--list-passes", "--list-targets", "--version", "--help"])
def test_what_needs_no_model(qcompile, option):
    result = qcompile(option)
    assert result.code == 0
    words = {
        "--list-passes": ["canonicalize            preserves reals", "integerize", "fuse"],
        "--list-targets": ["cpu\n", "cpu:generic\n"],
        "--version": ["qcompile 0."],
        "--help": ["qcompile model.onnx --calib samples.npz", "inspect", "--install-completion"],
    }[option]
    for word in words:
        assert word in result.out


def test_threads_of_calibration(qcompile, tiny, samples, monkeypatch):
    found = []

    def calibrate(graph, values, feeds, options):
        found.append(options.threads)
        raise KeyboardInterrupt

    monkeypatch.setattr(qcompiler.evidence, "calibrate", calibrate)
    result = qcompile(tiny(), "--calib", samples(), "--threads", 3)
    assert (result.code, found) == (130, [3])
    assert result.err == "qcompile: error: interrupted by SIGINT\n"


@pytest.mark.parametrize("name", ["reparameterize-scales", "split-channels"])
def test_samples_reach_the_passes_in_front_of_insert_qdq(qcompile, tiny, samples, name):
    result = qcompile(tiny(), "--calib", samples(), "--stop-after", name, "-q")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("graph(")


def test_help_names_every_option_and_method(qcompile):
    from qcompiler.calibrate import METHODS

    result = qcompile("compile", "--help")
    text = " ".join(result.out.replace("│", " ").split())
    for word in (*METHODS, "--stop-after", "--require-integer", "-vv", "512"):
        assert word in text


def test_unknown_option_is_a_usage_error(qcompile, tiny):
    result = qcompile(tiny(), "--optimise")
    assert result.code == 2
    assert "--optimise" in result.err


def test_a_quantized_model_needs_no_data(qcompile, tiny, samples):
    assert qcompile(tiny(), "--calib", samples(), "--emit", "qdq").code == 0
    result = qcompile("tiny.qdq.onnx", "-o", "out.so", "--require-integer", "-q")
    assert (result.code, result.err) == (0, "")
    x = np.load("calib.npz")["x"][:1]
    real = qcompiler.evaluate(qcompiler.import_onnx("tiny.qdq.onnx"), {"x": x})["y"]
    np.testing.assert_allclose(load("out.so")({"x": x})["y"], real, rtol=1e-4, atol=1e-5)
