"""The runtime of libraries for CUDA, on a driver that is not one: see tests/fake_gpu.py."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

from fake_gpu import FakeGpu
from gpu_network import assert_same, feeds, network
from tiny import examples
from vit_tiny import FOLDER, images, needs_vit_tiny

import qcompiler
from qcompiler.artifact import CompiledModel, load
from qcompiler.errors import TargetError
from qcompiler.graph import Graph
from qcompiler.interpret import evaluate

LIBRARY_OPS = 24  # examples that are compiled into one library, to save time
EXAMPLES = list(examples())
GROUPS = [EXAMPLES[i : i + LIBRARY_OPS] for i in range(0, len(EXAMPLES), LIBRARY_OPS)]
MODELS = Path(__file__).parent.parent.parent / "models"


@pytest.mark.parametrize("group", range(len(GROUPS)))
def test_ops_have_numpys_bits(group: int, gpu: FakeGpu) -> None:
    """Every op under the default schedule; floats are as near as on the CPU."""
    members = GROUPS[group]
    inputs = tuple(x for e in members for x in e.graph.inputs)
    model = gpu.build(Graph(inputs, {e.name: e.op for e in members}), tables=False)
    rng = np.random.default_rng(group)
    for seed in range(2):
        gpu.state.seed = seed
        own = {k: v for e in members for k, v in e.feeds(rng).items()}
        found = model(own)
        for e in members:
            expected = evaluate(e.graph, {str(x.name): own[str(x.name)] for x in e.graph.inputs})
            assert found[e.name].shape == expected["y"].shape
            if expected["y"].dtype.kind == "f":
                np.testing.assert_allclose(found[e.name], expected["y"], rtol=1e-5, atol=1e-5)
            else:
                np.testing.assert_array_equal(found[e.name], expected["y"], e.name)


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_demo_networks_have_numpys_bits(name: str, gpu: FakeGpu) -> None:
    """With the kernels for tensor cores, on the SIMT machine."""
    calibration = np.load(MODELS / "digits" / "calib.npz")
    samples = {k: calibration[k][:32] for k in calibration.files}
    graph = qcompiler.import_onnx(MODELS / "digits" / f"{name}.onnx")
    integer = qcompiler.quantize(graph, samples)
    lowered = qcompiler.passes.PassManager(qcompiler.passes.LOWERING)(integer)
    model = gpu.build(lowered)
    assert any(k.implementation.startswith("cuda") for k in model.metadata.kernels)
    for i in range(2):
        own = {str(x.name): samples[str(x.name)][i : i + 1] for x in graph.inputs}
        assert_same(integer, own, model(own))


@needs_vit_tiny
def test_the_real_vit_tiny_has_numpys_bits(gpu: FakeGpu) -> None:
    """A minute of the SIMT machine: the 116 launches of one image."""
    integer = qcompiler.quantize(
        qcompiler.import_onnx(FOLDER / "model.onnx"), {"x": images("calib", 16)}
    )
    model = gpu.build(qcompiler.passes.PassManager(qcompiler.passes.LOWERING)(integer))
    own = {"x": images("val", 1)}
    assert_same(integer, own, model(own))


def test_runs_repeat_one_graph(gpu: FakeGpu) -> None:
    graph = network()
    model = gpu.build(graph)
    for seed in range(4):
        gpu.state.seed = seed  # nodes run in another order
        own = feeds(graph, seed)
        assert_same(graph, own, model(own))
    assert gpu.state.launched_graphs == 4
    ends = gpu.state.updates  # only at the first run do the addresses change
    model(feeds(graph, 9))
    assert gpu.state.updates == ends > 0


def test_independent_kernels_do_not_wait(gpu: FakeGpu) -> None:
    """The edges allow more than one order, and every order that they allow gives the bits."""
    graph = network(inputs=2)
    model = gpu.build(graph)
    own = feeds(graph, 0)
    orders = set()
    for seed in range(12):
        gpu.state.seed = seed
        gpu.calls.clear()
        assert_same(graph, own, model(own))
        orders.add(tuple(call.symbol for call in gpu.calls))
    assert len(orders) > 1


def test_launches_have_their_sizes(gpu: FakeGpu) -> None:
    model = gpu.build(network())
    model(feeds(network(), 0))
    quantize = next(call for call in gpu.calls if "quantize" in call.symbol)
    assert (quantize.grid, quantize.block, quantize.shared_bytes) == ((3, 1, 1), (256, 1, 1), 0)


def test_threads_share_a_model(gpu: FakeGpu) -> None:
    graph = network()
    model = gpu.build(graph)
    expected = [evaluate(graph, feeds(graph, seed)) for seed in range(8)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(4):
            found = model(feeds(graph, seed))
            if any((found[name] != y).any() for name, y in expected[seed].items()):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert gpu.state.launched_graphs == 32


def test_models_do_not_meet(gpu: FakeGpu, tmp_path: Path) -> None:
    graphs = [network(scale=s) for s in (0.1, 0.2)]
    models: list[CompiledModel] = []
    for i, graph in enumerate(graphs):
        gpu.build(graph).save(tmp_path / f"{i}.so")
        models.append(load(tmp_path / f"{i}.so"))
    for graph, model in zip(graphs * 2, models * 2, strict=True):
        assert_same(graph, feeds(graph, 1), model(feeds(graph, 1)))


def test_a_replaced_file_is_loaded(gpu: FakeGpu, tmp_path: Path) -> None:
    for scale in (0.1, 0.3):
        graph = network(scale=scale)
        gpu.build(graph).save(tmp_path / "m.so")
        assert_same(graph, feeds(graph, 1), load(tmp_path / "m.so")(feeds(graph, 1)))


@pytest.mark.parametrize(
    ("capability", "chosen"), [(80, "sm_80"), (86, "sm_86"), (87, "sm_86"), (90, "sm_90")]
)
def test_the_gpu_gets_its_code(capability: int, chosen: str, gpu: FakeGpu) -> None:
    gpu.state.devices = 0  # "cuda" is for the usual architectures then
    model = gpu.build(network(), "cuda")
    assert model.metadata.gpus == ("sm_80", "sm_86", "sm_89", "sm_90")
    gpu.state.devices, gpu.state.capability = 1, capability
    model(feeds(network(), 0))
    assert {call.architecture for call in gpu.calls} == {chosen}


def test_cuda_is_the_gpu_of_this_machine(gpu: FakeGpu) -> None:
    gpu.state.capability = 86
    assert gpu.build(network(), "cuda").metadata.gpus == ("sm_86",)


def test_a_gpu_without_code(gpu: FakeGpu) -> None:
    model = gpu.build(network(), "cuda:sm_80")
    gpu.state.capability = 90
    words = "GPU 0 is sm_90, this library has code for sm_80: compile it with --target cuda:sm_90"
    with pytest.raises(TargetError, match=words):
        model(feeds(network(), 0))


def test_no_gpu(gpu: FakeGpu) -> None:
    model = gpu.build(network())
    gpu.state.devices = 0
    with pytest.raises(TargetError, match="no GPU 0: the NVIDIA driver finds 0"):
        _ = model.runner


def test_no_driver(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpu.build(network()).save(tmp_path / "m.so")
    monkeypatch.setenv("QCOMPILER_CUDA_DRIVER", "libabsent.so.1")
    words = "this library needs an NVIDIA GPU and its driver: libabsent.so.1 not found"
    with pytest.raises(TargetError, match=words) as error:
        load(tmp_path / "m.so")
    assert "\n" not in str(error.value)


def test_an_old_driver(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    model = gpu.build(network())
    monkeypatch.setenv("QCOMPILER_CUDA_DRIVER", "libm.so.6")
    with pytest.raises(TargetError, match=r"libm.so.6 has no cuInit: .* CUDA 12.0 or newer"):
        _ = model.runner


OPENING = (
    "cuInit",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuModuleLoadData",
    "cuModuleGetFunction",
    "cuMemAlloc_v2",
    "cuMemcpyHtoD_v2",
    "cuGraphCreate",
    "cuGraphAddKernelNode_v2",
    "cuGraphInstantiateWithFlags",
)
RUNNING = (
    "cuMemAllocHost_v2",
    "cuStreamCreate",
    "cuMemcpyHtoDAsync_v2",
    "cuGraphExecKernelNodeSetParams_v2",
    "cuGraphLaunch",
    "cuMemcpyDtoHAsync_v2",
    "cuStreamSynchronize",
)


@pytest.mark.parametrize("function", OPENING)
def test_what_the_driver_refuses_when_a_model_is_opened(function: str, gpu: FakeGpu) -> None:
    model = gpu.build(network())
    gpu.state.failing, gpu.state.failure = function.encode(), 2
    with pytest.raises(TargetError, match=r"driver refused .*out of memory") as error:
        _ = model.runner
    assert "\n" not in str(error.value)
    gpu.state.failing = b""
    assert_same(network(), feeds(network(), 0), model(feeds(network(), 0)))


@pytest.mark.parametrize("function", RUNNING)
def test_what_the_driver_refuses_when_a_model_runs(function: str, gpu: FakeGpu) -> None:
    model = gpu.build(network())
    _ = model.runner
    gpu.state.failing, gpu.state.failure = function.encode(), 2
    with pytest.raises(TargetError, match=r"driver refused .*out of memory"):
        model(feeds(network(), 0))
    gpu.state.failing = b""
    assert_same(network(), feeds(network(), 0), model(feeds(network(), 0)))


def test_running_imports_neither_tvm_nor_torch() -> None:
    program = (
        "import sys, qcompiler.artifact, qcompiler.backends.cuda.run\n"
        "assert not {'tvm', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-I", "-c", program], check=True)
