"""Passes that move scales: exact in reals, better in codes."""

import dataclasses

import numpy as np
import pytest

from qcompiler import fixed_point
from qcompiler.calibrate.moments import Moments
from qcompiler.config import QuantizationConfig, Rule
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import Add, Dequantize, Map, MatMul, Mul, Normalize, Quantize, Tanh
from qcompiler.passes import (
    AddNoise,
    InsertQdq,
    Integerize,
    ReparameterizeScales,
    RoundWeights,
    SplitChannels,
)
from qcompiler.passes.evidence import FixedRanges
from qcompiler.types import FLOAT, Quantization, TensorType


def constant(array) -> Constant:
    return Constant(np.asarray(array, FLOAT))


def normalized(rng: np.random.Generator, rows: int = 64, size: int = 12) -> tuple[Graph, Op]:
    """A normalization whose channels differ, in front of two products."""
    x = Input(TensorType(FLOAT, (rows, size)), name="x")
    gamma = rng.uniform(0.05, 4, size) * rng.choice([-1, 1], size)
    value = Add(Mul(Normalize(x, (1,), 1e-5), constant(gamma)), constant(rng.normal(size=size)))
    value = dataclasses.replace(value, name="ln")
    weights = [constant(rng.normal(size=(size, 5))) for _ in range(2)]
    outputs = {
        "a": MatMul(value, weights[0], constant(rng.normal(size=5))),
        "b": MatMul(value, weights[1]),
    }
    return Graph((x,), outputs), value


def value_of(graph: Graph, name: str, feeds) -> np.ndarray:
    inner = Graph(graph.inputs, {"y": graph.find(name)})
    return evaluate(inner, feeds)["y"]


@pytest.mark.parametrize("seed", range(5))
def test_reparameterization_keeps_every_code(seed):
    """x quantized per channel and x' quantized per tensor have the same codes (RepQ-ViT, §3.3)."""
    rng = np.random.default_rng(seed)
    graph, _ = normalized(rng)
    feeds = {"x": rng.normal(size=(64, 12)).astype(FLOAT)}
    x = value_of(graph, "ln", feeds).astype(np.float64)
    low, high = x.min(0), x.max(0)
    step = ReparameterizeScales(FixedRanges({}, {"ln": (low, high)}))
    new = step(graph)
    assert new is not graph
    scales = (high - low) / 255
    zero_points = np.floor(-low / scales + 0.5)
    scale, zero_point = scales.mean(), np.floor(zero_points.mean() + 0.5)
    moved = value_of(new, "ln", feeds).astype(np.float64)
    per_channel, per_tensor = x / scales + zero_points, moved / scale + zero_point
    decided = np.abs(per_channel - np.floor(per_channel) - 0.5) > 1e-3  # float32 decides ties
    assert decided.mean() > 0.98
    codes = [np.floor(v + 0.5)[decided] for v in (per_channel, per_tensor)]
    assert (codes[0] == codes[1]).all()
    old, after = evaluate(graph, feeds), evaluate(new, feeds)
    for name in old:
        assert np.allclose(old[name], after[name], atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["input", "sum", "normalized"])
def test_products_read_a_copy_of_what_others_use_too(kind):
    """x stays for the sum; both products read x/r + t, from one place."""
    rng = np.random.default_rng(1)
    graph, _ = normalized(rng)
    x = graph.inputs[0]
    value = {"input": x, "sum": Add(x, Tanh(x), name="ln"), "normalized": graph.find("ln")}[kind]
    weights = [constant(rng.normal(size=(12, 5))) for _ in range(2)]
    outputs = {"a": MatMul(value, weights[0]), "b": MatMul(value, weights[1]), "c": Tanh(value)}
    graph = Graph((x,), outputs)
    name = "x" if kind == "input" else "ln"
    ranges = FixedRanges({}, {name: (np.linspace(-9, -0.1, 12), np.linspace(0.1, 30, 12))})
    new = ReparameterizeScales(ranges)(graph)
    first, second = (new.outputs[k].a for k in "ab")
    assert first is second
    assert isinstance(first, Add)
    assert (new.outputs["c"].x is x) == (kind == "input")
    feeds = {"x": rng.normal(size=(64, 12)).astype(FLOAT)}
    for key, y in evaluate(graph, feeds).items():
        assert np.allclose(y, evaluate(new, feeds)[key], atol=2e-4)


