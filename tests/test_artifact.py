"""The artifact: saving, loading, refusing, and calling it from everywhere."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from qcompiler import host
from qcompiler.artifact import CompiledModel, load, read_metadata, seal
from qcompiler.backends.cpu import machine
from qcompiler.backends.cpu.build import build
from qcompiler.backends.targets import target
from qcompiler.errors import FileError, OutputError, TargetError, UsageError
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.metadata import FORMAT, Metadata
from qcompiler.ops import ConvInteger, Dequantize, Quantize, Requantize, Transpose, Window
from qcompiler.types import Quantization, TensorType

Q = Quantization.per_tensor("uint8", 0.05, 120)
SHAPE = (1, 3, 33, 31)


def network(seed: int = 0, layers: int = 3) -> Graph:
    rng = np.random.default_rng(seed)
    x = Input(TensorType("float32", SHAPE), name="image")
    h: Op = Transpose(Quantize(x, Q), (0, 2, 3, 1))
    for _ in range(layers):
        channels = h.type.shape[3]
        weight = rng.integers(-128, 128, (16, channels, 3, 3), dtype=np.int8)
        bias = rng.integers(-999, 999, 16, dtype=np.int32)
        window = Window((3, 3), pads=(1, 1, 1, 1))
        h = ConvInteger(h, Constant(weight), Constant(bias), window, channels_last=True)
        multiplier = Constant(rng.integers(2**28, 2**29, 16, dtype=np.int32))
        h = Requantize((h,), (multiplier,), Constant(np.array(120 << 40)), 40, Q)
    return Graph((x,), {"logits": Dequantize(h), "codes": h}, "network")


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return network()


@pytest.fixture(scope="module")
def model(graph: Graph) -> CompiledModel:
    return build(graph, target("cpu"), source_sha256=hashlib.sha256(b"source").hexdigest())


@pytest.fixture
def saved(model: CompiledModel, tmp_path: Path) -> Path:
    path = tmp_path / "network.so"
    model.save(path)
    return path


def assert_right(model: CompiledModel, graph: Graph, seed: int = 0) -> None:
    expected = evaluate(graph, {"image": image(seed)})
    found = model({"image": image(seed)})
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert len(np.unique(value)) > 50
        np.testing.assert_array_equal(found[name], value)


def test_saved_model_computes_the_same(model: CompiledModel, graph: Graph, saved: Path) -> None:
    assert_right(model, graph)
    loaded = load(saved)
    assert loaded.metadata == model.metadata == read_metadata(saved)
    assert_right(loaded, graph, seed=1)


def test_metadata(model: CompiledModel) -> None:
    metadata = model.metadata
    (x,), (logits, codes) = model.inputs, model.outputs
    assert (x.name, x.type, x.quantization) == ("image", TensorType("float32", SHAPE), Q)
    assert (logits.name, logits.type.dtype, logits.quantization) == ("logits", "float32", Q)
    assert (codes.name, codes.type.dtype, codes.type.quantization) == ("codes", "uint8", Q)
    assert metadata.model == "network"
    assert metadata.target == "cpu"
    assert metadata.architecture == host.architecture()
    assert metadata.source_sha256 == hashlib.sha256(b"source").hexdigest()
    assert metadata.tvm.startswith("0.27")
    assert metadata.float_instructions == 0
    assert metadata.weight_bytes >= 16 * 3 * 9 + 2 * 16 * 16 * 9
    assert sum(len(k.ops) for k in metadata.kernels) == 9
    assert Metadata.from_json(metadata.to_json()) == metadata


def test_metadata_is_read_without_tvm(saved: Path) -> None:
    code = (
        "import sys; from qcompiler.artifact import read_metadata; "
        f"assert read_metadata({str(saved)!r}).model == 'network'; "
        "assert not any(name.split('.')[0] == 'tvm' for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


def test_loads_in_a_fresh_process_under_any_name(saved: Path, graph: Graph, tmp_path: Path) -> None:
    path = shutil.move(saved, tmp_path / "a model.bin")
    np.save(tmp_path / "x.npy", image())
    code = (
        "import numpy as np; from qcompiler.artifact import load; "
        f"y = load({str(path)!r})(np.load('x.npy')); np.save('y.npy', y['codes'])"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path)
    expected = evaluate(graph, {"image": image()})["codes"]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)


def test_replaced_file_is_loaded_anew(saved: Path, graph: Graph) -> None:
    first = load(saved)
    other = network(seed=5)
    build(other, target("cpu")).save(saved)
    assert_right(load(saved), other)
    assert_right(first, graph)


def test_weights_are_mapped_and_not_copied(tmp_path: Path) -> None:
    """Private dirty memory after loading is far below the size of the weights."""
    rng = np.random.default_rng(0)
    x = Input(TensorType("uint8", (1, 8, 8, 512)), name="x")
    weight = Constant(rng.integers(-128, 128, (1024, 512, 3, 3), dtype=np.int8))
    y = ConvInteger(x, weight, None, Window((3, 3)), channels_last=True)
    path = tmp_path / "wide.so"
    build(Graph((x,), {"y": y}), target("cpu")).save(path)
    code = f"""
