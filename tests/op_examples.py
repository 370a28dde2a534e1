"""Small examples of every op, for the tests that are generated from them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from example import Example, codes, constant, example, f32, given

from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.ops import (
    Abs,
    Acos,
    Acosh,
    Add,
    And,
    ArgMax,
    ArgMin,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Attention,
    Average,
    AveragePool,
    BatchNormalization,
    BitwiseAnd,
    Cast,
    Clip,
    Codes,
    Concat,
    Conv,
    ConvInteger,
    Cos,
    Cosh,
    Dequantize,
    Div,
    Divide,
    Elu,
    Equal,
    Erf,
    Exp,
    Expand,
    Exponentials,
    FakeQuantize,
    Floor,
    FloorDiv,
    Fused,
    Gather,
    GreaterEqual,
    HardSigmoid,
    HardSwish,
    IntegerLayerNorm,
    LeakyRelu,
    Log,
    Lookup,
    Map,
    MatMul,
    MatMulInteger,
    Maximum,
    MaxPool,
    Minimum,
    Mul,
    Normalize,
    NormalizeInteger,
    Not,
    Pad,
    Pow,
    Quantize,
    Reciprocal,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceSum,
    Relu,
    Remainder,
    Requantize,
    Reshape,
    Round,
    Scatter,
    ScatterReduce,
    Select,
    ShiftExponentials,
    ShiftGELU,
    Shiftmax,
    ShiftRight,
    Sigmoid,
    Sin,
    Sinh,
    Slice,
    Softmax,
    Sqrt,
    Sub,
    Table,
    Tan,
    Tanh,
    TopK,
    Transpose,
    Window,
)
from qcompiler.types import FLOAT, Quantization, TensorType

INF, NAN = float("inf"), float("nan")


def wide(*shape: int) -> Input:
    """What `ShiftRight` takes."""
    return given("int64", *shape, low=1 - 2**62, high=2**62 - 1)


def far_apart(*shape: int) -> Input:
    """Integers that differ by about 2^32."""
    return given("int64", *shape, low=-(2**33), high=2**33)


def _arithmetic() -> Iterator[Op]:
    for cls in (Add, Sub, Mul, Minimum, Maximum, GreaterEqual):
        yield cls(f32(2, 3), f32(2, 3))
        yield cls(given("int64", 2, 1, 4), given("int64", 3, 1))
        yield cls(given("int32", 5), Constant(np.array(-7, np.int32)))
    yield Equal(given("int64", 600, low=-2, high=2), given("int64", 600, low=-2, high=2))
    yield Equal(given("int16", 2, 1, 4, low=0, high=1), given("int16", 3, 1, low=0, high=1))
    yield And(given("bool", 2, 1, 4), given("bool", 3, 1))
    yield And(given("bool", 9), given("bool", 9))
    yield Not(given("bool", 9))
    yield Not(given("bool", 2, 3))
    for cls in (Minimum, Maximum, GreaterEqual):
        yield cls(far_apart(600), far_apart(600))
        yield cls(given("int16", 2, 1, 4), given("int16", 3, 1))
        yield cls(given("uint8", 7), given("uint8", 1))
    yield Div(f32(2, 3), f32(3, low=0.5))
    yield Div(f32(2, 1, 3), f32(2, 1, low=-3.0, high=-0.5))
    yield FloorDiv(given("int32", 40), given("int32", 40, low=1, high=9))
    yield FloorDiv(given("int64", 3, 40), given("int64", 3, 1, low=1))
    yield FloorDiv(given("int16", 40), Constant(np.array(7, np.int16)))
    yield ShiftRight(wide(4, 63), given("int64", 63, low=0, high=62))
    yield ShiftRight(given("int64", 50, low=-5, high=5), Constant(np.array(1, np.int64)))
    yield ShiftRight(wide(50), Constant(np.array(62, np.int64)))
    for dtype in (FLOAT, "int8", "int16", "int64", "bool"):
        yield Select(given("bool", 2, 1, 3), given(dtype, 4, 3), given(dtype))
    for dtype in ("int8", "int16", "uint16", "int32", "uint32", "int64"):
        yield Clip(given(dtype, 3, 20), 3, 100)
    yield Clip(f32(3, 5), 0.0, 6.0)
    yield Clip(f32(3, 5), high=1.5)
    yield Clip(f32(3, 5), low=-0.25)
    yield Clip(given("int16", 9))
    yield Clip(far_apart(600), -5, 1000)
    yield Cast(given("int64", 9, low=-(2**31), high=2**31 - 1), "int32")
    yield Cast(given("int32", 9, low=-128, high=127), "int8")
    yield Cast(given("uint8", 2, 3), "int64")
    yield Cast(given("int32", 9), FLOAT)
    yield Cast(f32(9, low=0, high=255), "uint8")
    yield Cast(given("bool", 9), "int32")
    yield Cast(f32(9), "float64")
    yield Floor(given(FLOAT, 9, special=(-0.0, 0.5, -0.5, 3.0, -3.0, INF, -INF)))
    yield Floor(given("float64", 2, 3))


def _functions() -> Iterator[Op]:
    for cls in (Relu, LeakyRelu, Elu, HardSigmoid, HardSwish, Sigmoid, Tanh, Erf, Exp, Abs):
        yield cls(f32(2, 3, 5, low=-20, high=20))
        yield cls(given(FLOAT, 9, special=(0.0, -0.0, 3.0, -3.0, 1e-6)))
    yield LeakyRelu(f32(9), 0.2)
    yield LeakyRelu(f32(9), -1.5)
    yield Elu(f32(9), 0.3)
    yield HardSigmoid(f32(9, low=-9, high=9), 1 / 6, 0.5)
    for positive in (Log, Sqrt):
        yield positive(f32(2, 3, low=1e-3, high=100))
        yield positive(f32(9, low=0.5, high=2))


def _elementary() -> Iterator[Op]:
    for cls in (Sin, Cos, Tan, Atan, Sinh, Cosh, Asinh):
        yield cls(f32(2, 3, 5, low=-1.5, high=1.5))
        yield cls(given(FLOAT, 9, special=(0.0, -0.0, 3.0, 1e-6)))
    for inverse in (Asin, Acos, Atanh):
        yield inverse(f32(2, 3, low=-0.99, high=0.99))
        yield inverse(f32(9, low=0, high=0.5))
    yield Acosh(f32(2, 9, low=1, high=9))
    yield Acosh(f32(9, low=2, high=1e6))
    yield Round(f32(40, low=-9, high=9))
    yield Round(given(FLOAT, 9, special=(-0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e9)))
    yield Pow(f32(2, 9, low=0.1), f32(9, low=-2, high=2))
    yield Pow(f32(9), Constant(np.array(2, FLOAT)))
    yield Pow(f32(9), Constant(np.array([-3], FLOAT)))
    yield Remainder(f32(2, 40), f32(2, 1, low=0.5))
    yield Remainder(f32(40), Constant(np.array(-0.3, FLOAT)))
    for dtype in ("uint8", "int8", "int16", "uint32", "int64"):
        yield BitwiseAnd(given(dtype, 2, 40), given(dtype, 2, 1))


def _order() -> Iterator[Op]:
    for dtype in ("int16", "int64", FLOAT):
        few = {} if dtype == FLOAT else {"low": 0, "high": 5}
        yield ReduceMax(given(dtype, 2, 3, 40), (2,))
        yield ReduceMin(given(dtype, 2, 3, 4), (0, 1))
        yield ArgMax(given(dtype, 2, 3, 20, **few), 2)
        yield ArgMax(given(dtype, 2, 20, 3, **few), 1, last=True)
        yield ArgMin(given(dtype, 2, 20, 3, **few), 1)
        yield TopK(given(dtype, 3, 20, **few), 1, 5)
        yield TopK(given(dtype, 20, 2, **few), 0, 20, largest=False)
        for reduction in ("none", "min", "max", "add", "mul"):
            kind = ScatterReduce if reduction in ("add", "mul") else Scatter
            low, high = (0, 9) if dtype == "int64" else (None, None)
            values = [given(dtype, n, 3, low=low, high=high) for n in (5, 9)]
            yield kind(values[0], given("int64", 9, low=-2, high=6), values[1], reduction)
    yield Scatter(codes("uint8", 40), Constant(np.array([3, 3, 0])), codes("uint8", 3))


def _windows(kernel: tuple[int, int]) -> list[Window]:
    return [
        Window(kernel),
        Window(kernel, (2, 1), (1, 1, 1, 1)),
        Window(kernel, (1, 2), (0, 1, 1, 2), (2, 1)),
    ]


def _real() -> Iterator[Op]:
    for window in _windows((3, 3)):
        yield Conv(f32(2, 3, 7, 8), f32(4, 3, 3, 3), f32(4), window)
        yield Conv(f32(1, 4, 7, 7), constant(FLOAT, 8, 2, 3, 3), None, window, groups=2)
        yield Conv(f32(1, 3, 7, 7), constant(FLOAT, 6, 1, 3, 3), f32(6), window, groups=3)
    for window in _windows((2, 3)):
        yield AveragePool(f32(2, 3, 7, 8), window)
        yield MaxPool(f32(2, 3, 7, 8), window)
    beyond = Window((2, 2), (1, 2), (2, 0, 1, 3), (3, 4))  # padding beyond the kernel's size
    yield AveragePool(f32(2, 3, 7, 8), beyond)
    yield MaxPool(f32(2, 3, 7, 8), beyond)
    yield MaxPool(given("int8", 2, 3, 7, 8), beyond)
    yield Conv(f32(2, 3, 4, 4), f32(5, 3, 1, 1), None, Window((1, 1)))
    yield MatMul(f32(2, 3), f32(3, 4), f32(4))
    yield MatMul(f32(2, 1, 5, 3), f32(4, 3, 2))
    yield MatMul(f32(3, 3), constant(FLOAT, 2, 3, 1))
    for shape in ((2, 3, 4, 4), (5, 3)):
        gamma, beta, mean, variance = f32(3), f32(3), f32(3), f32(3, low=0.1)
        yield BatchNormalization(f32(*shape), gamma, beta, mean, variance, epsilon=1e-3)
    yield ReduceMean(f32(2, 3, 4, 5), (2, 3))
    yield ReduceMean(f32(2, 3), (0,))
    yield Softmax(f32(2, 3, 4, low=-50, high=50), 2)
    yield Softmax(f32(2, 3, 4), 1)


def _integer() -> Iterator[Op]:
    for window, last in itertools.product(_windows((3, 3)), (False, True)):

        def image(channels: int, last: bool = last) -> tuple[int, ...]:
            return (2, 7, 8, channels) if last else (2, channels, 7, 8)

        x, bias = codes("uint8", *image(3), zero=7), constant("int32", 4)
        small = Constant(bias.array // 2)
        yield ConvInteger(x, constant("int8", 4, 3, 3, 3), small, window, 1, last)
        x = codes("int8", *image(4))
        yield ConvInteger(x, given("int8", 6, 2, 3, 3), None, window, 2, last)
        x = given("uint8", *image(3))
        yield ConvInteger(x, constant("int8", 6, 1, 3, 3), None, window, 3, last)
        for dtype in ("uint8", "int8", "int16", "int32", "int64"):
            yield MaxPool(given(dtype, *image(3)), window, last)
    yield MatMulInteger(codes("uint8", 3, 300, zero=9), constant("int8", 300, 5, quantization=True))
    yield MatMulInteger(given("uint8", 2, 1, 5, 70), given("int8", 3, 70, 4))
    yield MatMulInteger(
        given("int8", 2, 2, 5, 70), given("int8", 70, 4), given("int32", 4, low=-9, high=9)
    )
    for dtype, axes in (("int8", (1,)), ("uint16", (0, 2)), ("int16", (2,))):
        yield ReduceSum(given(dtype, 2, 3, 40), axes)
    yield ReduceSum(codes("int24", 2, 3, 40), (2,))
    yield ReduceSum(given("int16", 2, 3, 40), (1, 2), "int64")
    yield Lookup(given("int32", 2, 30, low=0, high=255), constant("int8", 256))
    yield Lookup(given("int32", 30, low=0, high=8), given("int16", 9))


def _movement() -> Iterator[Op]:
    for dtype in ("uint8", "int16", "int32", FLOAT):
        x = [given(dtype, 2, 3, 4) for _ in range(7)]
        yield Reshape(x[0], (4, 1, 6))
        yield Transpose(x[1], (2, 0, 1))
        yield Slice(x[2], (0, 1, 0), (2, 3, 4), (1, 1, 3))
        yield Pad(x[3], (0, 1, 0), (2, 0, 3), 5)
        yield Expand(given(dtype, 3, 1), (2, 3, 4))
        yield Concat((x[4], given(dtype, 2, 1, 4), x[5]), 1)
    for dtype in ("int8", "int16", FLOAT):
        yield Gather(given(dtype, 9, 4), given("int64", 2, 3, low=0, high=8))
        yield Gather(constant(dtype, 9, 2, 2), given("int32", 30, low=-20, high=20))
        yield Gather(given(dtype, 2, 5, 3), given("int64", 2, 2, low=0, high=4), 1)
        yield Gather(given(dtype, 2, 5), constant("int64", 4), 1)
    yield Pad(codes("uint8", 1, 2, 3, 3, zero=128), (0, 0, 1, 1), (0, 0, 1, 1), 128)
    yield Reshape(given("int8"), (1, 1))
    yield Expand(given("int8"), (2, 2))
    channels = Quantization("int8", (0.1, 0.2, 0.3), (0, 1, -2), 1)
    yield Transpose(given("int8", 2, 3, 4, quantization=channels), (1, 2, 0))


def _quantized() -> Iterator[Op]:
    scale = 0.05
    ties = tuple((k + 0.5) * scale for k in (-3, -2, -1, 0, 1, 2, 100, 127))
    special = (NAN, INF, -INF, 0.0, -0.0, 3e38, -3e38, 1e-40, *ties)
    for storage, zero in (
        ("uint8", 128), ("uint8", 0), ("int8", -3), ("int16", 0), ("uint16", 70), ("int6", 1),
        ("uint4", 15), ("int32", 5), ("int24", 0), ("uint32", 9),
    ):  # fmt: skip
        q = Quantization.per_tensor(storage, scale, zero)
        yield Quantize(given(FLOAT, 3, 40, low=-30, high=30, special=special), q)
        yield Dequantize(codes(storage, 3, 40, scale=scale, zero=zero))
    q = Quantization("uint8", (0.01, 0.02, 0.3), (0, 128, 255), 1)
    yield Quantize(given(FLOAT, 2, 3, 9, special=special), q)
    yield Dequantize(given("uint8", 2, 3, 9, quantization=q))
    for kept in (q, Quantization.per_tensor("int4", 0.5, -3)):
        yield FakeQuantize(given(FLOAT, 2, 3, 9, special=special), kept)
        yield Codes(given(FLOAT, 2, 3, 9, special=special), kept)


def _requantize() -> Iterator[Op]:
    half = 1 << 30
    for storage in ("uint8", "int8", "int16", "int5", "int32"):
        q = Quantization.per_tensor(storage, 0.1, 3)
        m = Constant(np.array([half + 1, -half, 0, 12345], np.int32))
        offset = Constant(np.array([half, half, -half, 1 << 45], np.int64))
        yield Requantize((given("int32", 2, 30, 4),), (m,), offset, 31, q)
    q = Quantization.per_tensor("int16", 0.1)
    one, many = Constant(np.array(1 << 20, np.int32)), Constant(np.full((3, 1), -77, np.int32))
    rounding = Constant(np.array(1 << 19, np.int64))
    inputs = (given("int8", 2, 3, 9), given("int32", 3, 9))
    yield Requantize(inputs, (one, many), rounding, 20, q, low=0)
    yield Requantize((given("uint16", 2, 9),), (one,), rounding, 1, q, low=-5, high=1000)
    yield Requantize((given("int8", 2, 9),), (one,), rounding, 62, q)
    for dtype, result in (("uint8", "int8"), ("int8", "uint8"), ("int8", "int16")):
        meaning = Quantization.per_tensor(result, 0.1)
        yield Table(given(dtype, 3, 100), constant(result, 256, seed=3), meaning)
        rows = Constant(np.array([512, 0, 256], np.int32))
        yield Table(given(dtype, 40, 3), constant(result, 768, seed=4), meaning, rows)
    for dtype, result in (("int16", "uint8"), ("uint16", "int16"), ("int16", "int64")):
        yield Table(given(dtype, 3, 100), constant(result, 1 << 16, seed=3))
    rows = Constant(np.array([1 << 16, 0, 0], np.int32))
    meaning = Quantization.per_tensor("int16", 0.1)
    yield Table(given("int16", 40, 3), constant("int16", 1 << 17, seed=4), meaning, rows)


def _divide() -> Iterator[Op]:
    for storage, shift, zero in (("int16", 10, 0), ("uint8", 42, 128), ("int8", 0, -3)):
        q = Quantization.per_tensor(storage, 0.1, zero)
        m = Constant(np.array((1 << 29) - 1, np.int32))
        yield Divide(codes("int16", 3, 40), codes("int16", 3, 40), m, shift, q)
        small = codes("uint8", 3, 1, zero=3)
        yield Divide(codes("uint16", 3, 40, zero=9), small, m, shift, q)


def _normalizations() -> Iterator[Op]:
    for dtype, low, high in (("int16", None, None), ("int16", -3, 4), ("uint8", None, None)):
        for center, epsilon in ((True, 0.0), (True, 1e-3), (False, 70.0)):
            x = given(dtype, 4, 48, low=low, high=high)
            yield NormalizeInteger(x, (1,), epsilon, center)
    yield NormalizeInteger(given("int8", 2, 3, 4, 5), (2, 3), 0.5)
    yield NormalizeInteger(given("int16", 2, 4096), (1,), 0.5)  # drops bits
    yield NormalizeInteger(given("int16", 9, 1), (1,), 0.0)
    yield IntegerLayerNorm(given("int16", 4, 48, low=-300, high=300), (1,), 0.5)
    yield IntegerLayerNorm(given("int8", 2, 3, 4, 5), (2, 3), 0.0)
    yield IntegerLayerNorm(given("int16", 2, 4096), (1,), 70.0, center=False)
    yield Normalize(f32(2, 3, 16), (2,), 1e-5)
    yield Normalize(f32(2, 3, 16), (1, 2), 1e-5, center=False)


def _softmax() -> Iterator[Op]:
    shrinking = np.exp((np.arange(256) - 255) * 0.05)
    narrow = Constant(np.round(shrinking * 255).astype(np.uint8))
    wide = Constant(np.round(shrinking * 32767).astype(np.int16))
    yield Exponentials(given("uint8", 2, 3, 20), narrow, 2)
    yield Exponentials(given("int8", 2, 30, 4), wide, 1)
    yield Exponentials(given("uint8", 2, 3, 20), narrow, 2, given("bool", 2, 1, 20))
    yield Exponentials(given("int8", 2, 3, 20), narrow, 2, given("bool", 20))
    for cls in (ShiftExponentials, Shiftmax):
        yield cls(codes("uint8", 2, 3, 20, scale=0.05, zero=9), 2)
        yield cls(codes("int8", 2, 30, 4, scale=0.7), 1, n=9)
        yield cls(codes("int8", 2, 3, 20), 2, given("bool", 2, 1, 20))
    yield Shiftmax(codes("uint8", 3, 197), 1, storage="int8")
    yield ShiftGELU(codes("uint8", 2, 3, 20, scale=0.05, zero=128), 2)
    yield ShiftGELU(codes("int8", 2, 30, 4, scale=0.9), 1)
    yield ShiftGELU(codes("int8", 9, scale=0.01), 0, 23)
    channels = Quantization("int8", (0.1, 0.025, 0.4), (0, 0, 0), 1)
    yield ShiftGELU(given("int8", 5, 3, quantization=channels), 1)
    yield Reciprocal(given("int32", 40, low=0, high=50_000))
    yield Reciprocal(given("int32", 3, 40, 1, low=0))
    weighted = given("int32", 3, 9, low=-128 * 1000, high=128 * 1000)
    yield Average(weighted, given("int64", 3, 1, low=0, high=2**46 // 1000))
    yield Average(given("int32", 9, low=0, high=255), given("int64", low=1, high=2**46 // 255))
    yield Softmax(f32(2, 3, 4), 2, given("bool", 3, 4))
    yield Softmax(f32(2, 3, 4, low=-50, high=50), 1, given("bool", 2, 1, 1))


def _region(build: Callable[..., Op], *types: TensorType) -> Graph:
    inputs = tuple(Input(t, name=f"r{i}") for i, t in enumerate(types))
    return Graph(inputs, {"y": build(*inputs)}, "region")


def _regions() -> Iterator[Op]:
    x = f32(2, 3)
    yield Map(x, _region(lambda v: Mul(v, Sigmoid(v)), x.type))
    x = f32(9)
    cube = _region(lambda v: Tanh(Add(Mul(Mul(v, v), v), Constant(np.array(1, FLOAT)))), x.type)
    yield Map(x, cube)
    a, b = codes("uint8", 4, 30), codes("int8", 4, 30)
    q = Quantization.per_tensor("int16", 0.1)
    m, offset = Constant(np.array(3 << 20, np.int32)), Constant(np.array(1 << 20, np.int64))
    region = _region(lambda a, b: Requantize((a, b), (m, m), offset, 21, q), a.type, b.type)
    yield Fused((a, b), region)
    a = codes("uint8", 5, 70)
    product = MatMulInteger  # with its epilogue, as one kernel
    weight, meaning = constant("int8", 70, 4), Quantization.per_tensor("uint8", 0.1, 3)
    region = _region(lambda v: Requantize((product(v, weight),), (m,), offset, 30, meaning), a.type)
    yield Fused((a,), region)


def _attention() -> Iterator[Op]:
    table = Constant(np.round(255 * np.exp((np.arange(256) - 255) * 0.05)).astype(np.uint8))
    meaning = Quantization.per_tensor("int8", 0.05)
    m, offset = Constant(np.array(1 << 20, np.int32)), Constant(np.array(1 << 29, np.int64))
    q, k, v = given("int8", 2, 5, 8), given("int8", 2, 8, 7), given("int8", 2, 7, 3)
    scores = TensorType("int32", (2, 5, 7))
    region = _region(lambda s: Requantize((s,), (m,), offset, 30, meaning), scores)
    yield Attention(q, k, v, table, region)
    bias = given("int16", 5, 7)
    region = _region(
        lambda s, b: Requantize((s, b), (m, m), offset, 30, meaning), scores, bias.type
    )
    yield Attention(q, k, v, table, region, (bias,), given("bool", 2, 1, 7))


def examples() -> list[Example]:
    """At least two examples of every op of `qcompiler.ops`."""
    families = (
        _arithmetic, _functions, _elementary, _order, _real, _integer, _movement, _quantized,
        _requantize, _divide, _normalizations, _softmax, _regions,
        _attention,
    )  # fmt: skip
    counts: dict[str, int] = {}
    found = []
    for node in (node for family in families for node in family()):
        counts[node.kind()] = counts.get(node.kind(), 0) + 1
        found.append(example(f"{node.kind()}-{counts[node.kind()]}", node))
    return found
