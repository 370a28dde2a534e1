"""What passes ask for before they run: given options stay, contracts first, the model runs once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime
import pytest

import qcompiler
from qcompiler import Calibration, Options, QuantizationConfig, Rule
from qcompiler.errors import CalibrationError, ContractError, UsageError
from qcompiler.fingerprint import fingerprints
from qcompiler.fixed_point import affine_quantization
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.invariants import float_ops
from qcompiler.ops import (
    Add,
    BatchNormalization,
    Map,
    MatMul,
    Mul,
    Normalize,
    Quantize,
    Relu,
    Softmax,
    Tanh,
)
from qcompiler.passes import (
    BUILT_IN,
    DEFAULT,
    InsertQdq,
    Pass,
    PassManager,
    RoundWeights,
    SplitChannels,
    parse_pass,
)
from qcompiler.passes.evidence import FixedRanges
from qcompiler.types import FLOAT, TensorType

PLACE = next(i for i, step in enumerate(DEFAULT) if isinstance(step, InsertQdq))
SPLIT = next(i for i, step in enumerate(DEFAULT) if isinstance(step, SplitChannels))
SAMPLES = np.random.default_rng(1).normal(size=(64, 6)).astype(FLOAT)


def network() -> Graph:
    """What every calibrated pass of the default order works on, and a softmax."""
    rng = np.random.default_rng(0)

    def parameter(*shape: int) -> Constant:
        return Constant(rng.normal(size=shape).astype(FLOAT))

    x = Input(TensorType(FLOAT, (4, 6)), name="x")
    norm = Add(Mul(Normalize(x, (1,), 1e-5), parameter(6)), parameter(6), name="norm")
    spread = np.ones(40, FLOAT)
    spread[7] = 40
    wide = Constant(parameter(6, 40).array * spread)
    first = MatMul(norm, wide, parameter(40), name="first")
    hidden = Mul(Tanh(first), first, name="hidden")
    second = MatMul(hidden, parameter(40, 6), parameter(6), name="second")
    return Graph((x,), {"y": Softmax(Add(x, second, name="sum"), 1, name="y")})


def products() -> Graph:
    """Two products in a row."""
    rng = np.random.default_rng(0)
    x = Input(TensorType(FLOAT, (4, 6)), name="x")
    first, second = (Constant(rng.normal(size=(6, 6)).astype(FLOAT)) for _ in range(2))
    return Graph((x,), {"y": MatMul(Relu(MatMul(x, first, name="a")), second, name="b")})


def untouched() -> Iterator[np.ndarray]:
    raise AssertionError("nobody needs samples")
    yield


def quantized(graph: Graph, *passes: Pass, **config: object) -> Graph:
    options = Options(passes=passes, config=QuantizationConfig(**config))
    return qcompiler.quantize(graph, SAMPLES, options=options)


def weights(graph: Graph) -> dict[str | None, Op]:
    """The codes of weights, Quantize or Constant, by the names of their products."""
    return {x.name: x.b.x for x in graph.ops if isinstance(x, MatMul)}


def test_an_explicit_configuration_stays() -> None:
    mine = QuantizationConfig(weights="int4")
    (codes, _) = weights(quantized(products(), InsertQdq(config=mine), weights="int3")).values()
    assert codes.type.quantization.storage == "int4"


def test_explicit_ranges_and_moments_stay() -> None:
    graph = products()
    ranges = FixedRanges(dict.fromkeys(InsertQdq().observed(graph), (-1.0, 1.0)))
    passes = (InsertQdq(ranges), RoundWeights(moments={}))
    found = qcompiler.quantize(graph, untouched, options=Options(passes=passes))
    codes = next(x for x in found.ops if isinstance(x, Quantize) and isinstance(x.x, Input))
    assert codes.quantization == affine_quantization(-1, 1, "uint8")


def test_rounding_by_the_pass_that_is_named_and_by_the_configuration() -> None:
    def rounded(step: RoundWeights, **config: object) -> list[bool]:
        found = weights(quantized(products(), InsertQdq(), step, **config))
        return [isinstance(codes, Constant) for codes in found.values()]

    assert rounded(RoundWeights()) == [True, True]
    assert rounded(RoundWeights("nearest")) == [False, False]
    assert rounded(RoundWeights("nearest"), rounding="gptq") == [True, True]
    assert rounded(RoundWeights(), rounding="nearest") == [False, False]
    assert rounded(RoundWeights(), rules=(Rule("a", rounding="nearest"),)) == [False, True]
    assert rounded(RoundWeights("nearest"), rules=(Rule("b", rounding="balanced"),)) == [
        False,
        True,
    ]


def test_each_product_is_rounded_by_its_own_method() -> None:
    both = weights(
        quantized(
            products(),
            InsertQdq(),
            RoundWeights("balanced"),
            rules=(Rule("b", rounding="gptq"),),
        )
    )
    for name, method in (("a", "balanced"), ("b", "gptq")):
        alone = weights(quantized(products(), InsertQdq(), RoundWeights(method)))
        assert (both[name].array == alone[name].array).all()
        other = weights(quantized(products(), InsertQdq(), RoundWeights("nearest")))[name]
        assert not (both[name].array == other.numpy(other.x.array)).all()


def test_products_of_one_value_are_each_rounded_by_their_own_method() -> None:
    x = Input(TensorType(FLOAT, (4, 6)), name="x")
    w = [np.random.default_rng(i).normal(size=(6, 6)).astype(FLOAT) for i in range(2)]
    first, second = (MatMul(x, Constant(v), name=n) for v, n in zip(w, "ab", strict=True))
    graph = Graph((x,), {"y": first, "z": second})
    rules = (Rule("b", rounding="nearest"),)
    codes = weights(quantized(graph, InsertQdq(), RoundWeights(), rules=rules))
    assert isinstance(codes["a"], Constant)
    assert isinstance(codes["b"], Quantize)


def test_a_method_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="method: expected one of nearest, balanced, gptq"):
        RoundWeights("stochastic")


def test_contracts_come_before_samples() -> None:
    x = Input(TensorType(FLOAT, (1, 2, 3)), name="x")
    ones = Constant(np.ones(2, FLOAT))
    graph = Graph((x,), {"y": BatchNormalization(x, ones, ones, ones, ones)})
    with pytest.raises(ContractError, match="insert-qdq requires no_batch_norm"):
        qcompiler.quantize(graph, untouched, options=Options(passes=(InsertQdq(),)))


def test_samples_that_nobody_needs_are_not_read() -> None:
    assert qcompiler.quantize(products(), untouched, options=Options(passes=DEFAULT[: SPLIT - 1]))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (
            InsertQdq(),
            "'first' has no range: let qcompiler.quantize run the pass on calibration data",
        ),
        (DEFAULT[SPLIT - 1], "'norm' has no range per channel: let qcompiler.quantize"),
        (DEFAULT[SPLIT], "'hidden' has no range per channel: let qcompiler.quantize"),
    ],
)
def test_a_pass_without_ranges_says_what_to_do(step: Pass, words: str) -> None:
    real = PassManager(DEFAULT[: SPLIT - 1])(network())
    with pytest.raises(CalibrationError, match=words) as caught:
        step(real)
    assert "\n" not in str(caught.value)


def test_rounding_without_moments_says_what_to_do() -> None:
    graph = quantized(products(), InsertQdq())
    with pytest.raises(CalibrationError, match=r"round-weights: value '.*' has no moments: let"):
        RoundWeights()(graph)


CONFIGS = (
    QuantizationConfig(),
    QuantizationConfig(method="percentile"),
    QuantizationConfig(method="mse"),
    QuantizationConfig(method="entropy"),
    QuantizationConfig(method="moving-average"),
    QuantizationConfig(weights="int4"),
    QuantizationConfig(rounding="balanced"),
    QuantizationConfig(softmax="shift", residuals="int12"),
    QuantizationConfig(table_scales=1, outputs="int16"),
    QuantizationConfig(rules=(Rule("second", weights="int3"),), normalization="i-vit"),
)


def test_ten_configurations_run_the_float_model_as_often_as_one(monkeypatch) -> None:
    runs = 0
    run = onnxruntime.InferenceSession.run

    def counted(*arguments: object) -> object:
        nonlocal runs
        runs += 1
        return run(*arguments)

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", counted)
    alone = [qcompiler.quantize(network(), SAMPLES, options=Options(config=c)) for c in CONFIGS]
    each = runs / len(CONFIGS)
    assert each == 3 * len(SAMPLES) / 4  # for each of three passes
    runs = 0
    seen = Calibration(network(), SAMPLES)
    together = [qcompiler.quantize(network(), seen, options=Options(config=c)) for c in CONFIGS]
    assert runs == each
    assert list(map(str, together)) == list(map(str, alone))
    assert len(set(map(str, together))) >= 8  # so few samples have no percentile to clip
    assert not any(list(float_ops(graph)) for graph in together)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # One asks for scales of channels that the other does without.
        (Options(config=QuantizationConfig(table_scales=1)), Options()),
        # A pass looks at channels alone, and what it leaves alone then wants a histogram.
        (
            Options(passes=(*DEFAULT[:SPLIT], SplitChannels(gain=1e9))),
            Options(
                passes=(*DEFAULT[:SPLIT], SplitChannels(gain=1e9), *DEFAULT[PLACE:]),
                config=QuantizationConfig(method="mse"),
            ),
        ),
    ],
    ids=["channels", "histogram"],
)
def test_what_was_not_looked_at_closely_enough_is_looked_at_again(
    first: Options, second: Options
) -> None:
    seen = Calibration(network(), SAMPLES)
    for options in (first, second, first):
        again = qcompiler.quantize(network(), seen, options=options)
        assert str(again) == str(qcompiler.quantize(network(), SAMPLES, options=options))


def test_moments_are_kept_too(monkeypatch) -> None:
    config = QuantizationConfig(rounding="gptq")
    seen = Calibration(products(), SAMPLES)
    first = qcompiler.quantize(products(), seen, options=Options(config=config))
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", None)
    assert str(qcompiler.quantize(products(), seen, options=Options(config=config))) == str(first)


def test_a_calibration_is_for_the_inputs_that_it_was_made_for() -> None:
    x = Input(TensorType(FLOAT, (4, 7)), name="x")
    with pytest.raises(CalibrationError, match=r"x: float32\[4, 6\], found x: float32\[4, 7\]"):
        qcompiler.quantize(Graph((x,), {"y": Relu(x)}), Calibration(products(), SAMPLES))


def test_values_that_are_computed_otherwise_have_other_fingerprints() -> None:
    """Also where only a weight, a constant, an attribute or an optional operand differs."""
    x = Input(TensorType(FLOAT, (4, 6)), name="x")
    w = np.eye(6, dtype=FLOAT)
    tanh, relu = (Graph((x,), {"y": f(x)}) for f in (Tanh, Relu))
    values = [
        x,
        Map(x, tanh),
        Map(x, relu),
        Relu(x),
        Add(x, Constant(w[0])),
        Add(Constant(w[0]), x),
        MatMul(x, Constant(w)),
        MatMul(x, Constant(w[::-1].copy())),
        MatMul(x, Constant(w), Constant(w[0])),
        Softmax(x, 0),
        Softmax(x, 1),
        Normalize(x, (1,), 1e-5),
        Normalize(x, (1,), 1e-6),
    ]
    graph = Graph((x,), {str(i): value for i, value in enumerate(values)})
    found = fingerprints(graph)
    assert len({found[value] for value in values}) == len(values)
    again = Add(x, Constant(w[0].copy()), name="another", sources=("node",))
    assert fingerprints(Graph((x,), {"y": again}))[again] == found[values[4]]


def test_functions_have_the_fingerprints_of_their_regions() -> None:
    real = PassManager(DEFAULT[: SPLIT - 1])(network())
    again = PassManager(DEFAULT[: SPLIT - 1])(network())
    assert [*fingerprints(real).values()] == [*fingerprints(again).values()]
    assert len(set(fingerprints(real).values())) == len(real.ops)


@pytest.mark.parametrize("text", ["insert-qdq{config=3}", "round-weights{moments=3}"])
def test_what_passes_are_given_is_no_option_of_the_command_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"=3', expected (no options|method=…, damping=…, most)"):
        parse_pass(text, BUILT_IN)
