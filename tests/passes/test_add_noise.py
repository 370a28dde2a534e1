"""AddNoise: where a noise may be added, and that the bias takes it back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from qcompiler import fixed_point
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import Add, Dequantize, MatMul, Mul, Quantize, Relu
from qcompiler.passes import AddNoise
from qcompiler.types import FLOAT, Quantization, TensorType

CODES = Quantization.per_tensor("uint8", 0.1, 10)
ROWS = Input(TensorType(FLOAT, (4, 8)), name="x")
EIGHT = Constant(np.linspace(0.5, 2, 8, dtype=FLOAT))
WEIGHT = np.random.default_rng(0).normal(size=(8, 3)).astype(FLOAT)
MEANING = fixed_point.weight_quantization(WEIGHT, "int8", 1)


def codes(value: Op) -> Dequantize:
    return Dequantize(Quantize(value, CODES))


def product(x: Op, *, rounded: bool = False) -> MatMul:
    if rounded:
        array = fixed_point.quantize(WEIGHT, MEANING)
        weight: Op = Constant(array, TensorType("int8", array.shape, MEANING))
    else:
        weight = Quantize(Constant(WEIGHT), MEANING)
    return MatMul(x, Dequantize(weight), Constant(np.ones(3, FLOAT)))


def graph(**outputs: Op) -> Graph:
    return Graph((ROWS,), outputs)


@pytest.mark.parametrize("value", [Mul(ROWS, EIGHT), Add(ROWS, EIGHT)])
def test_the_bias_takes_the_noise_back(value: Op) -> None:
    before = graph(y=product(codes(value)))
    after = AddNoise()(before)
    assert after is not before
    assert AddNoise()(after) is after
    noise = after.outputs["y"].a.x.x.b.array
    assert noise.shape == (8,)
    assert 0 < np.abs(noise).max() <= 0.05
    weight = fixed_point.dequantize(fixed_point.quantize(WEIGHT, MEANING), MEANING)
    assert np.allclose(after.outputs["y"].bias.array, 1 - noise @ weight, atol=1e-6)


def test_rounded_weights_are_taken_as_they_are() -> None:
    first, second = (
        AddNoise()(graph(y=product(codes(Mul(ROWS, EIGHT)), rounded=rounded)))
        for rounded in (False, True)
    )
    feeds = {"x": np.random.default_rng(1).uniform(0, 9, (4, 8)).astype(FLOAT)}
    assert (first.outputs["y"].bias.array == second.outputs["y"].bias.array).all()
    assert (evaluate(first, feeds)["y"] == evaluate(second, feeds)["y"]).all()


def shared_value() -> dict[str, Op]:
    value = Mul(ROWS, EIGHT)
    return {"y": product(codes(value)), "other": Relu(value)}


def shared_codes() -> dict[str, Op]:
    x = codes(Mul(ROWS, EIGHT))
    return {"y": product(x), "other": Relu(x)}


def codes_returned() -> dict[str, Op]:
    x = codes(Mul(ROWS, EIGHT))
    return {"y": product(x), "x": x}


def two_codes() -> dict[str, Op]:
    quantized = Quantize(Mul(ROWS, EIGHT), CODES)
    return {"y": product(Dequantize(quantized)), "other": Relu(Dequantize(quantized))}


def wide_codes() -> dict[str, Op]:
    q = dataclasses.replace(CODES, storage="uint16")
    return {"y": product(Dequantize(Quantize(Mul(ROWS, EIGHT), q)))}


@pytest.mark.parametrize(
    "outputs", [shared_value, shared_codes, codes_returned, two_codes, wide_codes]
)
def test_what_others_see_gets_no_noise(outputs) -> None:
    before = graph(**outputs())
    after = AddNoise()(before)
    assert (after is before) == (outputs is not shared_value)
    if after is not before:  # the value itself stays
        assert after.outputs["other"].x is before.outputs["other"].x
