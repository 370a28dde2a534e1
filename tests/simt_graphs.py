"""Graphs of one kernel each, and how they run on the SIMT machine."""

from __future__ import annotations

import numpy as np
from simt import Traffic, run
from tvm.target import Target
from tvm.tirx import PrimFunc

from qcompiler.backends.cuda.kernels.rules import CUDA
from qcompiler.backends.cuda.launches import launches
from qcompiler.backends.cuda.schedule import schedule
from qcompiler.backends.tvm.lower import Program, lower
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import (
    Average,
    ConvInteger,
    Exponentials,
    MatMulInteger,
    NormalizeInteger,
    Reciprocal,
    ReduceSum,
    Requantize,
    Table,
    Transpose,
    Window,
)
from qcompiler.passes import Fuse, FuseAttention
from qcompiler.types import Quantization, TensorType


def target(architecture: int) -> Target:
    return Target({"kind": "cuda", "arch": f"sm_{architecture}"})


def lowered(graph: Graph, architecture: int = 80) -> Program:
    """The graph's calls, by kernels of the CUDA table."""
    return lower(Fuse()(FuseAttention()(graph)), target(architecture), CUDA, schedule)


def feeds(graph: Graph, seed: int = 0, extreme: bool = False) -> dict[str, np.ndarray]:
    """Codes over all of each input's dtype; `extreme`: only the smallest and the largest."""
    rng, found = np.random.default_rng(seed), {}
    for x in graph.inputs:
        info = np.iinfo(x.type.dtype)
        values = rng.integers(info.min, info.max, x.type.shape, np.int64, endpoint=True)
        if extreme:
            values = np.where(values % 2 == 0, info.min, info.max)
        found[str(x.name)] = values.astype(x.type.dtype)
    return found


def check(
    graph: Graph, architecture: int = 80, kernel: str | None = None, extreme: bool = False
) -> Traffic:
    """Run a graph of one kernel and compare it with numpy, bit for bit."""
    program = lowered(graph, architecture)
    (call,) = program.calls
    assert call.kernel.implementation == kernel or kernel is None, call.kernel.implementation
    fed = feeds(graph, extreme=extreme)
    values: dict[Op, np.ndarray] = {x: fed[str(x.name)] for x in program.graph.inputs}
    arguments = [a if isinstance(a, np.ndarray) else values[a] for a in call.arguments]
    result = np.full(call.result.type.shape, 77, call.result.type.dtype)
    flat = [np.ascontiguousarray(a).reshape(-1) for a in arguments]
    traffic = run_lowered(call.kernel.function, [*flat, result.reshape(-1)])
    (expected,) = evaluate(graph, fed).values()
    assert len(np.unique(expected)) > (1 if extreme else 4), "a test that sees nothing"
    np.testing.assert_array_equal(result, expected)
    return traffic


def run_lowered(function: PrimFunc, arguments: list[np.ndarray]) -> Traffic:
    """Run the device function that CUDA source is written from."""
    kernel = launches(function, "kernel")
    (launch,) = kernel.sequence
    (device,) = kernel.functions.functions.values()
    return run(device, [arguments[i] for i in launch.arguments])


def quantization(dtype: str) -> Quantization:
    return Quantization.per_tensor(dtype, 0.1, 3 if dtype == "uint8" else 0)


def codes(name: str, dtype: str, *shape: int) -> Input:
    return Input(TensorType(dtype, shape, quantization(dtype)), name=name)


def requantize(
    *inputs: Op, dtype: str = "uint8", spread: float = 60.0, rng: np.random.Generator
) -> Requantize:
    """Per-channel multipliers that bring most sums of such inputs into the range of `dtype`."""
    shift, width = 40, inputs[0].type.shape[-1]
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    multipliers = []
    for i, x in enumerate(inputs):
        factor = spread / (x.type.magnitude() / 8) if i else spread
        ratio = min(factor * 2.0**shift / (1 if i else _size(x)), 2.0**30)
        shape = width if i == 0 else ()
        low_m, high_m = int(ratio / 2) + 1, int(ratio) + 2
        multipliers.append(Constant(rng.integers(low_m, high_m, shape).astype(np.int32)))
    offsets = rng.integers((low + high) // 2 - 9, (low + high) // 2 + 9, width) << shift
    quantized = quantization(dtype)
    return Requantize(inputs, tuple(multipliers), Constant(offsets), shift, quantized)


def _size(x: Op) -> float:
    """About the standard deviation of a sum of products of random codes."""
    match x:
        case ConvInteger(weight=weight):
            terms = int(np.prod(weight.type.shape[1:]))
        case MatMulInteger(weight=weight):
            terms = weight.type.shape[0]
        case _:
            return x.type.magnitude() / 4
    return 128 * 75 * float(np.sqrt(terms))


def weight(rng: np.random.Generator, *shape: int) -> Constant:
    return Constant(rng.integers(-128, 128, shape).astype(np.int8))


def bias(rng: np.random.Generator, width: int) -> Constant:
    return Constant(rng.integers(-9999, 9999, width).astype(np.int32))


def table(rng: np.random.Generator, x: Op, dtype: str) -> Table:
    values = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, 256, endpoint=True)
    return Table(x, Constant(values.astype(dtype)), quantization(dtype))


