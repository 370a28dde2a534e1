"""Depthwise convolutions and requantization on vectors, bit for bit, on every instruction set."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("tvm")

from x86 import X86

from qcompiler.artifact import CompiledModel
from qcompiler.backends.cpu.build import build
from qcompiler.backends.cpu.kernels import ISAS, Isa
from qcompiler.backends.cpu.kernels.strips import pack_depthwise, strips
from qcompiler.backends.targets import target
from qcompiler.backends.tvm.problem import Conv2d
from qcompiler.errors import TargetError
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import ConvInteger, MatMulInteger, Requantize, Table, Window
from qcompiler.passes import Fuse
from qcompiler.types import Quantization, TensorType

CODES = {
    "uint8": Quantization.per_tensor("uint8", 0.1, 3),
    "int8": Quantization.per_tensor("int8", 0.1),
    "int16": Quantization.per_tensor("int16", 0.01),
    "uint4": Quantization.per_tensor("uint4", 0.2, 7),
}


def codes(
    rng: np.random.Generator, dtype: str, shape: tuple[int, ...], extreme: bool
) -> np.ndarray:
    info = np.iinfo(dtype)
    if extreme:
        return rng.choice(np.array([info.min, info.max], dtype), shape)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def depthwise(
    rng: np.random.Generator,
    shape: tuple[int, int, int, int],
    window: Window,
    dtype: str = "uint8",
    extreme: bool = False,
) -> ConvInteger:
    x, channels = Input(TensorType(dtype, shape, CODES[dtype]), name="x"), shape[3]
    weight = Constant(codes(rng, "int8", (channels, 1, *window.kernel), extreme))
    bias = Constant(rng.integers(-9999, 9999, channels, dtype=np.int32))
    return ConvInteger(x, weight, bias, window, channels, channels_last=True)


def requantized(
    rng: np.random.Generator, *inputs: Op, q: str = "uint8", shift: int = 40
) -> Requantize:
    """Codes of all sizes; multipliers of both signs, one per channel or one for all."""
    channels = inputs[0].type.shape[-1]
    sizes = (channels, *((),) * (len(inputs) - 1))
    bits = CODES[q].bounds.bits
    high = 2 ** min(shift - 20 + bits, 30)
    multipliers = tuple(
        Constant(np.asarray(rng.integers(high // 8, high, size) * _signs(size), np.int32))
        for size in sizes
    )
    offset = Constant(rng.integers(0, 2 ** (shift + bits - 1), channels))
    return Requantize(inputs, multipliers, offset, shift, CODES[q])


def _signs(size: int | tuple[()]) -> np.ndarray | int:
    return 1 if size == () else np.where(np.arange(size) % 5 == 3, -1, 1)


def check(graph: Graph, name: str, implementation: str, seed: int = 0) -> CompiledModel:
    """The compiled graph gives the reference's bits, with a kernel of that implementation."""
    model = build(Fuse()(graph), target(name))
    found = {k.implementation for k in model.metadata.kernels}
    assert implementation in found, found
    try:
        model.runner  # noqa: B018
    except TargetError:
        pytest.skip(f"this CPU cannot run {name}")
    rng = np.random.default_rng(seed)
    feeds = {
        str(x.name): codes(rng, x.type.dtype, x.type.shape, seed % 2 == 1) for x in graph.inputs
    }
    expected, results = evaluate(graph, feeds), model(feeds)
    for output, value in expected.items():
        assert len(np.unique(value)) > 1, f"{graph}: a test that sees nothing"
        np.testing.assert_array_equal(results[output], value, str(graph))
    return model


def any_depthwise(rng: np.random.Generator, extreme: bool) -> ConvInteger:
    kernel, strides = (tuple(map(int, rng.integers(1, e, 2))) for e in (8, 4))
    pads = tuple(int(rng.integers(0, kernel[i % 2] + 1)) for i in range(4))
    size = [int(rng.integers(k, 15)) for k in kernel]
    shape = (int(rng.integers(1, 10)), *size, int(rng.integers(16, 70)))
    window = Window(kernel, strides, pads)  # type: ignore[arg-type]
    return depthwise(rng, shape, window, str(rng.choice(["uint8", "int8"])), extreme)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("name", X86)
