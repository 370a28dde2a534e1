"""Which sums of products are an attention, and which only look like one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from qcompiler.graph import Constant, Graph, Input, Op, toposort
from qcompiler.ops import (
    Attention,
    Average,
    Exponentials,
    Fused,
    MatMulInteger,
    Reciprocal,
    ReduceSum,
    Requantize,
)
from qcompiler.passes import FuseAttention
from qcompiler.types import Quantization, TensorType

ONE, HALF = Constant(np.array(1 << 20, np.int32)), Constant(np.array(1 << 29))
TABLE = Constant(np.arange(256, dtype=np.uint8))
Q = Quantization.per_tensor("int8", 0.1)


NAMES = (f"x{i}" for i in itertools.count())


def given(dtype: str, *shape: int) -> Input:
    return Input(TensorType(dtype, shape), name=next(NAMES))


def product(x: Op, *weight: int, bias: Op | None = None) -> MatMulInteger:
    return MatMulInteger(x, given("int8", *weight), bias)


QUERIES = given("int8", 2, 9, 4)


def average(*scores: Op, axis: int = 2, summed: int = 2, bias: Op | None = None) -> Average:
    """An attention of 2 heads, 9 rows and 9 keys, with values of 5 channels."""
    codes = Requantize(scores, (ONE,) * len(scores), HALF, 30, Q)
    weights = Exponentials(codes, TABLE, axis)
    total = Reciprocal(ReduceSum(weights, (summed,), "int32"))
    return Average(product(weights, 2, 9, 5, bias=bias), total)


def attention(root: Op, **others: Op) -> Attention | None:
    """The one that the pass makes of a graph with this result; None where it changes nothing."""
    outputs = {"y": root, **others}
    inputs = tuple(x for x in toposort(outputs.values()) if isinstance(x, Input))
    before = Graph(inputs, outputs)
    after = FuseAttention()(before)
    if after is before:
        return None
    (kernel,) = [x for x in after.ops if isinstance(x, Fused)]
    (found,) = [x for x in kernel.region.ops if isinstance(x, Attention)]
    return found


def test_attention_becomes_one_kernel() -> None:
    scores = product(QUERIES, 2, 4, 9)
    bias = given("int8", 2, 9, 9)
    for root in (average(scores), average(scores, bias), average(bias, scores)):
        found = attention(root)
        assert found is not None
        assert [x.type.shape for x in found.operands[:3]] == [(2, 9, 4), (2, 4, 9), (2, 9, 5)]
        assert len(found.terms) == len(root.weighted.x.x.inputs) - 1


def test_what_others_read_stays_outside() -> None:
    root = average(product(QUERIES, 2, 4, 9))
    assert attention(root, weights=root.weighted.x) is None


@pytest.mark.parametrize(
    "root",
    [
        average(given("int8", 2, 9, 9)),
        average(product(QUERIES, 2, 4, 9), product(QUERIES, 2, 4, 9)),
        average(product(QUERIES, 2, 4, 9, bias=Constant(np.ones(9, np.int32)))),
        average(product(QUERIES, 4, 9)),
        average(product(QUERIES, 2, 4, 9), axis=1),
        average(product(QUERIES, 2, 4, 9), bias=Constant(np.ones(5, np.int32))),
        average(product(QUERIES, 2, 4, 1), given("int8", 2, 9, 9)),
    ],
    ids=["no-product", "two-products", "bias", "shared-keys", "columns", "bias-behind", "one-key"],
)
def test_what_differs_is_none(root: Average) -> None:
    assert attention(root) is None


def test_the_sum_is_that_of_the_same_exponentials() -> None:
    scores = product(QUERIES, 2, 4, 9)
    first, second = (average(scores) for _ in range(2))
    assert attention(Average(first.weighted, second.reciprocal)) is None
