"""The runtime of libraries for CUDA, on a driver that is not one: see tests/fake_gpu.py."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("tvm")

from fake_gpu import FakeGpu, build_driver
from tiny import examples

import qcompiler
from qcompiler.artifact import CompiledModel, load
from qcompiler.backends.cuda import dlpack
from qcompiler.backends.cuda.dlpack import Result, Tensor
from qcompiler.errors import TargetError, UsageError
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import (
    Add,
    Cast,
    Dequantize,
    Quantize,
    ReduceSum,
    Reshape,
    Table,
    Transpose,
)
from qcompiler.types import Quantization, TensorType

LIBRARY_OPS = 24  # examples that are compiled into one library, to save time
EXAMPLES = list(examples())
GROUPS = [EXAMPLES[i : i + LIBRARY_OPS] for i in range(0, len(EXAMPLES), LIBRARY_OPS)]
MODELS = Path(__file__).parent.parent.parent / "models"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> FakeGpu:
    library = build_driver(tmp_path_factory.mktemp("driver"))
    if library is None:
        pytest.skip("needs gcc and g++")
    return FakeGpu(library)


@pytest.fixture
def gpu(driver: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A machine with one GPU, which is checked for mistakes and leaks afterwards."""
    monkeypatch.setenv("QCOMPILER_CUDA_DRIVER", driver.path)
    state = driver.state
    state.capability, state.devices, state.failing = 90, 1, b""
    state.launched_graphs = state.updates = state.waits = 0
    driver.calls.clear()
    driver.errors.clear()
    gc.collect()
    leaked, contexts = state.leaked, state.contexts
    yield driver
    state.failing = b""
    driver.finish()
    assert driver.errors == []
    gc.collect()
    assert state.leaked <= leaked  # less, where a test before this one failed
    assert state.contexts <= contexts


def network(inputs: int = 1, scale: float = 0.1) -> Graph:
    """Entry, a table, a fork with a long reduction, a join, a reshape, exit; two outputs."""
    q = Quantization.per_tensor("uint8", scale, 3)
    xs = tuple(Input(TensorType("float32", (2, 4, 80)), name=f"x{i}") for i in range(inputs))
    values = np.arange(256)[::-1].astype(np.uint8)
    codes: list[Op] = [Table(Quantize(x, q), Constant(values), q) for x in xs]
    wide: Op = Cast(codes[0], "int32")
    for code in codes[1:]:
        wide = Add(wide, Cast(code, "int32"))
    turned = Transpose(wide, (0, 2, 1))
    total = Add(turned, ReduceSum(Transpose(codes[-1], (0, 2, 1)), (1,)))
    return Graph(xs, {"total": Reshape(total, (2, 320)), "real": Dequantize(codes[0])}, "network")


def feeds(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {str(x.name): rng.uniform(-5, 30, x.type.shape).astype(np.float32) for x in graph.inputs}


def assert_same(graph: Graph, own: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    for name, expected in evaluate(graph, own).items():
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found[name], expected)


class GpuTensor:
    """A tensor of another library: a numpy array that says that it lies on a GPU."""

    def __init__(self, array: np.ndarray, device: int = 0) -> None:
        self.array = array
        self.device = device
        self.streams: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device

    def __dlpack__(self, *, stream: int | None = None) -> object:
        self.streams.append(stream)
        capsule = self.array.__dlpack__()
        tensor = Tensor.from_address(dlpack._pointer(capsule, b"dltensor"))
        tensor.device_type, tensor.device = self.__dlpack_device__()
        return capsule


def to_host(result: Result, gpu: FakeGpu) -> np.ndarray:
    """What a consumer reads, behind all that was enqueued."""
    gpu.finish()
    capsule = result.__dlpack__(stream=-1)
    tensor = Tensor.from_address(dlpack._pointer(capsule, b"dltensor"))
    shape = tuple(tensor.shape[: tensor.rank])
    nbytes = int(np.prod(shape)) * result.dtype.itemsize
    data = bytes((ctypes.c_char * nbytes).from_address(tensor.data))
    return np.frombuffer(data, result.dtype).reshape(shape)


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


def test_running_imports_neither_tvm_nor_torch() -> None:
    program = (
        "import sys, qcompiler.artifact, qcompiler.backends.cuda.run\n"
        "assert not {'tvm', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-I", "-c", program], check=True)