def test_generated_depthwise(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    conv = any_depthwise(rng, seed % 2 == 1)
    graph = Graph((conv.x,), {"sums": conv, "codes": requantized(rng, conv)})
    check(graph, name, "cpu depthwise", seed)


@pytest.mark.parametrize("name", X86)
def test_depthwise_with_residual_and_table(name: str) -> None:
    rng = np.random.default_rng(3)
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    conv = depthwise(rng, (2, 40, 41, 48), window, extreme=True)
    y = Input(TensorType("int16", conv.type.shape, CODES["int16"]), name="y")
    summed = requantized(rng, conv, y, q="int16", shift=41)
    check(Graph((conv.x, y), {"z": summed}), name, "cpu depthwise")
    values = Constant(codes(rng, "int8", (256,), False))
    table = Table(requantized(rng, conv), values, CODES["int8"])
    check(Graph((conv.x,), {"z": table}), name, "cpu depthwise")


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((1, 9, 9, 3), Window((3, 3))),
        ((1, 9, 9, 32), Window((3, 3), dilations=(2, 2))),
    ],
)
def test_other_depthwise_convolutions_take_the_general_kernel(
    shape: tuple[int, int, int, int], window: Window
) -> None:
    conv = depthwise(np.random.default_rng(0), shape, window)
    check(Graph((conv.x,), {"z": conv}), "cpu", "cpu product")


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("outputs", [1, 2, 10, 16, 33, 64, 130])
def test_requantized_products(name: str, outputs: int) -> None:
    rng = np.random.default_rng(outputs)
    for q, dtype, shift in (("uint8", "uint8", 40), ("int16", "int8", 32), ("uint4", "uint8", 41)):
        x = Input(TensorType(dtype, (3, 5, 30), CODES[dtype]), name="x")
        weight = Constant(codes(rng, "int8", (30, outputs), extreme=q == "int16"))
        bias = Constant(rng.integers(-(2**12), 2**12, outputs, dtype=np.int32))
        product = MatMulInteger(x, weight, bias)
        z = requantized(rng, product, q=q, shift=shift)
        y = Input(TensorType("int16", z.type.shape, CODES["int16"]), name="y")
        both = requantized(rng, product, y, q=q, shift=shift)
        check(Graph((x, y), {"z": z, "both": both}), name, "cpu product")
        check(Graph((x, y), {"both": both}), name, "cpu product", seed=1)


@pytest.mark.parametrize("shift", [1, 24, 31, 32, 33, 55, 62])
def test_every_shift(shift: int) -> None:
    rng = np.random.default_rng(shift)
    x = Input(TensorType("uint8", (7, 20), CODES["uint8"]), name="x")
    product = MatMulInteger(x, Constant(codes(rng, "int8", (20, 32), False)))
    z = Requantize(
        (product,),
        (Constant(rng.integers(-(2 ** min(shift, 30)), 2 ** min(shift, 30), 32, dtype=np.int32)),),
        Constant(rng.integers(-(2**61), 2**61, 32) >> (62 - min(shift + 8, 62))),
        shift,
        CODES["int16"],
    )
    check(Graph((x,), {"z": z}), "cpu", "cpu product")


def test_products_whose_shifts_need_other_code_do_not_share_a_kernel() -> None:
    rng = np.random.default_rng(0)
    x = Input(TensorType("uint8", (9, 16), CODES["uint8"]), name="x")
    h: Op = x
    for shift in (36, 24, 37):
        product = MatMulInteger(h, Constant(codes(rng, "int8", (16, 16), False)))
        z = requantized(rng, product, shift=36)
        h = dataclasses.replace(
            z,
            shift=shift,
            multipliers=(Constant(rng.integers(1, 2 ** (shift - 12), 16, dtype=np.int32)),),
        )
    model = check(Graph((x,), {"z": h}), "cpu", "cpu product")
    assert [len(k.ops) for k in model.metadata.kernels] == [2, 1]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("isa", [i for i in ISAS if i.pixels == 1 and i.group > 1], ids=str)
def test_packed_weights_add_up_for_dots_of_either_sign(isa: Isa, dtype: str) -> None:
    """What the registers multiply, in numpy: also for CPUs that are not here."""
    rng = np.random.default_rng(0)
    conv = Conv2d((1, 9, 1, isa.lanes), dtype, isa.lanes, (5, 1), groups=isa.lanes)
    plan = strips(conv, isa)
    assert plan is not None
    weight = codes(rng, "int8", (isa.lanes, 1, 5, 1), False)
    bias = rng.integers(-99, 99, isa.lanes, dtype=np.int32)
    packed, start = pack_depthwise(plan, weight, bias)
    x = codes(rng, dtype, (plan.registers * isa.group, isa.lanes), False).astype(np.int64)
    seen = x
    if plan.flips_sign:
        seen = (x.astype(dtype).view(np.uint8) ^ 0x80).view(isa.takes).astype(np.int64)
    for row in range(plan.rows):
        dots = packed[0, 0, row].reshape(-1, isa.lanes, isa.group).astype(np.int64)
        lanes = seen.reshape(-1, isa.group, isa.lanes).transpose(0, 2, 1)
        found = (dots * lanes).sum((0, 2)) + start[0]
        taps = x[row : row + 5] * weight[:, 0, :, 0].T
        np.testing.assert_array_equal(found, taps.sum(0) + bias)
