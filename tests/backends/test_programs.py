"""Several programs in one library: any number of samples, on CPUs and on a GPU that is not one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

from fake_gpu import FakeGpu
from gpu_network import GpuTensor, to_host
from recurrent import UNITS, recurrent, sequence

import qcompiler
from qcompiler.artifact import CompiledModel, load, seal
from qcompiler.backends.cpu.build import build
from qcompiler.backends.targets import target
from qcompiler.driver import Options
from qcompiler.errors import FileError, UsageError
from qcompiler.graph import Constant, Graph, Input
from qcompiler.interpret import evaluate
from qcompiler.metadata import Batch, Part
from qcompiler.ops import Add, Cast, Dequantize, Quantize, ReduceSum, Reshape, Table
from qcompiler.programs import Programs, batched
from qcompiler.types import Quantization, TensorType

SIZES = [(1, 4), (3,), (2, 5)]
Q = Quantization.per_tensor("uint8", 0.1, 3)


def network() -> Graph:
    """Two inputs of samples, one of all; outputs of 20 bytes a sample, of rows, of no sample."""
    x = Input(TensorType("float32", (1, 3, 5)), name="x")
    y = Input(TensorType("int32", (1, 5)), name="y")
    all_of_them = Input(TensorType("int32", (5,)), name="offset")
    codes = Table(Quantize(x, Q), Constant(np.arange(256)[::-1].astype(np.uint8)), Q)
    total = Reshape(ReduceSum(codes, (1,)), (1, 5))
    rows = Reshape(Dequantize(codes), (3, 5))
    outputs = {
        "total": Add(Add(total, y), all_of_them),
        "rows": rows,
        "shared": Cast(all_of_them, "int64"),
    }
    return Graph((x, y, all_of_them), outputs, "network", {"x": 0, "y": 0})


def feeds(samples: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.uniform(-5, 30, (samples, 3, 5)).astype(np.float32),
        "y": rng.integers(-1000, 1000, (samples, 5), np.int32),
        "offset": np.arange(5, dtype=np.int32),
    }


def expected(samples: int) -> dict[str, np.ndarray]:
    """What each sample gives alone, behind one another."""
    own = feeds(samples)
    alone = [
        evaluate(network(), {"x": x[None], "y": y[None], "offset": own["offset"]})
        for x, y in zip(own["x"], own["y"], strict=True)
    ]
    shared = own["offset"].astype(np.int64)
    return {
        "total": np.concatenate([np.zeros((0, 5), np.int32), *(a["total"] for a in alone)]),
        "rows": np.concatenate([np.zeros((0, 5), np.float32), *(a["rows"] for a in alone)]),
        "shared": shared if samples else np.empty(5, np.int64),
    }


def assert_expected(found: dict[str, np.ndarray], samples: int) -> None:
    for name, y in expected(samples).items():
        assert (found[name].dtype, found[name].shape) == (y.dtype, y.shape)
        if samples or name != "shared":
            np.testing.assert_array_equal(found[name], y)


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return build(batched(network(), (1, 4)), target("cpu"), threads=1)


def test_greedy_parts() -> None:
    batch = Batch((2, 5), (0,), (0,))
    assert batch.parts(0) == ()
    assert batch.parts(13) == (Part(1, 0, 5), Part(1, 5, 5), Part(0, 10, 2), Part(0, 12, 1))


@pytest.mark.parametrize("sizes", SIZES)
def test_any_number_of_samples(sizes: tuple[int, ...]) -> None:
    found = build(batched(network(), sizes), target("cpu"), threads=1)
    assert found.metadata.batch == Batch(sizes, (0, 0, None), (0, 0, None))
    assert [p.name for p in found.metadata.programs] == [f"batch-{size}" for size in sizes]
    for samples in range(10):
        assert_expected(found(feeds(samples)), samples)


def test_inputs_that_do_not_lie_as_programs_want_them(model: CompiledModel) -> None:
    own = feeds(6)
    turned = {**own, "x": np.asfortranarray(own["x"])}
    assert_expected(model(turned), 6)


def test_programs_share_constants_and_kernels(model: CompiledModel) -> None:
    alone = build(network(), target("cpu"), threads=1).metadata
    assert model.metadata.weight_bytes == alone.weight_bytes
    assert len(model.metadata.kernels) < 2 * len(alone.kernels)  # what no sample is in, once


def test_feeds_that_disagree(model: CompiledModel) -> None:
    wrong = {**feeds(3), "y": feeds(2)["y"]}
    with pytest.raises(UsageError, match=r"'y': expected int32\[3x5\], found int32\[2x5\]"):
        model(wrong)
    with pytest.raises(UsageError, match=r"'x': expected float32\[1x3x5\]@?.*, found float32\[\]"):
        model({**feeds(1), "x": np.zeros((), np.float32)})
    with pytest.raises(UsageError, match="input 'x' is missing"):
        model({"y": feeds(1)["y"], "offset": feeds(1)["offset"]})


@pytest.mark.parametrize(
    "batch",
    [
        Batch((4, 1), (0, 0, None), (0, 0, None)),
        Batch((1,), (0, 0, None), (0, 0, None)),
        Batch((1, 4), (0, 0), (0, 0, None)),
        Batch((1, 4), (3, 0, None), (0, 0, None)),
        Batch((1, 3), (0, 0, None), (0, 0, None)),
    ],
)
def test_a_batch_of_other_programs_is_refused(model: CompiledModel, batch: Batch, tmp_path) -> None:
    """It would be cut where nothing is."""
    model.save(tmp_path / "m.so")
    seal(tmp_path / "m.so", dataclasses.replace(model.metadata, batch=batch))
    with pytest.raises(FileError):
        load(tmp_path / "m.so")


@pytest.mark.parametrize("sizes", [(1, 4), (2, 5)])
def test_on_a_gpu(sizes: tuple[int, ...], gpu: FakeGpu) -> None:
    """From arrays, and from tensors, at addresses that kernels cannot use too."""
    found = gpu.build(batched(network(), sizes))
    for samples in (1, 4, 7):
        assert_expected(found(feeds(samples)), samples)
        tensors = {name: GpuTensor(array) for name, array in feeds(samples).items()}
        results = found(tensors, stream=5)
        assert_expected({name: to_host(y, gpu) for name, y in results.items()}, samples)


def test_programs_of_several_architectures(gpu: FakeGpu) -> None:
    found = gpu.build(batched(network(), (1, 4)), "cuda")
    assert_expected(found(feeds(5)), 5)
    assert Programs.of(programs := batched(network(), (2,))) is programs


def test_a_session_remembers(tmp_path: Path) -> None:
    """Its library has the reference's bits at every step, sessions do not meet."""
    integer = qcompiler.quantize(recurrent(), {"x": sequence(100)})
    build(Options().programs(integer), target("cpu"), threads=1).save(tmp_path / "m.so")
    found = load(tmp_path / "m.so")
    one, other = found.session(), found.session()
    state = np.zeros((1, UNITS), np.int16)
    for x in sequence(20):
        reference = evaluate(integer, {"x": x[None], "h": state})
        state = reference["after"]
        np.testing.assert_array_equal(one({"x": x[None]})["y"], reference["y"])
        other(-x[None])
    np.testing.assert_array_equal(one.states["h"], state)
    assert (other.states["h"] != state).any()
    one.reset()
    assert not one.states["h"].any()
    with pytest.raises(UsageError, match="'h': the session keeps it"):
        one({"x": x[None], "h": state})
    with pytest.raises(UsageError, match=r"expected 1 inputs \(x\), found 2"):
        one(x[None], state)
    with pytest.raises(UsageError, match="samples: expected none, the number is fixed, found 2"):
        found.session(2)


