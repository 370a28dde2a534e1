"""Tensors on the GPU, to and from other libraries: on a driver that is not one."""

from __future__ import annotations

import gc
import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tvm")

from fake_gpu import FakeGpu
from gpu_network import GpuTensor, assert_same, feeds, network, to_host

from qcompiler.backends.cuda import dlpack
from qcompiler.errors import TargetError, UsageError


def test_tensors_on_the_gpu_are_not_copied(gpu: FakeGpu) -> None:
    graph = network(inputs=2)
    model = gpu.build(graph)
    before = gpu.state.copied
    for seed in range(3):
        own = feeds(graph, seed)
        tensors = {name: GpuTensor(array) for name, array in own.items()}
        found = model(tensors, stream=77)
        assert [x.streams for x in tensors.values()] == [[77], [77]]
        assert gpu.calls == [], "nothing runs before somebody waits"
        assert_same(graph, own, {name: to_host(y, gpu) for name, y in found.items()})
        gpu.calls.clear()
    assert gpu.state.copied == before


def test_results_of_several_runs_live_side_by_side(gpu: FakeGpu) -> None:
    graph = network()
    model = gpu.build(graph)
    many = [feeds(graph, seed) for seed in range(3)]
    arrays = [{n: GpuTensor(x) for n, x in own.items()} for own in many]
    found = [model(own) for own in arrays]  # arguments of what is enqueued must not change
    for own, results in zip(many, found, strict=True):
        assert_same(graph, own, {name: to_host(y, gpu) for name, y in results.items()})


def test_memory_of_results_is_used_again(gpu: FakeGpu) -> None:
    graph = network()
    model = gpu.build(graph)
    own = {n: GpuTensor(x) for n, x in feeds(graph, 0).items()}
    addresses = {model(own)["total"].address for _ in range(5)}
    assert len(addresses) == 1
    updates = gpu.state.updates
    model(own)
    assert gpu.state.updates == updates  # equal addresses: the graph is replayed as it is
    other = model(own, stream=5)["total"].address
    assert other not in addresses, "another stream may still read it"


def test_results_outlive_their_model(gpu: FakeGpu) -> None:
    graph = network()
    own = feeds(graph, 0)
    found = gpu.build(graph)({n: GpuTensor(x) for n, x in own.items()})
    gpu.finish()
    gc.collect()
    assert_same(graph, own, {name: to_host(y, gpu) for name, y in found.items()})


def test_consumers_on_other_streams_wait(gpu: FakeGpu) -> None:
    graph = network()
    own = {n: GpuTensor(x) for n, x in feeds(graph, 0).items()}
    found = gpu.build(graph)(own, stream=7)
    found["total"].__dlpack__(stream=7)
    assert gpu.state.waits == 0
    found["real"].__dlpack__(stream=8)
    assert gpu.state.waits == 1
    with pytest.raises(BufferError, match="handed over"):
        found["real"].__dlpack__()


def test_torch_runs_on_its_current_stream(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    current = SimpleNamespace(
        current_stream=lambda device: SimpleNamespace(cuda_stream=60 + device)
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(Tensor=GpuTensor, cuda=current))
    graph = network()
    own = {n: GpuTensor(x) for n, x in feeds(graph, 0).items()}
    found = gpu.build(graph)(own)
    assert own["x0"].streams == [60]
    found["total"].__dlpack__(stream=60)
    assert gpu.state.waits == 0


def test_streams_of_libraries(gpu: FakeGpu) -> None:
    graph = network()
    model = gpu.build(graph)
    torch = type("Stream", (), {"cuda_stream": 41})()
    cupy = type("Stream", (), {"ptr": 42})()
    standard = type("Stream", (), {"__cuda_stream__": lambda self: (0, 43)})()
    for stream, number in ((torch, 41), (cupy, 42), (standard, 43), (None, 1)):
        own = {n: GpuTensor(x) for n, x in feeds(graph, 0).items()}
        model(own, stream=stream)
        assert own["x0"].streams == [number]
    with pytest.raises(UsageError, match="a number or a stream of CUDA"):
        model({n: GpuTensor(x) for n, x in feeds(graph, 0).items()}, stream="fast")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: GpuTensor(x.transpose(0, 2, 1).copy().transpose(0, 2, 1)), "without gaps"),
        (lambda x: GpuTensor(np.zeros(641, np.float32)[1:].reshape(x.shape)), "multiple"),
        (lambda x: GpuTensor(x.astype(np.float64)), r"expected float32\[2x4x80\], found float64"),
        (lambda x: GpuTensor(x[0].copy()), r"found float32\[4x80\]"),
        (lambda x: x, "expected a tensor on the GPU, as there is a stream"),
    ],
)
def test_inputs_that_do_not_fit(change: object, words: str, gpu: FakeGpu) -> None:
    graph = network()
    model = gpu.build(graph)
    x = feeds(graph, 0)["x0"]
    with pytest.raises(UsageError, match=words):
        model({"x0": change(x)}, stream=3)  # type: ignore[operator]


def test_inputs_in_several_places(gpu: FakeGpu) -> None:
    graph = network(inputs=2)
    own = feeds(graph, 0)
    with pytest.raises(UsageError, match="all of them on the host, or all on one GPU"):
        gpu.build(graph)({"x0": own["x0"], "x1": GpuTensor(own["x1"])})


def test_two_gpus(gpu: FakeGpu) -> None:
    graph = network()
    model = gpu.build(graph)
    gpu.state.devices = 2
    own = feeds(graph, 0)
    for device in (1, 0, 1):
        found = model({n: GpuTensor(x, device) for n, x in own.items()})
        assert found["total"].__dlpack_device__() == (dlpack.CUDA, device)
        assert_same(graph, own, {name: to_host(y, gpu) for name, y in found.items()})
    with pytest.raises(TargetError, match="no GPU 5"):
        model({n: GpuTensor(x, 5) for n, x in own.items()})
