"""Tuning: the quickest of some tiles, found once."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import qcompiler
from qcompiler.backends.cpu import machine
from qcompiler.backends.cpu.build import build
from qcompiler.backends.cpu.kernels import cuts
from qcompiler.backends.cpu.kernels.product_rule import Products
from qcompiler.backends.cpu.schedule import schedule
from qcompiler.backends.cpu.tuning import Tuner
from qcompiler.backends.cpu.tuning_cache import (
    VARIABLE,
    TuningCache,
    TuningCacheWarning,
    default_path,
)
from qcompiler.backends.targets import target
from qcompiler.backends.tvm.lower import lower
from qcompiler.errors import TargetError
from qcompiler.graph import Constant, Graph, Input
from qcompiler.interpret import evaluate
from qcompiler.ops import ConvInteger, MatMulInteger, Reshape, Window
from qcompiler.types import TensorType

CNN = Path(__file__).parents[2] / "models" / "digits" / "cnn.onnx"


def network() -> Graph:
    rng = np.random.default_rng(0)
    x = Input(TensorType("uint8", (1, 13, 11, 20)), name="x")
    weight = Constant(rng.integers(-128, 128, (70, 20, 3, 3), dtype=np.int8))
    y = ConvInteger(x, weight, None, Window((3, 3)), channels_last=True)
    flat = Input(TensorType("uint8", (37, 50)), name="flat")
    again = Constant(rng.integers(-128, 128, (50, 90), dtype=np.int8))
    product = MatMulInteger(flat, again)
    return Graph((x, flat), {"y": Reshape(y, (99, 70)), "product": product}, "network")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache" / "tuning.json"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, int]]:
    """Problem and number of choices of each measurement; the last choice is always quickest."""
    found: list[tuple[object, int]] = []

    def measure(self, problem, isa, epilogue, choices):
        found.append((problem, len(choices)))
        return [float(100 - i) for i in range(len(choices))]

    monkeypatch.setattr(Tuner, "measure", measure)
    return found


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {x.name: rng.integers(0, 256, x.type.shape, dtype=np.uint8) for x in network().inputs}


def test_every_choice_gives_the_same_bits(cache: Path, measured: list) -> None:
    """The last of the first n choices for n up to all of them."""
    graph = network()
    expected = evaluate(graph, feeds())
    sizes = set()
    for most in range(2, 8):
        model = build(graph, target("cpu"), tune=most, threads=1)
        sizes.add(model.path.read_bytes())
        for name, y in model(feeds()).items():
            np.testing.assert_array_equal(y, expected[name])
    assert len(sizes) > 2, "the choices are compiled"


def test_what_was_measured_is_not_measured_again(cache: Path, measured: list) -> None:
    build(network(), target("cpu"), tune=3, threads=1)
    assert len(measured) == 2
    assert all(2 <= count <= 3 for _, count in measured)
    first = json.loads(cache.read_text())["entries"]
    build(network(), target("cpu"), tune=3, threads=1)
    assert len(measured) == 2
    build(network(), target("cpu"), tune=2, threads=1)
    assert len(measured) == 2
    build(network(), target("cpu"), tune=3, threads=2)
    assert len(measured) == 4
    entries = json.loads(cache.read_text())["entries"]
    assert set(first) < set(entries)
    assert len(entries) == 4
    assert all(machine.cpu_name() in key for key in entries)
    assert [p.name for p in cache.parent.iterdir()] == [cache.name]


def test_the_quickest_is_taken(cache: Path) -> None:
    """With real measurements, of which nothing is expected but that they are positive."""
    build(network(), target("cpu"), tune=4, threads=1)
    entries = json.loads(cache.read_text())["entries"]
    assert len(entries) == 2
    assert all(len(entry) >= 2 and min(entry.values()) > 0 for entry in entries.values())


def test_a_tuner_takes_the_least_of_the_cached(cache: Path, measured: list) -> None:
    seen: list[tuple[object, object, object]] = []
    chosen = machine.tvm_target(target("cpu"))
    tuner = Tuner(chosen, 3, 1, TuningCache(cache))

    def spy(problem, isa, epilogue):
        seen.append((problem, isa, tuner(problem, isa, epilogue)))
        return seen[-1][2]

    lower(network(), chosen, (Products(choose=spy),), schedule)
    assert len(seen) == 2
    for problem, isa, cut in seen:
        assert cut == cuts(problem, isa)[:3][-1]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 99, "entries": {}}', '{"format": 1, "entries": {"a": 1}}']
)
def test_a_damaged_file_is_ignored(cache: Path, measured: list, text: str) -> None:
    cache.parent.mkdir()
    cache.write_text(text)
    with pytest.warns(TuningCacheWarning, match=r"tuning\.json: tuning results ignored"):
        build(network(), target("cpu"), tune=2, threads=1)
    assert len(measured) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", TuningCacheWarning)
        build(network(), target("cpu"), tune=2, threads=1)
    assert len(measured) == 2


def test_a_file_that_cannot_be_written(cache: Path, measured: list) -> None:
    cache.parent.write_text("no folder")
    with pytest.warns(TuningCacheWarning):
        build(network(), target("cpu"), tune=2, threads=1)


def test_results_of_other_processes_are_kept(cache: Path) -> None:
    one, other = TuningCache(cache), TuningCache(cache)
    one.put("a", {"1x1x1": 1.0})
    other.put("b", {"1x1x1": 2.0})
    assert TuningCache(cache).get("a") == {"1x1x1": 1.0}
    assert TuningCache(cache).get("b") == {"1x1x1": 2.0}
    assert TuningCache(cache).get("c") is None


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, "/some/file.json")
    assert default_path() == Path("/some/file.json")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "qcompiler" / "tuning.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_path() == Path.home() / ".cache" / "qcompiler" / "tuning.json"


def explode():
    raise AssertionError("calibration began")
    yield


@pytest.mark.parametrize("name", ["cpu:aarch64", "cpu:neoverse-n1"])
def test_foreign_machines_are_refused_before_calibration(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "true")  # there is a linker, whichever
    with pytest.raises(TargetError, match="--tune: measures on this machine, which"):
        qcompiler.compile(CNN, name, explode, options=qcompiler.Options(tune=2))


def test_a_missing_linker_is_refused_before_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(TargetError, match="no C compiler"):
        qcompiler.compile(CNN, "cpu", explode)


def test_an_option_of_the_library(cache: Path, measured: list) -> None:
    data = CNN.with_name("calib.npz")
    tuned = qcompiler.compile(CNN, calibration=data, options=qcompiler.Options(tune=3))
    assert measured
    x = np.load(data)["x"][:1]
    plain = qcompiler.compile(CNN, calibration=data)
    assert tuned({"x": x})["logits"].tobytes() == plain({"x": x})["logits"].tobytes()