def test_a_session_of_several_samples(model: CompiledModel) -> None:
    integer = qcompiler.quantize(recurrent(), {"x": sequence(100)})
    found = build(Options(batches=(1, 2)).programs(integer), target("cpu"), threads=1)
    steps = np.stack([sequence(5, seed) for seed in range(3)], 1)
    together, alone = found.session(3), [found.session() for _ in range(3)]
    for x in steps:
        ys = [session(own[None])["y"] for session, own in zip(alone, x, strict=True)]
        np.testing.assert_array_equal(together(x)["y"], np.concatenate(ys))
    with pytest.raises(UsageError, match="network: has no state: compile it with --state"):
        model.session()


def test_a_state_stays_on_the_gpu(gpu: FakeGpu) -> None:
    integer = qcompiler.quantize(recurrent(), {"x": sequence(100)})
    found = gpu.build(Options().programs(integer))
    host, device = found.session(), found.session()
    first = GpuTensor(device.states["h"])
    device.states = {"h": first}
    for x in sequence(3):
        expected = host(x[None])["y"]
        copied = gpu.state.copied
        own = GpuTensor(x[None])  # kept, as is `first`, until the stream is done with it
        y = device(own)["y"]
        np.testing.assert_array_equal(to_host(y, gpu), expected)
        assert gpu.state.copied == copied
