"""`qcompile bench LIB`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qcompiler.artifact import load, read_metadata
from qcompiler.report.latency import KernelTime, Peaks, measure


def test_every_call_is_in_one_row(qcompile, library):
    result = qcompile("bench", library, "--runs", 3, "--json", "--threads", 1)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    metadata = read_metadata(library)
    assert (found["runs"], found["threads"]) == (3, 1)
    assert 0 < found["least_ms"] <= found["median_ms"] <= found["p90_ms"]
    kernels = {k["symbol"]: k for k in found["kernels"]}
    assert list(kernels) == sorted(kernels, key=lambda s: -kernels[s]["ms"])
    assert set(kernels) == {k.symbol for k in metadata.kernels}
    assert sum(k["calls"] for k in kernels.values()) == len(metadata.programs[0].calls)
    assert sum(k["share"] for k in kernels.values()) == pytest.approx(1)
    peaks = found["peaks"]
    for k in kernels.values():
        arithmetic = k["macs"] / peaks["macs_per_second"]
        memory = k["nbytes"] / peaks["bytes_per_second"]
        assert k["least_ms"] == pytest.approx(1e3 * max(arithmetic, memory))
        assert k["of_limit"] == pytest.approx(k["least_ms"] / k["ms"])


def test_work_is_counted(qcompile, tiny, samples):
    assert qcompile(tiny(), "--calib", samples(), "-o", "tiny.so", "-q").code == 0
    kernels = json.loads(qcompile("bench", "tiny.so", "--json", "--no-limits").out)["kernels"]
    assert sum(k["macs"] for k in kernels) == 4 * 3
    (product,) = (k for k in kernels if k["macs"])
    assert product["nbytes"] >= 4 + 4 * 3 + 3  # input, weights, outputs
    assert {k["least_ms"] for k in kernels} == {None}


def test_a_table_for_people(qcompile, library):
    result = qcompile("bench", library, "--runs", 2)
    assert result.code == 0, result.err
    first, peaks, header, *rows = result.out.splitlines()
    assert first.startswith(f"{library}: median ")
    assert "(2 runs, " in first
    assert "GMAC/s int8" in peaks
    assert "of limit" in header
    assert len(rows) >= len(read_metadata(library).kernels)


def test_without_a_compiler_there_are_no_limits(qcompile, library, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    result = qcompile("bench", library, "--runs", 1)
    assert result.code == 0
    assert "no limits: no C compiler" in result.err
    assert "of limit" not in result.out


def test_a_call_takes_the_sum_of_its_kernels(library, monkeypatch):
    """Each call is given its index in nanoseconds, so that every sum is known."""
    model = load(library)
    calls = model.metadata.programs[0].calls
    times = np.arange(1, len(calls) + 1)
    monkeypatch.setattr(model.runner, "kernel_times", lambda program, feeds: times)
    found = {k.symbol: k for k in measure(model, 2, Peaks(1e9, 1e9)).kernels}
    for i, kernel in enumerate(model.metadata.kernels):
        own = sum(n for n, call in zip(times, calls, strict=True) if call == i)
        assert found[kernel.symbol].ms == pytest.approx(own / 1e6)
        assert found[kernel.symbol].share == pytest.approx(own / times.sum())


def test_the_limit_is_the_greater_of_two():
    peaks = Peaks(macs_per_second=1e9, bytes_per_second=1e8)
    assert peaks.least_ms(10**6, 10**4) == pytest.approx(1)
    assert peaks.least_ms(10**5, 10**5) == pytest.approx(1)
    kernel = KernelTime("k", "generic", ("y",), 1, 4.0, 1.0, 10**6, 0, 1.0)
    assert kernel.of_limit == 0.25


def test_what_is_no_library(refused, tmp_path):
    (tmp_path / "text.so").write_text("no library")
    refused(3, "bench", "text.so", words=("text.so", "not a library"))
    refused(3, "bench", "gone.so", words=("gone.so",))