import re
from qcompiler.artifact import load, read_metadata
import qcompiler.backends.cpu.run
def private():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
weights = read_metadata({str(path)!r}).weight_bytes
before = private()
model = load({str(path)!r})
assert weights > 4 << 20 and private() - before < weights // 4, (weights, private() - before)
"""
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


def test_feeds_by_name_by_position_and_through_dlpack(model: CompiledModel, graph: Graph) -> None:
    class Foreign:  # what only has DLPack, such as a torch tensor
        def __init__(self, array: np.ndarray) -> None:
            self.__dlpack__ = array.__dlpack__
            self.__dlpack_device__ = array.__dlpack_device__

    expected = evaluate(graph, {"image": image()})["codes"]
    x = image()
    padded = np.zeros((*SHAPE[:-1], SHAPE[-1] * 2), np.float32)
    padded[..., ::2] = x
    frozen = x.copy()
    frozen.setflags(write=False)
    odd = np.zeros(x.nbytes + 4, np.uint8)[4:].view(np.float32).reshape(SHAPE)
    odd[...] = x
    for feed in (x, {"image": x}, Foreign(x), padded[..., ::2], frozen, odd):
        np.testing.assert_array_equal(model(feed)["codes"], expected)


def test_results_are_new_arrays(model: CompiledModel) -> None:
    first = model(image(1))["codes"]
    kept = first.copy()
    model(image(2))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ((), "expected 1 inputs (image), found 0"),
        ((image(), image()), "expected 1 inputs (image), found 2"),
        (({},), "'image' is missing"),
        (({"image": image(), "mask": image()},), "unknown input 'mask'"),
        ((image().astype(np.float64),), "expected float32"),
        ((image()[:, :, :-1],), "expected float32[1x3x33x31], found float32[1x3x32x31]"),
        (([1, 2],), "expected an array, found list"),
    ],
)
def test_wrong_feeds(model: CompiledModel, feeds: tuple[object, ...], words: str) -> None:
    with pytest.raises(UsageError) as error:
        model(*feeds)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_threads_may_call_at_once(saved: Path, graph: Graph) -> None:
    shared = load(saved)
    expected = [evaluate(graph, {"image": image(i)})["codes"] for i in range(4)]
    wrong: list[tuple[int, int]] = []
    together = threading.Barrier(4)

    def work(i: int) -> None:
        together.wait()
        found = (shared(image(i))["codes"] for _ in range(25))
        wrong.extend((i, n) for n, y in enumerate(found) if not np.array_equal(y, expected[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_caller_keeps_its_cores(saved: Path) -> None:
    """Thread pools like to pin the calling thread to one core."""
    before = os.sched_getaffinity(0)
    load(saved)(image())
    assert os.sched_getaffinity(0) == before


def test_thread_count(saved: Path) -> None:
    assert load(saved).runner.threads == host.cores()
    with pytest.raises(UsageError, match="threads: expected at least 1, found 0"):
        load(saved, threads=0)


def test_damage_is_noticed(saved: Path) -> None:
    whole = saved.read_bytes()
    for place in (100, len(whole) // 2, len(whole) - 100):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        saved.write_bytes(damaged)
        with pytest.raises(FileError, match="damaged"):
            load(saved)
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:size])
        with pytest.raises(FileError, match="not a library compiled by qcompiler, or cut off"):
            load(saved)


def test_files_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        load(tmp_path / "absent.so")
    with pytest.raises(FileError, match="cannot be read"):
        load(tmp_path)
    other = tmp_path / "model.onnx"
    other.write_bytes(b"something else" * 100)
    with pytest.raises(FileError, match="not a library compiled by qcompiler"):
        load(other)


def test_another_format_is_refused(saved: Path, model: CompiledModel, tmp_path: Path) -> None:
    class Newer(Metadata):
        def to_json(self) -> str:
            return super().to_json().replace(f'"format": {FORMAT}', '"format": 999')

    path = tmp_path / "newer.so"
    path.write_bytes(b"library")
    fields = {f.name: getattr(model.metadata, f.name) for f in dataclasses.fields(Metadata)}
    seal(path, Newer(**fields))
    with pytest.raises(FileError, match="another version of qcompiler"):
        load(path)


@pytest.mark.parametrize("outputs", ["{}", "[]", "null"])
def test_a_library_without_outputs_is_refused(
    saved: Path, model: CompiledModel, tmp_path: Path, outputs: str
) -> None:
    """Its `qc_run` would write to what nobody gave it."""

    class Silent(Metadata):
        def to_json(self) -> str:
            fields = json.loads(super().to_json())
            (program,) = fields["programs"]
            silent = {**program, "outputs": json.loads(outputs)}
            return json.dumps({**fields, "programs": [silent]})

    path = tmp_path / "silent.so"
    path.write_bytes(saved.read_bytes())
    fields = {f.name: getattr(model.metadata, f.name) for f in dataclasses.fields(Metadata)}
    seal(path, Silent(**fields))
    with pytest.raises(FileError):
        load(path)


def test_a_library_names_its_runner(
    model: CompiledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "theirs.so"
    path.write_bytes(b"library")
    seal(path, dataclasses.replace(model.metadata, target="board", runner="their_package"))
    with pytest.raises(TargetError, match="board, whose runner their_package cannot be imported"):
        load(path)
    theirs = SimpleNamespace(Runner=lambda path, metadata, threads: (path, metadata.target))
    monkeypatch.setitem(sys.modules, "their_package", theirs)
    assert load(path).runner == (path, "board")


def test_unwritable_output(model: CompiledModel, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        model.save(tmp_path / "absent" / "network.so")
    assert list(tmp_path.iterdir()) == []


def test_saving_replaces_whole_files_only(model: CompiledModel, saved: Path) -> None:
    saved.write_bytes(b"old")
    model.save(saved)
    assert saved.stat().st_size == model.path.stat().st_size
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def with_metadata(saved: Path, path: Path, **changes: object) -> Path:
    """A copy of a library that says something else about itself."""
    metadata = read_metadata(saved)
    shutil.copy(saved, path)
    seal(path, dataclasses.replace(metadata, **changes))  # type: ignore[arg-type]
    return path


def test_missing_cpu_features_are_refused(saved: Path, tmp_path: Path) -> None:
    path = with_metadata(saved, tmp_path / "f.so", target="cpu:future", features=("avx", "avx2048"))
    with pytest.raises(TargetError) as error:
        load(path)
    assert "cpu:future, this CPU lacks avx2048" in str(error.value)
    assert "\n" not in str(error.value)


def test_another_architecture_is_refused(saved: Path, tmp_path: Path) -> None:
    path = with_metadata(saved, tmp_path / "a.so", architecture="riscv64")
    with pytest.raises(TargetError, match="compiled for riscv64, this machine is"):
        load(path)


def test_a_broken_library_is_refused(model: CompiledModel, tmp_path: Path) -> None:
    path = tmp_path / "text.so"
    path.write_text("no library, but sealed")
    seal(path, model.metadata)
    with pytest.raises(FileError, match="cannot be loaded"):
        load(path)


def test_a_foreign_cpu_can_be_compiled_for(graph: Graph, tmp_path: Path) -> None:
    foreign = build(graph, target("cpu:sapphirerapids"))
    foreign.save(tmp_path / "spr.so")
    if all(machine.host_features().get(f) for f in foreign.metadata.features):
        pytest.skip("this CPU is not foreign")
    with pytest.raises(TargetError, match="cpu:sapphirerapids, this CPU lacks amx"):
        foreign(image())
    with pytest.raises(TargetError, match="lacks"):
        load(tmp_path / "spr.so")


def test_no_compiler(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(TargetError, match="no C compiler"):
        build(graph, target("cpu"))
