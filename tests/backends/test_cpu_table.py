"""Kernels: fused regions through the kernel table, sharing, memory, instruction sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from qcompiler.artifact import CompiledModel
from qcompiler.backends.cpu import machine
from qcompiler.backends.cpu.build import build
from qcompiler.backends.cpu.kernels.isa import best_isa
from qcompiler.backends.targets import target
from qcompiler.errors import TargetError
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import (
    Add,
    Concat,
    ConvInteger,
    MatMulInteger,
    MaxPool,
    ReduceSum,
    Requantize,
    Reshape,
    Table,
    Transpose,
    Window,
)
from qcompiler.passes import Fuse
from qcompiler.types import Quantization, TensorType

UINT8 = Quantization.per_tensor("uint8", 0.1, 3)
INT8 = Quantization.per_tensor("int8", 0.1)
INT16 = Quantization.per_tensor("int16", 0.01)
RNG = np.random.default_rng(7)


def codes(shape: tuple[int, ...], q: Quantization = UINT8, name: str = "x") -> Input:
    return Input(TensorType(q.bounds.dtype, shape, q), name=name)


def random(dtype: str, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, dtype, endpoint=True)


def conv(x: Op, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> ConvInteger:
    inner, pad = x.type.shape[3] // groups, kernel // 2
    bias = Constant(RNG.integers(-999, 999, outputs, dtype=np.int32))
    window = Window((kernel, kernel), (stride, stride), (pad,) * 4)
    weight = Constant(random("int8", outputs, inner, kernel, kernel))
    return ConvInteger(x, weight, bias, window, groups, channels_last=True)


def requantize(*inputs: Op, q: Quantization = UINT8, shift: int = 42) -> Requantize:
    channels = inputs[0].type.shape[-1]
    multipliers = tuple(
        Constant(RNG.integers(2**25, 2**28, channels if i == 0 else (), dtype=np.int32))
        for i, _ in enumerate(inputs)
    )
    offset = Constant(RNG.integers(0, 2 ** (shift + 6), channels))
    return Requantize(inputs, multipliers, offset, shift, q)


def table(x: Op, q: Quantization = UINT8) -> Table:
    return Table(x, Constant(random(q.bounds.dtype, 256)), q)


def residual(q: Quantization) -> Graph:
    x, y = codes((1, 9, 7, 24), q), codes((1, 9, 7, 40), INT16, "y")
    return Graph((x, y), {"z": table(requantize(conv(x, 40), y, q=INT8, shift=45))})


def product(x_shape: tuple[int, ...], outputs: int) -> Graph:
    x = codes(x_shape, INT8)
    weight = Constant(random("int8", x_shape[-1], outputs))
    bias = Constant(RNG.integers(-999, 999, outputs, dtype=np.int32))
    return Graph((x,), {"z": requantize(MatMulInteger(x, weight, bias))})


def tables(kinds: int, outputs: int, q: Quantization) -> Graph:
    """Channels of several kinds, each with a table of its own."""
    x = codes((1, 11, 20))
    weight = Constant(random("int8", 20, outputs))
    code = requantize(MatMulInteger(x, weight, None), q=q, shift=40)
    rows = Constant(RNG.integers(0, kinds, outputs, dtype=np.int32) * 256)
    values = Constant(random("uint8", 256 * kinds))
    return Graph((x,), {"z": Table(code, values, UINT8, rows)})


def branches() -> Graph:
    """Two outputs, a value with several users, its own residual, and every kind of movement."""
    x = codes((2, 8, 8, 16))
    a = requantize(conv(x, 16))
    b = requantize(conv(a, 16), a, shift=44)
    pooled = MaxPool(b, Window((2, 2), (2, 2)), channels_last=True)
    joined = Concat((pooled, MaxPool(a, Window((2, 2), (2, 2)), channels_last=True)), 3)
    moved = Reshape(Transpose(joined, (0, 3, 1, 2)), (2, 32 * 16))
    mean = requantize(ReduceSum(b, (1, 2)), shift=36)
    return Graph((x,), {"moved": moved, "mean": mean, "again": moved, "x": x})


GRAPHS: dict[str, Callable[[], Graph]] = {
    "residual-table-u8": lambda: residual(UINT8),
    "residual-table-s8": lambda: residual(INT8),
    "depthwise": lambda: Graph(
        (x := codes((1, 9, 9, 32)),), {"z": requantize(conv(x, 32, groups=32), shift=38)}
    ),
    "strided": lambda: Graph(
        (x := codes((2, 11, 9, 5)),), {"z": requantize(conv(x, 7, kernel=5, stride=2))}
    ),
    "raw-accumulators": lambda: Graph((x := codes((1, 6, 6, 8)),), {"z": conv(x, 16)}),
    "product": lambda: product((3, 5, 30), 17),
    "classifier": lambda: product((1, 64), 10),
    "pool-requantize": lambda: Graph(
        (x := codes((1, 8, 8, 16)),),
        {"z": requantize(MaxPool(x, Window((3, 3), (2, 2), (1,) * 4), True), shift=28)},
    ),
    "sum-requantize": lambda: Graph(
        (x := codes((1, 7, 7, 64)),), {"z": requantize(ReduceSum(x, (1, 2)), shift=34)}
    ),
    "two-tables": lambda: tables(2, 96, INT8),
    "five-tables": lambda: tables(5, 37, UINT8),
    "branches": branches,
}


def feeds(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        str(x.name): rng.integers(
            np.iinfo(x.type.dtype).min,
            np.iinfo(x.type.dtype).max,
            x.type.shape,
            x.type.dtype,
            endpoint=True,
        )
        for x in graph.inputs
    }


def runs(model: CompiledModel) -> bool:
    try:
        return model.runner is not None
    except TargetError:
        return False


@pytest.mark.parametrize("name", ["cpu", "cpu:cascadelake", "cpu:haswell", "cpu:generic"])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
def test_graphs(name: str, fused: bool) -> None:
    for case, make in GRAPHS.items():
        graph = make()
        compiled = build(Fuse()(graph) if fused else graph, target(name))
        if not runs(compiled):
            pytest.skip(f"this CPU cannot run {name}")
        expected = evaluate(graph, feeds(graph))
        found = compiled(feeds(graph))
        for output in expected:
            assert len(np.unique(expected[output])) > 4, f"{case}: a test that sees nothing"
            np.testing.assert_array_equal(found[output], expected[output], f"{case} {output}")
        assert compiled.metadata.float_instructions == 0


def test_the_kernel_table_serves_convolutions_and_products() -> None:
    for case in ("residual-table-u8", "strided", "product", "raw-accumulators", "depthwise"):
        (kernel,) = build(Fuse()(GRAPHS[case]()), target("cpu")).metadata.kernels
        expected = "cpu depthwise" if case == "depthwise" else "cpu product"
        assert kernel.implementation == expected, case


def test_a_target_without_kernels_takes_the_generic_ones() -> None:
    bare = replace(target("cpu"), kernels=())
    graph = residual(UINT8)
    model = build(Fuse()(graph), bare)
    assert {k.implementation for k in model.metadata.kernels} == {"generic"}
    np.testing.assert_array_equal(model(feeds(graph))["z"], evaluate(graph, feeds(graph))["z"])


def test_equal_layers_share_a_kernel_and_others_do_not() -> None:
    x = codes((1, 8, 8, 16))
    h: Op = x
    for _ in range(4):
        h = requantize(conv(h, 16))
    h = requantize(conv(h, 16), q=Quantization.per_tensor("uint4", 0.1))  # clamps elsewhere
    graph = Graph((x,), {"h": h})
    model = build(Fuse()(graph), target("cpu"))
    assert [len(k.ops) for k in model.metadata.kernels] == [4, 1]
    np.testing.assert_array_equal(model(feeds(graph))["h"], evaluate(graph, feeds(graph))["h"])


def test_memory_is_reused_between_layers_and_constants_are_stored_once() -> None:
    x = codes((1, 32, 32, 16))
    weight, bias = Constant(random("int8", 16, 16, 1, 1)), Constant(np.zeros(16, np.int32))
    h: Op = x
    for _ in range(10):
        h = ConvInteger(h, weight, bias, Window((1, 1)), channels_last=True)
        h = requantize(h, shift=40)
    metadata = build(Fuse()(Graph((x,), {"h": h})), target("cpu")).metadata
    assert metadata.workspace_bytes == 2 * 32 * 32 * 16
    assert metadata.weight_bytes < 10 * 16 * (4 + 8) + 2 * 16 * 16 + 2000


def test_thousands_of_ops() -> None:
    x = Input(TensorType("int32", (16,)), name="x")
    h: Op = x
    for i in range(3000):
        h = Add(h, Constant(np.full(16, i, np.int32)))
    model = build(Graph((x,), {"h": h}), target("cpu"))
    assert len(model.metadata.kernels) == 1
    assert (model(np.zeros(16, np.int32))["h"] == 3000 * 2999 // 2).all()


@pytest.mark.parametrize(
    ("name", "isa"),
    [
        ("cpu:generic", "sse2"),
        ("cpu:haswell", "avx2"),
        ("cpu:alderlake", "avx_vnni"),
        ("cpu:cascadelake", "avx512_vnni"),
        ("cpu:icelake-server", "avx512_vnni_vbmi"),
    ],
)
def test_instruction_set_follows_the_target(name: str, isa: str) -> None:
    assert best_isa(machine.tvm_target(target(name))).name == isa
