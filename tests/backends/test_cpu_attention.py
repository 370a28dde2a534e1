"""Fused attention, bit for bit, over odd shapes and layouts, on every instruction set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("tvm")

from x86 import X86

from qcompiler.artifact import CompiledModel
from qcompiler.backends.cpu.build import build
from qcompiler.backends.targets import target
from qcompiler.errors import TargetError
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import (
    Average,
    Exponentials,
    MatMulInteger,
    Reciprocal,
    ReduceSum,
    Requantize,
    Transpose,
)
from qcompiler.passes import Fuse, FuseAttention
from qcompiler.types import Quantization, TensorType

HEADS = (0, 2, 1, 3)


@dataclass(frozen=True)
class Case:
    """Shapes and forms; `mask` and `bias` are shapes of further operands."""

    m: int
    n: int
    d: int
    e: int
    batch: int = 1
    heads: int = 1
    query: str = "int8"
    codes: str = "uint8"
    mask: tuple[int, ...] | None = None
    bias: tuple[int, ...] | None = None
    split: bool = True
    wide: bool = True


CASES = [
    Case(197, 197, 64, 64, heads=3),
    Case(1, 1, 1, 1),
    Case(2, 65, 3, 5, batch=9),
    Case(7, 9, 5, 3, batch=2, heads=2),
    Case(128, 128, 32, 32, heads=2, mask=(1, 1, 1, 128)),
    Case(49, 49, 32, 32, batch=4, heads=3, bias=(3, 49, 49)),
    Case(13, 70, 30, 37, batch=2, heads=3, codes="int8", mask=(2, 1, 13, 70)),
    Case(20, 31, 16, 16, heads=3, query="uint8", split=False),
    Case(33, 64, 24, 20, batch=3, heads=2, query="uint8", codes="int8", bias=(33, 64)),
    Case(12, 130, 17, 70, batch=5, split=False, mask=(130,), wide=False),
]


def graph(case: Case, seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    b, h, m, n, d, e = case.batch, case.heads, case.m, case.n, case.d, case.e

    def operand(name: str, dtype: str, rows: int, width: int) -> Input:
        shape = (b, rows, h, width) if case.split else (b, h, rows, width)
        return Input(TensorType(dtype, shape, Quantization.per_tensor(dtype, 0.01)), name=name)

    q, k, v = operand("q", case.query, m, d), operand("k", "int8", n, d), operand("v", "int8", n, e)
    inputs: list[Input] = [q, k, v]
    query: Op = Transpose(q, HEADS) if case.split else q
    key: Op = Transpose(k, (0, 2, 3, 1) if case.split else (0, 1, 3, 2))
    value: Op = Transpose(v, HEADS) if case.split else v
    scores = MatMulInteger(query, key)
    shift = 36
    step = 2.0**shift * 40 / (64 * 64 * d**0.5)  # most codes apart, some clamped
    terms, multipliers = [scores], [np.asarray(min(step, 2.0**30), np.int32)]
    if case.bias is not None:
        codes = Quantization.per_tensor("int16", 0.01)
        terms.append(Input(TensorType("int16", case.bias, codes), name="bias"))
        multipliers.append(rng.integers(2**20, 2**22, n, dtype=np.int32))
        inputs.append(terms[-1])
    zero = 0 if case.codes == "int8" else 128
    codes = Requantize(
        tuple(terms),
        tuple(Constant(x) for x in multipliers),
        Constant(np.asarray((zero << shift) + (1 << shift - 1))),
        shift,
        Quantization.per_tensor(case.codes, 0.05),
    )
    mask = None
    if case.mask is not None:
        mask = Input(TensorType("bool", case.mask), name="mask")
        inputs.append(mask)
    table = np.round(255 * np.exp((np.arange(256) - 255) * 0.04)).astype(np.uint8)
    exponentials = Exponentials(codes, Constant(table), 3, mask)
    average = Average(MatMulInteger(exponentials, value), Reciprocal(ReduceSum(exponentials, (3,))))
    result = Quantization.per_tensor("uint8" if case.wide else "int16", 0.05, 0)
    factor = rng.integers(2**28, 2**30, e if case.wide else (), dtype=np.int32)
    found: Op = Requantize(
        (average,), (Constant(factor),), Constant(np.asarray(128 << 51)), 51, result
    )
    return Graph(tuple(inputs), {"y": Transpose(found, HEADS) if case.split else found})


def compiled(case: Case, name: str) -> tuple[Graph, CompiledModel]:
    original = graph(case, 0)
    fused = Fuse()(FuseAttention()(original))
    try:
        return original, build(fused, target(name), threads=2)
    except TargetError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", X86)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_is_one_kernel_with_the_bits_of_numpy(case: Case, name: str):
    original, model = compiled(case, name)
    assert [k.implementation for k in model.metadata.kernels] == ["cpu attention"]
    rng = np.random.default_rng(1)
    for extreme in (False, True):
        feeds = {}
        for x in original.inputs:
            if x.type.dtype == "bool":
                feeds[x.name] = rng.integers(0, 2, x.type.shape).astype(bool)
                continue
            low, high = np.iinfo(x.type.dtype).min, np.iinfo(x.type.dtype).max
            if extreme:
                feeds[x.name] = rng.choice(np.array([low, high], x.type.dtype), x.type.shape)
            else:
                feeds[x.name] = rng.integers(low, high, x.type.shape, x.type.dtype, endpoint=True)
        try:
            found = model(feeds)["y"]
        except TargetError as error:
            pytest.skip(str(error))
        np.testing.assert_array_equal(found, evaluate(original, feeds)["y"])


def test_rows_without_any_key_give_the_zero_point():
    case = Case(9, 20, 8, 8, mask=(1, 1, 9, 20))
    original, model = compiled(case, "cpu")
    rng = np.random.default_rng(2)
    feeds = {
        str(x.name): rng.integers(-128, 128, x.type.shape).astype(x.type.dtype)
        for x in original.inputs
    }
    feeds["mask"][0, 0, 4] = False
    found = model(feeds)["y"]
    assert (found[0, 4] == 128).all()
    np.testing.assert_array_equal(found, evaluate(original, feeds)["y"])


def test_a_product_that_something_else_reads_stays_outside():
    case = Case(5, 6, 4, 4)
    original = graph(case, 0)
    (codes,) = [x for x in original.ops if isinstance(x, Requantize) and x.type.shape[-1] == 6]
    both = Graph(original.inputs, {**original.outputs, "codes": codes})
    assert FuseAttention()(both) is both
