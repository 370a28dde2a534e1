"""Which integer forms the configuration chooses, and the tables of log2 attention weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from scipy import special

from qcompiler.config import QuantizationConfig, Rule
from qcompiler.driver import quantize
from qcompiler.errors import UsageError
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.invariants import float_ops
from qcompiler.ops import (
    Add,
    Cast,
    Dequantize,
    Equal,
    FakeQuantize,
    Floor,
    GreaterEqual,
    Map,
    MatMul,
    Mul,
    Normalize,
    Quantize,
    Round,
    Sigmoid,
    Softmax,
    Transpose,
    scalar,
)
from qcompiler.passes import Integerize
from qcompiler.passes.functions import log_quantized
from qcompiler.types import FLOAT, Quantization, TensorType

FORMS = {
    "default": QuantizationConfig(),
    "i-vit": QuantizationConfig.preset("i-vit"),
    "log2": QuantizationConfig(softmax="log2", softmax_bits=4, softmax_base="adaptive"),
}
Q8 = Quantization.per_tensor("int8", 0.06)
Q16 = Quantization.per_tensor("int16", 0.001)


def region(build, shape=(2, 40)) -> Graph:
    x = Input(TensorType(FLOAT, shape), name="v")
    return Graph((x,), {"y": build(x)}, "map")


def quick_gelu(x: Op) -> Op:
    return Mul(x, Sigmoid(Mul(x, scalar(1.702, FLOAT))))


def silu(x: Op) -> Op:
    return Mul(x, Sigmoid(x))


def codes(q: Quantization = Q8, name: str = "x") -> tuple[Input, Op]:
    x = Input(TensorType(q.bounds.dtype, (2, 40), q), name=name)
    return x, Dequantize(x)


def integer(config: QuantizationConfig, x: Input, value: Op, q: Quantization = Q16) -> set[str]:
    """The kinds of ops that quantize(value) becomes, whose values stay what they were."""
    graph = Graph((x,), {"y": Dequantize(Quantize(value, q))})
    found = Integerize(config=config)(graph)
    assert list(float_ops(found)) == []
    rng, info = np.random.default_rng(0), np.iinfo(x.type.dtype)
    feeds = {"x": rng.integers(info.min, info.max, x.type.shape, x.type.dtype)}
    real, codes = evaluate(graph, feeds)["y"], evaluate(found, feeds)["y"]
    assert np.abs(real - codes).max() <= 0.035 + q.scale[0]
    return {node.kind() for node in found.ops}


@pytest.mark.parametrize(
    ("config", "kind"), [("default", "table"), ("i-vit", "shift_gelu"), ("log2", "table")]
)
def test_gelu(config: str, kind: str) -> None:
    x, value = codes()
    gelu = Map(value, region(quick_gelu))
    assert kind in integer(FORMS[config], x, gelu)
    factor, term = Constant(np.full(40, -0.5, FLOAT)), Constant(np.ones(40, FLOAT))
    for form in (Mul(gelu, factor), Add(gelu, term), Add(Mul(gelu, factor), term)):
        assert kind in integer(FORMS[config], x, form)


def test_only_gelu_is_shift_gelu() -> None:
    x, value = codes()
    assert "table" in integer(FORMS["i-vit"], x, Map(value, region(silu)))


@pytest.mark.parametrize(
    ("config", "kind"),
    [("default", "exponentials"), ("i-vit", "shiftmax"), ("log2", "exponentials")],
)
def test_softmax(config: str, kind: str) -> None:
    x, value = codes()
    assert kind in integer(FORMS[config], x, Softmax(value, 1))


@pytest.mark.parametrize(
    ("config", "kind"), [("default", "exponentials"), ("i-vit", "shift_exponentials")]
)
def test_attention(config: str, kind: str) -> None:
    x, value = codes()
    product = MatMul(Softmax(value, 1), Dequantize(Transpose(x, (1, 0))))
    kinds = integer(FORMS[config], x, product)
    assert {kind, "average"} <= kinds
    assert "shiftmax" not in kinds


@pytest.mark.parametrize(
    ("config", "kind"), [("default", "normalize_integer"), ("i-vit", "integer_layer_norm")]
)
def test_normalization(config: str, kind: str) -> None:
    x, value = codes(Quantization.per_tensor("int16", 0.01))
    assert kind in integer(FORMS[config], x, Normalize(value, (1,), 1e-5))


def test_rules_override_by_name() -> None:
    x, value = codes()
    rule = Rule("head*", gelu="table", softmax="table", normalization="newton")
    config = dataclasses.replace(FORMS["i-vit"], rules=(rule,))
    softmax = dataclasses.replace(Softmax(value, 1), name="head.softmax")
    gelu = Map(value, region(quick_gelu), sources=("head/act",))
    assert "exponentials" in integer(config, x, softmax)
    assert "table" in integer(config, x, gelu)
    assert "shift_gelu" in integer(config, x, Map(value, region(quick_gelu)))


@pytest.mark.parametrize("scale", [1e-3, 0.02, 0.1, 1.0])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("base", [2.0, "sqrt2", "adaptive", 1.1])
def test_log2_tables_take_few_values(scale: float, bits: int, base: float | str) -> None:
    exact = np.exp(scale * (np.arange(256) - 255))
    found = log_quantized(exact, bits, base)
    assert len(np.unique(found)) <= 2**bits
    assert found[-1] == 1
    assert (np.diff(found) >= 0).all()
    if isinstance(base, float) or base == "sqrt2":
        number = 2**0.5 if base == "sqrt2" else float(base)
        kept = found > 0
        exponents = -np.log(found[kept]) / np.log(number)
        assert np.abs(exponents - np.round(exponents)).max() < 1e-9
        assert (exponents <= 2**bits - 2 + 1e-9).all()
        ratio = found[kept] / exact[kept]  # rounded by the exponent
        assert (np.abs(np.log(ratio)) <= 0.5 * np.log(number) + 1e-9).all()
        assert (exact[~kept] < number ** -(2.0**bits - 2)).all()


@pytest.mark.parametrize("scale", [0.02, 0.05, 0.1])
def test_the_adaptive_base_is_at_least_as_good(scale: float) -> None:
    """On rows of normal logits, which it assumes."""
    exact = np.exp(scale * (np.arange(256) - 255))
    logits = np.random.default_rng(0).standard_normal((200, 197)) * 32
    index = np.clip(np.round(logits - logits.max(1, keepdims=True)), -255, 0).astype(int) + 255
    rows = special.softmax(scale * index, axis=1)
    errors = {}
    for base in (2.0, "sqrt2", "adaptive"):
        e = log_quantized(exact, 4, base)[index]
        errors[base] = np.square(e / e.sum(1, keepdims=True) - rows).mean()
    assert errors["adaptive"] <= 1.05 * min(errors.values())
    assert errors["adaptive"] < errors[2.0]


@pytest.mark.parametrize(("step", "codes"), [(37, 15), (74, 15), (75, 5)])
def test_the_adaptive_bases_end_at_4(step: int, codes: int) -> None:
    """Powers of 2^(step/37): each is a code if that is a base, else every third as 2^(25/37)^3."""
    exact = 2.0 ** (step / 37 * (np.arange(256) - 255.0))
    found = log_quantized(exact, 4, "adaptive")
    assert np.count_nonzero(found) == codes
    assert np.allclose(found[256 - codes :], exact[256 - codes :], rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"softmax": "fast"}, "softmax: expected one of table, shift, log2, found 'fast'"),
        ({"gelu": "log2"}, "gelu: expected one of table, shift"),
        ({"normalization": "fast"}, "normalization: expected one of newton, i-vit"),
        ({"softmax_bits": 5}, "softmax_bits: expected 4 or 8, found 5"),
        ({"softmax_base": 1.0}, "softmax_base: expected a number of 1 to 16"),
        ({"softmax_base": "e"}, "softmax_base: expected a number of 1 to 16, sqrt2 or adaptive"),
        ({"rules": (Rule("*", gelu="fast"),)}, "gelu: expected one of table, shift"),
    ],
)
def test_choices_that_do_not_exist(fields: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        QuantizationConfig(**fields)


def test_presets() -> None:
    assert QuantizationConfig.preset("default") == QuantizationConfig()
    with pytest.raises(UsageError, match="preset: expected one of default, i-vit, found 'best'"):
        QuantizationConfig.preset("best")


STEPS: dict[str, Callable[[Op], Op]] = {
    "cast": lambda x: Cast(x, "int64"),
    "equal": lambda x: Equal(x, Constant(np.array(3, np.float32))),
    "floor": Floor,
    "greater_equal": lambda x: GreaterEqual(x, Constant(np.array(3, np.float32))),
    "less_equal": lambda x: GreaterEqual(Constant(np.array(3, np.float32)), x),
    "round": Round,
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("largest", [7, 9, 100])
def test_functions_with_steps_are_right_at_whole_numbers(name: str, largest: int) -> None:
    values = np.arange(-5, 10, dtype=np.float32)[None]
    x = Input(TensorType("float32", values.shape), name="x")
    graph = Graph((x,), {"y": STEPS[name](x)})
    integer = quantize(graph, {"x": np.concatenate([values, np.full_like(values, largest)])})
    assert not list(float_ops(integer))
    found = evaluate(integer, {"x": values})["y"]
    expected = evaluate(graph, {"x": values})["y"]
    np.testing.assert_allclose(
        found.astype(np.float64), expected.astype(np.float64), atol=largest * 2.0**-15
    )


@pytest.mark.parametrize("bound", [-0.0386, -0.0272, 0.31])
def test_a_bound_between_codes_is_on_its_own_side(bound: float) -> None:
    """Codes that the model chose are exact: none stands for a number beyond the bound."""
    chosen = Quantization.per_tensor("int8", 0.0272484, -5)
    feed = {"x": np.linspace(-3, 3, 999, dtype=np.float32)}
    x = Input(TensorType(FLOAT, (999,)), name="x")
    reached = GreaterEqual(FakeQuantize(x, chosen), Constant(np.array(bound, np.float32)))
    graph = Graph((x,), {"y": reached})
    integer = quantize(graph)
    assert not list(float_ops(integer))
    assert (evaluate(integer, feed)["y"] == evaluate(graph, feed)["y"]).all()


def test_an_input_that_is_an_output_is_handed_through() -> None:
    x = Input(TensorType(FLOAT, (3, 4)), name="x")
    feed = {"x": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)}
    integer = quantize(Graph((x,), {"x": x, "y": Sigmoid(x)}), feed)
    assert integer.outputs["x"] is integer.inputs[0]
    assert (evaluate(integer, feed)["x"] == feed["x"]).all()


def test_the_codes_of_an_input_are_no_input() -> None:
    x = Input(TensorType(FLOAT, (3, 4)), name="x")
    feed = {"x": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)}
    graph = Graph((x,), {"y": FakeQuantize(x, Quantization.per_tensor("uint8", 0.03))})
    assert (evaluate(quantize(graph), feed)["y"] == evaluate(graph, feed)["y"]).all()
