"""`qcompile run LIB`."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_models import Builder

from qcompiler.artifact import load


def test_runs_are_cut_and_stacked(qcompile, library, digits):
    result = qcompile("run", library, "--input", digits / "test.npz", "--output", "out.npz")
    assert result.code == 0, result.err
    assert "logits: float32[400x10]\n400 runs in " in result.out
    assert result.files == {"out.npz"}
    stored, data = np.load("out.npz"), np.load(digits / "test.npz")
    assert stored.files == ["logits"]
    compiled = load(library)
    for i in (0, 7, 399):
        expected = compiled({"x": data["x"][i : i + 1]})["logits"]
        assert np.array_equal(stored["logits"][i : i + 1], expected)
    assert np.mean(stored["logits"].argmax(1) == data["y"]) > 0.95


def test_one_more_dimension_for_the_runs(qcompile, library, digits, tmp_path):
    x = np.load(digits / "test.npz")["x"][:3]
    np.savez(tmp_path / "rows.npz", x=x)
    np.savez(tmp_path / "runs.npz", x=x[:, None])
    for name in ("rows", "runs"):
        arguments = ("run", library, "-i", f"{name}.npz", "-o", f"{name}.out.npz", "-q")
        result = qcompile(*arguments, "--threads", 1)
        assert (result.code, result.out, result.err) == (0, "", "")
    rows, runs = (np.load(f"{name}.out.npz")["logits"] for name in ("rows", "runs"))
    assert runs.shape == (3, 1, 10)
    assert np.array_equal(rows, runs[:, 0])


def test_batches(qcompile, tiny, samples, refused, tmp_path):
    x = np.load(samples())["x"]
    arguments = (tiny(shape=(4, 4)), "--calib", samples(), "-o", "batch.so", "-q")
    assert qcompile(*arguments).code == 0
    assert qcompile("run", "batch.so", "-i", "calib.npz", "-o", "out.npz").code == 0
    found = np.load("out.npz")["y"]
    assert found.shape == (8, 3)
    assert np.array_equal(found[4:], load("batch.so")({"x": x[4:]})["y"])
    samples(x=x[:6])
    words = ("calib.npz", "6 samples", "batch of 4", "leave 2 out or add 2")
    refused(6, "run", "batch.so", "-i", "calib.npz", "-o", "more.npz", words=words)


def test_any_number_of_samples(qcompile, tiny, samples, tmp_path):
    """Of an open batch, or of a model for one sample; more and fewer than a program takes."""
    x = np.load(samples())["x"]
    expected = None
    for shape, options in ((("N", 4), ()), ((1, 4), ("--batch", "2,3"))):
        arguments = (tiny(shape=shape), "--calib", samples(), "-o", "any.so", *options)
        assert "any; programs for " in qcompile(*arguments).out
        np.savez(tmp_path / "in.npz", x=np.concatenate([x, x[:5]]))
        assert qcompile("run", "any.so", "-i", "in.npz", "-o", "out.npz").code == 0
        found = np.load("out.npz")["y"]
        assert found.shape == (13, 3)
        one = found if expected is None else expected
        assert np.array_equal(found, one)
        expected = found
    text = qcompile("inspect", "any.so").out
    assert "x: float32[?x4] = " in text
    assert "2, 3: any number of samples is cut into these" in text


def test_a_state_is_remembered(qcompile, refused, tmp_path):
    """y = tanh(x + h/2), which h becomes: of two equal samples the second gives more."""
    b = Builder()
    b.input("x", [1, 3])
    b.input("h", [1, 3])
    half = b.node("Mul", "h", b.constant("half", np.array(0.5, np.float32)))
    y = b.node("Tanh", b.node("Add", "x", half), outputs=("y",))
    onnx.save(b.model(y, b.node("Identity", y, outputs=("after",))), tmp_path / "rnn.onnx")
    np.savez(tmp_path / "steps.npz", x=np.full((20, 3), 0.5, np.float32))
    arguments = ("rnn.onnx", "--calib", "steps.npz", "-o", "rnn.so", "-q")
    assert qcompile(*arguments, "--state", "h=after").code == 0
    assert qcompile("run", "rnn.so", "-i", "steps.npz", "-o", "out.npz").code == 0
    stored = np.load("out.npz")
    assert stored.files == ["y"]
    assert (np.diff(stored["y"][:4], axis=0) > 0).all()
    assert np.abs(stored["y"][-1] - stored["y"][-2]).max() < 1e-3
    assert "h becomes after" in qcompile("inspect", "rnn.so").out
    refused(2, *arguments, "--state", "h", words=("--state 'h': expected INPUT=OUTPUT",))
    refused(2, *arguments, "--state", "h=z", words=("no output 'z'; expected one of y, after",))


def test_an_onnx_model_for_several_samples(qcompile, tiny, samples, refused):
    arguments = (tiny(), "--calib", samples(), "--emit", "onnx", "-o", "four.onnx")
    assert qcompile(*arguments, "--batch", "4").code == 0
    (x,) = onnx.load("four.onnx").graph.input
    assert [d.dim_value for d in x.type.tensor_type.shape.dim] == [4, 4]
    refused(2, *arguments, "--batch", "1,4", words=("--batch: expected one size",))
    refused(2, *arguments, "--batch", "0", words=("--batch '0'", "such as 1,4,16"))
    qdq = (*arguments[:3], "--emit", "qdq", "--batch", "4")
    refused(2, *qdq, words=("--batch: only where a library",))
    two = (tiny(shape=(2, 4)), "--calib", samples(), "--batch", "4")
    refused(5, *two, words=("expected an input for 1 sample, found x float32[2x4]",))


@pytest.mark.parametrize(
    ("arrays", "code", "words"),
    [
        ({"a": np.zeros((1, 1, 8, 8)), "b": np.zeros(1)}, 7, ("'x'", "'a', 'b'")),
        ({"x": np.zeros((2, 1, 8, 9))}, 7, ("'x'", "[2, 1, 8, 9]", "[N, 1, 8, 8]")),
        ({"x": np.zeros((2, 1, 8, 8), np.uint8)}, 7, ("'x'", "uint8", "float32")),
        ({"x": np.zeros((0, 1, 8, 8), np.float32)}, 7, ("no samples at all",)),
    ],
)
def test_arrays_that_do_not_fit(refused, library, tmp_path, arrays, code, words):
    np.savez(tmp_path / "in.npz", **arrays)
    refused(code, "run", library, "-i", "in.npz", "-o", "out.npz", words=("in.npz", *words))


def test_files_that_do_not_fit(refused, library, digits, tmp_path):
    (tmp_path / "text.so").write_text("no library")
    data = digits / "test.npz"
    missing = ("gone.npz", "expected an existing .npz")
    refused(3, "run", library, "-i", "gone.npz", "-o", "out.npz", words=missing)
    refused(3, "run", "gone.so", "-i", data, "-o", "out.npz", words=("gone.so",))
    refused(3, "run", "text.so", "-i", data, "-o", "out.npz", words=("text.so", "not a library"))
    refused(9, "run", library, "-i", data, "-o", "gone/out.npz", words=("gone/out.npz",))
    refused(9, "run", "text.so", "-i", data, "-o", "text.so", words=("is what is read",))