def product(
    x_shape: tuple[int, ...], width: int, x_dtype: str = "int8", end: str = "uint8", seed: int = 0
) -> Graph:
    """A matrix product; `end`: "raw", or the dtype of the result, with a residual if int16, a
    table behind it if int8."""
    rng = np.random.default_rng(seed)
    x = codes("x", x_dtype, *x_shape)
    y: Op = MatMulInteger(x, weight(rng, x_shape[-1], width), bias(rng, width))
    if end == "int16":
        other = codes("r", "int16", *y.type.shape)
        return Graph((x, other), {"y": requantize(y, other, dtype=end, spread=6000, rng=rng)})
    if end == "int8":
        y = table(rng, requantize(y, rng=rng), "int8")
    elif end != "raw":
        y = requantize(y, dtype=end, rng=rng)
    return Graph((x,), {"y": y})


def convolution(
    x_shape: tuple[int, int, int, int],
    outputs: int,
    window: Window,
    x_dtype: str = "uint8",
    seed: int = 0,
) -> Graph:
    """A convolution, channels last, and its requantization."""
    rng = np.random.default_rng(seed)
    x = codes("x", x_dtype, *x_shape)
    filters = weight(rng, outputs, x_shape[3], *window.kernel)
    y = ConvInteger(x, filters, bias(rng, outputs), window, channels_last=True)
    return Graph((x,), {"y": requantize(y, rng=rng)})


def depthwise(
    x_shape: tuple[int, int, int, int], window: Window, x_dtype: str = "uint8", seed: int = 0
) -> Graph:
    """A filter per channel, and its requantization."""
    rng = np.random.default_rng(seed)
    x, channels = codes("x", x_dtype, *x_shape), x_shape[3]
    filters = weight(rng, channels, 1, *window.kernel)
    y = ConvInteger(x, filters, bias(rng, channels), window, channels, channels_last=True)
    return Graph((x,), {"y": requantize(y, rng=rng)})


def normalization(
    x_shape: tuple[int, ...], x_dtype: str = "int16", center: bool = True, requantized: bool = True
) -> Graph:
    """NormalizeInteger over the last axis, with channels' factors and terms behind it."""
    rng = np.random.default_rng(0)
    x = codes("x", x_dtype, *x_shape)
    y: Op = NormalizeInteger(x, (len(x_shape) - 1,), 0.5, center)
    if requantized:
        width, shift = x_shape[-1], 50
        multipliers = Constant(rng.integers(2**25, 2**26, width).astype(np.int32))
        offsets = Constant(rng.integers(100, 150, width) << shift)
        y = Requantize((y,), (multipliers,), offsets, shift, quantization("uint8"))
    return Graph((x,), {"y": y})


def attention(
    tokens: tuple[int, int],
    widths: tuple[int, int],
    heads: int = 2,
    batch: int = 1,
    dtypes: tuple[str, str] = ("int8", "uint8"),
    mask: tuple[int, ...] | None = None,
    requantized: bool = True,
) -> Graph:
    """Attention of (queries, keys) and (elements of a key, of a value); dtypes: query, codes."""
    rng = np.random.default_rng(0)
    (m, n), (d, e) = tokens, widths
    q, k, v = (
        codes(name, dtype, batch, rows, heads, width)
        for name, dtype, rows, width in (
            ("q", dtypes[0], m, d),
            ("k", "int8", n, d),
            ("v", "int8", n, e),
        )
    )
    scores = MatMulInteger(Transpose(q, (0, 2, 1, 3)), Transpose(k, (0, 2, 3, 1)))
    middle = 0 if dtypes[1] == "int8" else 128
    scale = int(60 * 2**40 / (75 * 128 * np.sqrt(d)))
    shared = requantize_all(scores, scale, middle, 40, dtypes[1])
    values = Constant(np.round(255 * np.exp(-0.03 * (255 - np.arange(256)))).astype(np.uint8))
    keep = None if mask is None else Constant(rng.integers(0, 4, mask) > 0)
    weights = Exponentials(shared, values, 3, keep)
    total = Reciprocal(ReduceSum(weights, (3,)))
    y: Op = Average(MatMulInteger(weights, Transpose(v, (0, 2, 1, 3))), total)
    if requantized:
        y = requantize_all(y, 2**28, 128, 49, "uint8")
    return Graph((q, k, v), {"y": Transpose(y, (0, 2, 1, 3))})


def requantize_all(x: Op, multiplier: int, middle: int, shift: int, dtype: str) -> Requantize:
    """One multiplier and one offset for all elements."""
    offset = Constant(np.array((middle << shift) + (1 << shift - 1), np.int64))
    factor = Constant(np.array(multiplier, np.int32))
    return Requantize((x,), (factor,), offset, shift, quantization(dtype))
