"""Generated convolutions and products for the CPU kernels, with what numpy says they give."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from qcompiler.backends.cpu.kernels.requantize import load_vector, requantized
from qcompiler.backends.tvm.problem import Conv2d, Epilogue, Matmul, TableEnd, Vector
from qcompiler.graph import Input
from qcompiler.ops import Requantize, scalar
from qcompiler.types import Quantization, TensorType

RAW = Epilogue((), "int32", lambda acc, buffers, index: acc)


def conv_reference(p: Conv2d, x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    n, oh, ow, o = p.out_shape
    top, left, bottom, right = p.pads
    x = np.pad(x.astype(np.int64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    acc = np.zeros((n, oh, ow, o), np.int64) + bias
    cg, og = p.x_shape[3] // p.groups, o // p.groups
    for ky in range(p.kernel[0]):
        for kx in range(p.kernel[1]):
            y0, x0 = ky * p.dilations[0], kx * p.dilations[1]
            seen = x[:, y0 :: p.strides[0], x0 :: p.strides[1]][:, :oh, :ow]
            for g in range(p.groups):
                part = w[g * og : (g + 1) * og, :, ky, kx].astype(np.int64)
                acc[..., g * og : (g + 1) * og] += seen[..., g * cg : (g + 1) * cg] @ part.T
    return acc.astype(np.int32)


def reference(
    problem: Conv2d | Matmul, x: np.ndarray, w: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """The int32 accumulators, wrapped around where they overflow."""
    if isinstance(problem, Conv2d):
        return conv_reference(problem, x, w, bias)
    return (x.astype(np.int64) @ w.astype(np.int64) + bias).astype(np.int32)


def codes(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, extreme: bool = False
) -> np.ndarray:
    info = np.iinfo(dtype)
    if extreme:
        return rng.choice(np.array([info.min, info.max], dtype), shape)
    return rng.integers(info.min, info.max + 1, shape, dtype)


def weight_shape(problem: Conv2d | Matmul) -> tuple[int, ...]:
    if isinstance(problem, Matmul):
        return problem.x_shape[-1], problem.out_features
    depth = problem.x_shape[3] // problem.groups
    return problem.out_channels, depth, *problem.kernel


def any_conv(rng: np.random.Generator) -> Conv2d:
    """A small convolution with odd everything."""
    kernel, strides, dilations = (tuple(map(int, rng.integers(1, e, 2))) for e in (5, 4, 3))
    pads = tuple(map(int, rng.integers(0, 4, 4)))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    n, h, w = (int(v) for v in rng.integers([1, *reach], [10, 20, 20]))
    groups = int(rng.choice([1, 1, 2, 5]))
    c, o = (groups * int(v) for v in rng.integers(1, [20, 40]))
    dtype = str(rng.choice(["uint8", "int8"]))
    return Conv2d((n, h, w, c), dtype, o, kernel, strides, pads, dilations, groups)


def any_matmul(rng: np.random.Generator) -> Matmul:
    """A product of a batch of 1…9 with odd everything."""
    batch, m, k, n = (int(v) for v in rng.integers(1, [10, 75, 300, 150]))
    shape = (batch, m, k) if rng.random() < 0.7 else (m, k)
    return Matmul(shape, str(rng.choice(["uint8", "int8"])), n)


@dataclass(frozen=True)
class Case:
    """A kernel's problem, its arrays and the result.

    Attributes:
        problem: The convolution or product.
        epilogue: What follows it.
        x: Codes.
        weight: int8, as `pack` takes it.
        bias: int32.
        operands: Of the epilogue.
        expected: The output.
    """

    problem: Conv2d | Matmul
    epilogue: Epilogue
    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    operands: tuple[np.ndarray, ...]
    expected: np.ndarray


def any_case(seed: int) -> Case:
    """A generated problem whose accumulators are stored, requantized, or looked up after that."""
    rng = np.random.default_rng(seed)
    problem = any_conv(rng) if seed % 2 else any_matmul(rng)
    end = (raw_case, requantized_case, vector_case, table_case, codes_case)[seed // 2 % 5]
    return end(problem, rng, extreme=seed % 5 == 4)


def raw_case(problem: Conv2d | Matmul, rng: np.random.Generator, extreme: bool = False) -> Case:
    x = codes(rng, problem.x_shape, problem.x_dtype, extreme)
    w = codes(rng, weight_shape(problem), "int8", extreme)
    bias = rng.integers(-(2**31), 2**31, problem.out_shape[-1], dtype=np.int32)
    return Case(problem, RAW, x, w, bias, (), reference(problem, x, w, bias))


def requantized_case(
    problem: Conv2d | Matmul, rng: np.random.Generator, extreme: bool = False
) -> Case:
    """clamp((acc·multiplier + offset) >> shift) as int8 or uint8."""
    x = codes(rng, problem.x_shape, problem.x_dtype, extreme)
    w = codes(rng, weight_shape(problem), "int8", extreme)
    o = problem.out_shape[-1]
    bias = rng.integers(-(2**12), 2**12, o, dtype=np.int32)
    acc = reference(problem, x, w, bias).astype(np.int64)
    multiplier, offset, shift = _rescale(rng, acc)
    dtype = str(rng.choice(["int8", "uint8"]))
    info = np.iinfo(dtype)
    operands = (multiplier, offset, shift)

    def value(acc: Any, buffers: list[Any], index: tuple[Any, ...]) -> Any:
        m, z, k = buffers
        wide = T.cast(acc, "int64") * T.cast(m[index[-1]], "int64") + z[index[-1]] >> k[()]
        return T.cast(T.min(T.max(wide, T.int64(info.min)), T.int64(info.max)), dtype)

    expected = np.clip((acc * multiplier + offset) >> shift, info.min, info.max).astype(dtype)
    return Case(problem, _epilogue(operands, dtype, value), x, w, bias, operands, expected)


def vector_case(problem: Conv2d | Matmul, rng: np.random.Generator, extreme: bool = False) -> Case:
    """As `requantized_case`, by the epilogue on vectors where the width allows it."""
    case = requantized_case(problem, rng, extreme)
    info = np.iinfo(case.epilogue.dtype)
    vector = _on_vectors(int(info.min), int(info.max), case.epilogue.dtype)
    return replace(case, epilogue=replace(case.epilogue, vector=vector))


def table_case(problem: Conv2d | Matmul, rng: np.random.Generator, extreme: bool = False) -> Case:
    """table[clamp((acc·multiplier + offset + residual·multiplier) >> shift)]."""
    x = codes(rng, problem.x_shape, problem.x_dtype, extreme)
    w = codes(rng, weight_shape(problem), "int8", extreme)
    o = problem.out_shape[-1]
    bias = rng.integers(-(2**12), 2**12, o, dtype=np.int32)
    acc = reference(problem, x, w, bias).astype(np.int64)
    multiplier, offset, shift = _rescale(rng, acc)
    residual_multiplier = np.array((1 << int(shift) - 1) // 3 % 2**31, np.int32)
    residual = rng.integers(-300, 300, problem.out_shape, dtype=np.int16)
    table = rng.permutation(256).astype(np.uint8)
    operands = (multiplier, offset, shift, residual, residual_multiplier, table)

    def value(acc: Any, buffers: list[Any], index: tuple[Any, ...]) -> Any:
        return buffers[5][place(acc, buffers, index)]

    def place(acc: Any, buffers: list[Any], index: tuple[Any, ...]) -> Any:
        m, z, k, r, rm, _ = buffers
        wide = T.cast(acc, "int64") * T.cast(m[index[-1]], "int64")
        wide = wide + T.cast(r[index], "int64") * T.cast(rm[()], "int64")
        code = T.min(T.max(wide + z[index[-1]] >> k[()], T.int64(-128)), T.int64(127))
        return T.cast(code, "int32") + 128

    total = acc * multiplier + residual.astype(np.int64) * residual_multiplier + offset
    expected = table[np.clip(total >> shift, -128, 127) + 128]
    epilogue = replace(_epilogue(operands, "uint8", value), table=TableEnd(5, place))
    return Case(problem, epilogue, x, w, bias, operands, expected)


def codes_case(problem: Conv2d | Matmul, rng: np.random.Generator, extreme: bool = False) -> Case:
    """table[clamp((acc·multiplier + offset) >> shift)], the codes on vectors where possible."""
    case = requantized_case(problem, rng, extreme)
    info = np.iinfo(case.epilogue.dtype)
    table = rng.permutation(256).astype(np.int8)
    operands = (*case.operands, table)
    low = int(info.min)

    def value(acc: Any, buffers: list[Any], index: tuple[Any, ...]) -> Any:
        return buffers[3][place(acc, buffers, index)]

    def place(acc: Any, buffers: list[Any], index: tuple[Any, ...]) -> Any:
        return T.cast(case.epilogue.value(acc, buffers[:3], index), "int32") - low

    plain = _on_vectors(low, int(info.max), case.epilogue.dtype)

    def codes(sums: Any, buffers: list[Any], place: tuple[Any, ...], lanes: int) -> Any:
        found = T.reinterpret(f"uint8x{lanes}", plain(sums, buffers[:3], place, lanes))
        return found ^ T.broadcast(T.uint8(-low), lanes)

    epilogue = replace(_epilogue(operands, "int8", value), table=TableEnd(3, place, codes))
    expected = table[case.expected.astype(np.int32) - low]
    return replace(case, epilogue=epilogue, operands=operands, expected=expected)


def _on_vectors(low: int, high: int, dtype: str) -> Vector:
    sums, multiplier = Input(TensorType("int32", (1,))), scalar(1, "int32")
    q = Quantization.per_tensor(dtype, 1.0)
    how = Requantize((sums,), (multiplier,), scalar(0, "int64"), 40, q, low, high)

    def vector(sums: Any, buffers: list[Any], place: tuple[Any, ...], lanes: int) -> Any:
        multiplier, offset, shift = buffers
        return requantized(
            how,
            [sums],
            [load_vector(multiplier, place, "int32", lanes)],
            load_vector(offset, place, "int64", lanes),
            T.cast(shift[()], "int32"),
            lanes,
        )

    return vector


def _rescale(
    rng: np.random.Generator, acc: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Multipliers of either sign, offsets and a shift that bring accumulators to about ±200."""
    o = acc.shape[-1]
    multiplier = rng.integers(2**29, 2**30, o, dtype=np.int32) * rng.choice([-1, 1], o)
    largest = max(int(np.abs(acc).max()), 200)
    shift = 31 + (largest // 200).bit_length()
    offset = rng.integers(-(2 ** (shift + 7)), 2 ** (shift + 7), o)
    return multiplier.astype(np.int32), offset, np.array(shift, np.int64)


def _epilogue(operands: tuple[np.ndarray, ...], dtype: str, value: Any) -> Epilogue:
    return Epilogue(tuple((v.shape, str(v.dtype)) for v in operands), dtype, value)
