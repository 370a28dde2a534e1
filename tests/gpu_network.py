"""A small network for tests of GPUs' runtime, and tensors of a library that thinks it has a GPU."""

from __future__ import annotations

import ctypes

import numpy as np
from fake_gpu import FakeGpu

from qcompiler.backends.cuda import dlpack
from qcompiler.backends.cuda.dlpack import Result, Tensor
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import Add, Cast, Dequantize, Quantize, ReduceSum, Reshape, Table, Transpose
from qcompiler.types import Quantization, TensorType


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