def test_products_that_stay_in_float_are_not_reparameterized():
    rng = np.random.default_rng(1)
    graph, _ = normalized(rng)
    outputs = {k: dataclasses.replace(y, name=k) for k, y in graph.outputs.items()}
    graph = dataclasses.replace(graph, outputs=outputs)
    ranges = FixedRanges({}, {"ln": (np.linspace(-9, -0.1, 12), np.linspace(0.1, 30, 12))})

    def step(*skipped: str) -> ReparameterizeScales:
        rules = tuple(Rule(name, skip=True) for name in skipped)
        return ReparameterizeScales(ranges, config=QuantizationConfig(rules=rules))

    assert step("ln").observed(graph) == step("a", "b").observed(graph) == {}
    assert step("ln")(graph) is step("a", "b")(graph) is graph
    new = step("a")(graph)
    assert new.outputs["a"].operands == outputs["a"].operands
    assert new.outputs["b"].a is not outputs["b"].a


def test_scales_are_those_of_the_storage_that_a_rule_chooses():
    graph, _ = normalized(np.random.default_rng(1))
    ranges = FixedRanges({}, {"ln": (np.linspace(-9, -0.1, 12), np.linspace(0.1, 30, 12))})
    narrow = QuantizationConfig(activations="uint4")
    by_rule = QuantizationConfig(rules=(Rule("ln", activations="uint4"),))
    step = ReparameterizeScales(ranges)
    texts = [str(dataclasses.replace(step, config=c)(graph)) for c in (None, narrow, by_rule)]
    assert texts[0] != texts[1] == texts[2]


def test_products_of_two_values_read_the_value_itself():
    rng = np.random.default_rng(0)
    x = Input(TensorType(FLOAT, (64, 12)), name="x")
    other = Input(TensorType(FLOAT, (12, 5)), name="other")
    outputs = {"a": MatMul(x, constant(rng.normal(size=(12, 5)))), "b": MatMul(x, other)}
    graph = Graph((x, other), outputs)
    low, high = -np.arange(1.0, 13), np.arange(2.0, 14)
    new = ReparameterizeScales(FixedRanges({}, {"x": (low, high)}))(graph)
    assert new is not graph
    assert new.outputs["b"].operands == graph.outputs["b"].operands
    feeds = {"x": rng.normal(size=(64, 12)).astype(FLOAT), "other": np.ones((12, 5), FLOAT)}
    for name, expected in evaluate(graph, feeds).items():
        np.testing.assert_allclose(evaluate(new, feeds)[name], expected, rtol=1e-4, atol=1e-4)


def test_channels_that_are_alike_stay():
    rng = np.random.default_rng(0)
    graph, _ = normalized(rng)
    same = FixedRanges({}, {"ln": (np.full(12, -2.0), np.full(12, 3.0))})
    assert ReparameterizeScales(same)(graph) is graph


def test_channels_far_from_zero_do_not_widen_the_codes():
    """Their zero points lie outside the codes; that of all must not, since codes reach zero."""
    rng = np.random.default_rng(0)
    graph, _ = normalized(rng)
    feeds = {"x": rng.normal(size=(64, 12)).astype(FLOAT)}
    x = value_of(graph, "ln", feeds).astype(np.float64)
    low, high = x.min(0), x.max(0)
    low[:6] = high[:6] - (high - low)[:6] / 100  # as if they had always been near their largest
    moved = ReparameterizeScales(FixedRanges({}, {"ln": (low, high)}))(graph)
    reached = value_of(moved, "ln", feeds)[x.argmax(0), np.arange(12)]
    assert np.abs(reached).max() <= 1.01 * 255 * ((high - low) / 255).mean()


def test_a_constant_channel_is_harmless():
    rng = np.random.default_rng(0)
    graph, _ = normalized(rng)
    low, high = np.full(12, -2.0), np.linspace(1, 3, 12)
    low[3] = high[3] = 0.0
    new = ReparameterizeScales(FixedRanges({}, {"ln": (low, high)}))(graph)
    feeds = {"x": rng.normal(size=(64, 12)).astype(FLOAT)}
    for name, y in evaluate(graph, feeds).items():
        assert np.allclose(y, evaluate(new, feeds)[name], atol=2e-4)


