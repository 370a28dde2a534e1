"""Options that only concern the machine: `--threads` and `--tune`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qcompiler.artifact import load
from qcompiler.backends.cpu.tuning_cache import VARIABLE


def test_threads_go_into_the_library(qcompile, tiny, samples):
    for given, stored in ((("--threads", 1), 1), ((), None)):
        arguments = (tiny(), "--calib", samples(), "-o", "t.so", "-q", *given)
        assert qcompile(*arguments).code == 0
        facts = json.loads(qcompile("inspect", "t.so", "--json").out)
        assert facts["threads"] == stored
    assert qcompile("run", "t.so", "-i", "calib.npz", "-o", "out.npz", "--threads", 1).code == 0


def test_the_peak_memory_is_told(qcompile, tiny, samples):
    result = qcompile(tiny(), "--calib", samples(), "-o", "t.so")
    assert "of values at the peak of a call" in result.out
    facts = json.loads(qcompile("inspect", "t.so", "--json").out)
    assert facts["workspace_bytes"] == load("t.so").metadata.workspace_bytes


def test_tuning_is_quick_the_second_time(qcompile, digits, monkeypatch, tmp_path):
    cache = tmp_path / "tuning.json"
    monkeypatch.setenv(VARIABLE, str(cache))
    model, data = digits / "cnn.onnx", digits / "calib.npz"
    assert qcompile(model, "--calib", data, "-o", "tuned.so", "-q", "--tune", 2).code == 0
    written = cache.read_bytes()
    assert json.loads(written)["entries"]
    stamp = cache.stat().st_mtime_ns
    assert qcompile(model, "--calib", data, "-o", "again.so", "-q", "--tune", 2).code == 0
    assert cache.stat().st_mtime_ns == stamp  # nothing was measured, so nothing was written
    assert qcompile(model, "--calib", data, "-o", "plain.so", "-q").code == 0
    x = np.load(data)["x"][:1]
    found = {load(f"{name}.so")({"x": x})["logits"].tobytes() for name in ("tuned", "plain")}
    assert len(found) == 1


@pytest.mark.parametrize(
    "options", [("--emit", "onnx"), ("--emit", "qdq"), ("--stop-after", "fuse")]
)
def test_tuning_needs_a_library(refused, tiny, options):
    refused(2, tiny(), "--tune", 2, *options, words=("--tune", "only where a library is written"))


def test_a_damaged_cache_is_a_warning(qcompile, digits, monkeypatch, tmp_path):
    cache = tmp_path / "tuning.json"
    cache.write_text("no JSON")
    monkeypatch.setenv(VARIABLE, str(cache))
    arguments = (digits / "cnn.onnx", "--calib", digits / "calib.npz", "-o", "t.so", "-q")
    result = qcompile(*arguments, "--tune", 2)
    assert result.code == 0
    assert "qcompile: warning: " in result.err
    assert "tuning results ignored" in result.err
    assert json.loads(cache.read_text())["entries"]