def massive(rng: np.random.Generator, rows: int = 256) -> Graph:
    """tanh-like hidden layer with one channel forty times as wide as the others."""
    x = Input(TensorType(FLOAT, (rows, 6)), name="x")
    first = MatMul(x, constant(rng.normal(size=(6, 40))), constant(rng.normal(size=40)))
    variable = Input(first.type, name="x")
    region = Graph((variable,), {"y": Add(Mul(Tanh(variable), variable), variable)})
    spread = np.ones(40)
    spread[7] = 40.0
    wide = dataclasses.replace(first, b=constant(_array(first.b) * spread), name="pre")
    hidden = Map(wide, region, name="hidden")
    second = MatMul(hidden, constant(rng.normal(size=(40, 8))), constant(rng.normal(size=8)))
    second = dataclasses.replace(second, name="y")
    return Graph((x,), {"y": second})


def _array(node: Op) -> np.ndarray:
    assert isinstance(node, Constant)
    return node.array


def ranges_of(graph: Graph, step, feeds) -> FixedRanges:
    names = step.observed(graph)
    values = {name: value_of(graph, name, feeds) for name in names}
    return FixedRanges(
        {name: (min(v.min(), 0.0), max(v.max(), 0.0)) for name, v in values.items()},
        {n: (v.min(0), v.max(0)) for n, v in values.items() if names[n] is not None},
    )


def integer_error(graph: Graph, feeds) -> float:
    step = InsertQdq()
    step = dataclasses.replace(step, ranges=ranges_of(graph, step, feeds))
    integer = Integerize()(step(graph))
    return float(np.abs(evaluate(integer, feeds)["y"] - evaluate(graph, feeds)["y"]).std())


def test_splitting_is_exact_and_gains():
    rng = np.random.default_rng(3)
    graph = massive(rng)
    feeds = {"x": rng.normal(size=(256, 6)).astype(FLOAT)}
    step = SplitChannels(growth=0.5)
    new = dataclasses.replace(step, ranges=ranges_of(graph, step, feeds))(graph)
    old, after = evaluate(graph, feeds)["y"], evaluate(new, feeds)["y"]
    assert np.allclose(old, after, atol=1e-3 * np.abs(old).max())
    hidden = [x for x in new.ops if isinstance(x, Map)]
    assert 40 < hidden[0].type.shape[1] <= 60
    before, behind = integer_error(graph, feeds), integer_error(new, feeds)
    assert behind < 0.85 * before  # the rest is the rounding of input and weights


@pytest.mark.parametrize("name", ["pre", "hidden", "y"])
def test_channels_of_ops_that_stay_in_float_are_not_split(name):
    graph = massive(np.random.default_rng(3))
    config = QuantizationConfig(rules=(Rule(name, skip=True),))
    assert SplitChannels().observed(graph) == {"hidden": 1}
    assert SplitChannels(config=config).observed(graph) == {}
    assert SplitChannels(config=config)(graph) is graph


def test_parts_of_channels_are_moved_by_steps_of_the_storage_that_a_rule_chooses():
    graph = massive(np.random.default_rng(3))
    spans = np.ones(40)
    spans[7] = 40.0
    step = SplitChannels(FixedRanges({}, {"hidden": (-0.3 * spans, spans)}), growth=0.5)
    narrow = QuantizationConfig(activations="uint4")
    by_rule = QuantizationConfig(rules=(Rule("hidden", activations="uint4"),))
    texts = [str(dataclasses.replace(step, config=c)(graph)) for c in (None, narrow, by_rule)]
    assert texts[0] != texts[1] == texts[2]


def test_even_channels_are_not_split():
    rng = np.random.default_rng(3)
    graph = massive(rng)
    even = FixedRanges({}, {"hidden": (np.full(40, -0.3), np.full(40, 2.0))})
    assert SplitChannels(even)(graph) is graph


def rounded_error(rounding: bool, storage: str) -> float:
    """Mean squared error of a product of correlated inputs."""
    rng = np.random.default_rng(5)
    mixing = rng.normal(size=(4, 24))
    rows = (rng.normal(size=(500, 4)) @ mixing + 0.1 * rng.normal(size=(500, 24)) + 0.3).astype(
        FLOAT
    )
    weight = rng.normal(size=(24, 7)).astype(FLOAT)
    q = fixed_point.weight_quantization(weight, storage, 1)
    kind = TensorType("uint8", rows.shape, Quantization.per_tensor("uint8", 0.1, 128))
    x = Input(kind, name="x")
    value = Dequantize(x, name="value")
    graph = Graph((x,), {"y": MatMul(value, Dequantize(Quantize(constant(weight), q)), None)})
    codes = fixed_point.quantize(rows, kind.quantization)
    exact = fixed_point.dequantize(codes, kind.quantization)
    if rounding:
        moments = Moments.of(24)
        moments.update(exact.astype(FLOAT))
        graph = RoundWeights(moments={graph.names[value]: moments})(graph)
    return float(np.mean((evaluate(graph, {"x": codes})["y"] - exact @ weight) ** 2))


def test_noise_is_taken_back():
    """Many equal values round alike; with noise their errors differ, and nearly cancel."""
    rows = np.full((4, 64), 0.549, FLOAT)  # just below the middle of two codes
    x = Input(TensorType(FLOAT, rows.shape), name="x")
    weight = constant(np.ones((64, 1)))
    value = Mul(x, constant(np.ones(64)))
    q = Quantization.per_tensor("uint8", 0.1, 10)
    codes = Dequantize(Quantize(value, q))
    w = Dequantize(Quantize(weight, fixed_point.weight_quantization(weight.array, "int8", 1)))
    graph = Graph((x,), {"y": MatMul(codes, w, constant(np.zeros(1)))})
    noisy = AddNoise()(graph)
    exact = rows.sum(1, keepdims=True)
    before, behind = (np.abs(evaluate(g, {"x": rows})["y"] - exact).max() for g in (graph, noisy))
    assert before > 2.9
    assert behind < 0.5 * before
    assert AddNoise()(noisy) is noisy


@pytest.mark.parametrize("storage", ["int8", "int4", "int3"])
def test_error_feedback_beats_rounding_to_nearest(storage):
    assert rounded_error(True, storage) < 0.5 * rounded_error(False, storage)


def test_weights_that_products_share_are_rounded_once():
    rng = np.random.default_rng(5)
    mixing = rng.normal(size=(24, 24)) * np.geomspace(1, 0.02, 24)
    weight = constant(rng.normal(size=(24, 8)))
    q = fixed_point.weight_quantization(weight.array, "int4", 1)
    shared = Dequantize(Quantize(weight, q))
    inputs = [Input(TensorType(FLOAT, (512, 24)), name=name) for name in ("first", "second")]
    products = {f"y{i}": MatMul(x, shared) for i, x in enumerate(inputs)}
    graph = Graph(tuple(inputs), products)
    feeds = {str(x.name): (rng.normal(size=(512, 24)) @ mixing).astype(FLOAT) for x in inputs}
    moments = {name: Moments.of(24) for name in feeds}
    for name, rows in feeds.items():
        moments[name].update(rows)
    after = RoundWeights(moments=moments)(graph)
    assert len({y.b for y in after.outputs.values()}) == 1
    found, nearest = evaluate(after, feeds), evaluate(graph, feeds)
    for name, rows in zip(products, feeds.values(), strict=True):
        exact = rows @ weight.array
        error, before = (np.mean((v[name] - exact) ** 2) for v in (found, nearest))
        assert error < 0.5 * before


def test_a_recurrence_keeps_one_weight_for_all_steps():
    rng = np.random.default_rng(6)
    x, y = (Input(TensorType(FLOAT, (4, 6)), name=name) for name in "xy")
    weight, other = (constant(rng.normal(size=(6, 6))) for _ in range(2))
    states = [Add(x, y)]
    for _ in range(2):
        states.append(Add(MatMul(states[-1], weight), x))
    graph = Graph((x, y), {"y": MatMul(states[-1], other)})
    bounds = np.geomspace(1, 9, 6)
    ranges = FixedRanges({}, dict.fromkeys(graph.names.values(), (-bounds, bounds)))
    after = ReparameterizeScales(ranges)(graph)
    assert after is not graph  # the last product has a weight of its own
    assert sum(isinstance(op, MatMul) and op.b is weight for op in after.ops) == 2
