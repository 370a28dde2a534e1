"""Float against integer, value by value: known errors, one rounding at a time, bounded memory."""

from __future__ import annotations

import dataclasses
import gc
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from example import Example
from PIL import Image
from tiny import tiny_graphs

import qcompiler.compare
from qcompiler import fixed_point
from qcompiler.calibrate import SampleOptions, samples
from qcompiler.compare import compare, compare_library, stages
from qcompiler.config import QuantizationConfig, Rule
from qcompiler.driver import Options, quantize
from qcompiler.errors import CalibrationError, UsageError
from qcompiler.frontends.onnx import import_onnx
from qcompiler.graph import Constant, Graph, Input, Op, fold
from qcompiler.interpret import evaluate
from qcompiler.ops import Add, MatMul, Quantize, Relu
from qcompiler.passes import DEFAULT, LOWERING, PassManager, without
from qcompiler.report import observe
from qcompiler.report.comparison_files import to_html, to_json
from qcompiler.report.deviation import DeviationSums, looks_like_scores
from qcompiler.types import FLOAT, Quantization, TensorType

DIGITS = Path(__file__).parents[1] / "models" / "digits"
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "vit_tiny_tinyimagenet"

MLP = {e.name: e for e in tiny_graphs()}["mlp"]


def shifted(shift: float, size: int = 4) -> Graph:
    """y = relu(x + shift)."""
    x = Input(TensorType(FLOAT, (1, size)), name="x")
    y = Add(x, Constant(np.full((size,), shift, FLOAT)), name="sum")
    return Graph((x,), {"y": Relu(y, name="y")})


def feeds_of(example: Example, number: int) -> list[dict[str, np.ndarray]]:
    return [example.feeds(np.random.default_rng(seed)) for seed in range(number)]


def vectors(number: int) -> list[dict[str, np.ndarray]]:
    """Feeds of `shifted`."""
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, 4)).astype(FLOAT)} for _ in range(number)]


def with_names(graph: Graph) -> Graph:
    """Every value called as it prints."""

    def visit(node: Op, operands: list[Op]) -> Op:
        if isinstance(node, (Input, Constant)):
            return node
        return dataclasses.replace(node.with_operands(operands), name=graph.names[node])

    return graph.with_outputs(fold(graph.ops, {}, visit))


@pytest.fixture(scope="module")
def digits():
    """The digits CNN: stages, and 20 samples."""
    graph = import_onnx(DIGITS / "cnn.onnx")
    inputs = {"x": (FLOAT, (1, 1, 8, 8))}
    feeds = samples(DIGITS / "test.npz", inputs, options=SampleOptions(num_samples=20))
    return stages(graph, DIGITS / "calib.npz"), list(feeds)


def test_deviation_of_a_known_error_is_exact():
    feeds = [{"x": np.array([[1, 2, 3, 4]], FLOAT)}, {"x": np.array([[4, 3, 2, 1]], FLOAT)}]
    found = compare(shifted(0.0), shifted(1.0), feeds)
    (output,) = found.outputs
    for deviation in (output.deviation, *(row.cumulative for row in found.rows)):
        assert deviation.sqnr == 10 * math.log10(60 / 8)
        assert deviation.cosine == pytest.approx(80 / math.sqrt(60 * 108), rel=1e-12)
        assert deviation.max_abs == 1.0
    assert [row.name for row in found.rows] == ["sum", "y"]
    assert found.runs == 2


@pytest.mark.parametrize("example", tiny_graphs(), ids=lambda e: e.name)
def test_equal_graphs_do_not_deviate(example):
    graph = with_names(example.graph)
    found = compare(graph, graph, feeds_of(example, 2))
    deviations = [row.cumulative for row in found.rows] + [y.deviation for y in found.outputs]
    assert found.rows
    for deviation in deviations:
        assert (deviation.sqnr, deviation.max_abs) == (math.inf, 0.0)
        assert deviation.cosine == pytest.approx(1.0, abs=1e-12)
        assert deviation.agreement in (None, 1.0)


def test_codes_at_the_ends_of_their_storage():
    q = Quantization("uint8", (0.5, 0.25), (0, 10), axis=1)
    sums = DeviationSums(q)
    codes = np.array([[0, 0], [255, 255], [1, 9]], np.uint8)
    sums.update(fixed_point.dequantize(codes, q), codes)
    found = sums.result()
    assert found.saturation == 3 / 6  # code 0 of the first channel is real 0
    assert (found.sqnr, found.max_abs) == (math.inf, 0.0)
    sums.update(np.array([[0.0, 0.0]]), np.array([[1, 10]], np.uint8))
    assert sums.result().max_abs == 0.5


def test_references_of_zero():
    sums = DeviationSums()
    sums.update(np.zeros(3), np.zeros(3))
    assert (sums.result().sqnr, sums.result().cosine) == (math.inf, 1.0)
    sums.update(np.zeros(3), np.ones(3))
    assert (sums.result().sqnr, sums.result().cosine) == (-math.inf, 0.0)


def test_agreement_counts_rows():
    sums = DeviationSums(scores=True)
    sums.update(np.array([[1, 2], [2, 1]]), np.array([[1, 9], [1, 3]]))
    assert sums.result().agreement == 0.5
    scores = {(1, 10): True, (2, 10, 1, 1): True, (1, 1): False, (10,): False, (1, 3, 8, 8): False}
    assert {s: looks_like_scores(TensorType(FLOAT, s)) for s in scores} == scores
    assert not looks_like_scores(TensorType("int64", (1, 10)))


def test_isolated_input_and_product():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3)).astype(FLOAT)
    x = Input(TensorType(FLOAT, (1, 4)), name="x")
    head = Constant(rng.standard_normal((3, 2)).astype(FLOAT))
    graph = Graph((x,), {"y": MatMul(Relu(MatMul(x, Constant(weight))), head, name="y")})
    feeds = vectors(5)
    passes = without(DEFAULT, ["equalize-cross-layer", "reparameterize-scales"])
    made = stages(graph, feeds, options=Options(passes=passes))
    found = compare(made.real, made.quantized, feeds, mode="isolated")
    rows = {row.name: row for row in found.rows}
    meanings = {n.name: n.quantization for n in made.quantized.ops if isinstance(n, Quantize)}
    assert list(rows) == ["x", "relu", "y"]

    w = fixed_point.dequantize(
        fixed_point.quantize(weight, q := fixed_point.weight_quantization(weight, "int8", 1)), q
    )
    own, ends = {n: DeviationSums(meanings[n]) for n in rows}, {n: DeviationSums() for n in rows}
    for feed in feeds:
        exact = evaluate(made.real, feed)["y"]
        codes = fixed_point.quantize(feed["x"], meanings["x"])
        own["x"].update(feed["x"], codes)
        rounded = fixed_point.dequantize(codes, meanings["x"])
        ends["x"].update(exact, np.maximum(rounded @ weight, 0) @ head.array)
        codes = fixed_point.quantize(np.maximum(feed["x"] @ w, 0), meanings["relu"])
        own["relu"].update(np.maximum(feed["x"] @ weight, 0), codes)
        ends["relu"].update(exact, fixed_point.dequantize(codes, meanings["relu"]) @ head.array)
    for name in ("x", "relu"):
        isolated = rows[name].isolated
        assert isolated.value.sqnr == pytest.approx(own[name].result().sqnr, abs=1e-3)
        assert isolated.effect == pytest.approx(ends[name].result().sqnr, abs=1e-3)
    assert rows["y"].isolated.effect == pytest.approx(rows["y"].isolated.value.sqnr, abs=1e-3)


@pytest.mark.parametrize("pattern", ["res1_relu/Relu", "pointwise_act/*"])
def test_bad_scale_is_ranked_worst(digits, pattern):
    config = QuantizationConfig(rules=(Rule(pattern, activations="uint2"),))
    graph, (_, feeds) = import_onnx(DIGITS / "cnn.onnx"), digits
    made = stages(graph, DIGITS / "calib.npz", options=Options(config=config))
    found = compare(made.real, made.integer, feeds, quantized=made.quantized, mode="isolated")
    worst, second = found.ordered("sqnr", 2)
    assert (worst.name.split("/")[0], worst.storage) == (pattern.split("/")[0], "uint2")
    assert worst.quality < second.quality - 10


def test_roundings_make_up_the_whole_error(digits):
    made, feeds = digits
    found = compare(made.real, made.integer, feeds, quantized=made.quantized, mode="both")
    noise = sum(10 ** (-row.isolated.effect / 10) for row in found.rows if row.isolated)
    (output,) = found.outputs
    assert -10 * math.log10(noise) == pytest.approx(output.deviation.sqnr, abs=1.5)
    assert output.deviation.agreement == 1.0


def test_two_widths_of_one_value_are_two_rows(digits):
    made, feeds = digits
    found = compare(made.real, made.integer, feeds, quantized=made.quantized, mode="both")
    wide, narrow = (row for row in found.rows if row.name == "stem_relu/Relu")
    assert (wide.storage, narrow.storage) == ("int16", "uint8")
    assert wide.nodes == narrow.nodes != ()
    assert wide.cumulative.sqnr > narrow.cumulative.sqnr
    (pool,) = (row for row in found.rows if row.kind == "max_pool")
    assert pool.cumulative is not None
    assert pool.isolated is None  # it moves codes


@pytest.mark.parametrize("example", tiny_graphs(), ids=lambda e: e.name)
def test_every_rounding_of_unnamed_values_is_compared(example):
    feeds = feeds_of(example, 4)
    made = stages(example.graph, feeds)
    found = compare(made.real, made.integer, feeds, quantized=made.quantized, mode="both")
    places = [list(made.real.names.values()).index(row.name) for row in found.rows]
    assert places == sorted(places)
    assert any(row.isolated for row in found.rows)
    for row in found.rows:
        if row.isolated is not None:
            assert row.isolated.value.sqnr > 15
    for y in found.outputs:
        assert 15 < y.deviation.sqnr < math.inf
    plain = quantize(example.graph, feeds)
    for feed in feeds:
        expected, got = evaluate(plain, feed), evaluate(made.integer, feed)
        assert all(np.array_equal(expected[name], got[name]) for name in expected)


def test_chunks_change_nothing(digits, monkeypatch):
    made, feeds = digits
    sessions = []
    load = observe.session
    monkeypatch.setattr(
        observe, "session", lambda graph, threads: sessions.append(graph) or load(graph, threads)
    )
    results, counts = [], []
    for size in (1, 1 << 28):
        found = compare(
            made.real,
            made.integer,
            feeds[:3],
            quantized=made.quantized,
            mode="both",
            options=observe.ObserveOptions(chunk_bytes=size),
        )
        results.append(found)
        counts.append(len(sessions))
        sessions.clear()
    assert results[0] == results[1]
    values = sum(row.cumulative is not None for row in found.rows)
    variants = sum(row.isolated is not None for row in found.rows)
    assert counts == [values + 1 + 2 * variants, 2]


def test_sessions_hold_so_many_variants(digits, monkeypatch):
    made, feeds = digits
    sessions = []
    load = observe.session
    monkeypatch.setattr(
        observe, "session", lambda graph, threads: sessions.append(graph) or load(graph, threads)
    )
    monkeypatch.setattr(qcompiler.compare, "VARIANTS", 4)
    found = compare(made.real, made.quantized, feeds[:1], mode="isolated")
    variants = sum(row.isolated is not None for row in found.rows)
    assert len(sessions) == -(-variants // 4) > 1


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("quantized", {"stem_bn/BatchNormalization": ["float32"], "Reshape": ["uint8"]}),
        ("integer", {}),  # in an accumulator, and only moved
    ],
)
def test_which_values_are_compared(digits, stage, expected):
    made, feeds = digits
    found = compare(made.real, getattr(made, stage), feeds)
    storages: dict[str, list[str]] = {}
    for row in found.rows:
        storages.setdefault(row.name, []).append(row.storage)
    assert storages["stem_relu/Relu"] == ["int16", "uint8"]
    names = ("stem_bn/BatchNormalization", "Reshape")
    assert {name: storages[name] for name in names if name in storages} == expected


def test_values_of_other_layouts_are_left_out(digits):
    made, feeds = digits
    integer = PassManager(LOWERING)(made.integer)
    found = compare(made.real, integer, feeds)
    names = [row.name for row in found.rows]
    assert "logits" in names
    assert "stem_relu/Relu" not in names
    assert found.outputs == compare(made.real, made.integer, feeds).outputs


class Stream:
    """Feeds that are made while they are walked."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for seed in range(self.number):
            rng = np.random.default_rng(seed)
            yield {"x": rng.standard_normal((1, 8192)).astype(FLOAT)}


@pytest.mark.parametrize("mode", ["cumulative", "isolated"])
def test_memory_does_not_grow_with_the_samples(mode):
    made = stages(shifted(0.5, 8192), Stream(4))
    peaks = []
    for number in (4, 4, 100):
        gc.collect()
        tracemalloc.start()
        found = compare(
            made.real, made.integer, Stream(number), quantized=made.quantized, mode=mode
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.runs == number
    assert peaks[2] < peaks[1] + 200_000  # 96 more samples are 3 MB


def test_library(digits):
    made, feeds = digits
    calls = 0

    def library(feed):
        nonlocal calls
        calls += 1
        found = evaluate(made.integer, feed)["logits"]
        if calls == 2:
            found[0, 0] += 1
        return {"logits": found}

    (y,) = compare_library(library, made.real, feeds, integer=made.integer).library
    assert (y.name, y.elements, y.differing) == ("logits", 200, 1)
    assert y.deviation.agreement == 1.0
    calls = 2
    (y,) = compare_library(library, made.real, feeds).library
    assert y.differing is None
    assert y.deviation == compare(made.real, made.integer, feeds).outputs[0].deviation
    wide = compare_library(
        lambda feed: {"logits": evaluate(made.integer, feed)["logits"].astype(np.float64)},
        made.real,
        feeds,
        integer=made.integer,
    )
    assert wide.library[0].differing == 200
    with pytest.raises(UsageError, match="no output 'logits'"):
        compare_library(lambda feed: {"other": feed["x"]}, made.real, feeds)


def test_orders(digits):
    made, feeds = digits
    found = compare(made.real, made.integer, feeds)
    assert found.ordered() == found.rows
    ranked = found.ordered("sqnr")
    qualities = [row.quality for row in ranked]
    assert qualities == sorted(qualities)
    assert set(found.ordered("network", 3)) == set(ranked[:3])
    names = [row.name for row in found.ordered("name")]
    assert names == sorted(names)
    broken = dataclasses.replace(ranked[-1], cumulative=dataclasses.replace(
        ranked[-1].cumulative, sqnr=math.nan))  # fmt: skip
    worse = dataclasses.replace(found, rows=(*found.rows, broken))
    assert worse.ordered("sqnr", 1) == (broken,)


def test_files_of_names_that_look_like_markup():
    found = compare(shifted(0.0), shifted(0.0), vectors(1))
    odd = dataclasses.replace(found.rows[0], name="<b>[red]&", nodes=("<i>",))
    page = to_html(dataclasses.replace(found, rows=(odd,)), (odd,))
    assert "&lt;b&gt;[red]&amp;" in page
    assert "<i>" not in page
    assert 'class="worst"' not in page  # it does not deviate
    assert '"sqnr": null' in to_json(found, found.rows)


def test_feeds_may_come_only_once():
    made = stages(shifted(0.0), iter(vectors(4)))
    options = {"quantized": made.quantized, "mode": "both"}
    once = compare(made.real, made.integer, iter(vectors(2)), **options)
    found = compare(made.real, made.integer, vectors(2), **options)
    assert to_json(once, once.rows) == to_json(found, found.rows)


def test_refusals():
    graph, feeds = shifted(0.0), vectors(1)
    with pytest.raises(CalibrationError, match="no samples to compare on"):
        compare(graph, graph, [])
    with pytest.raises(UsageError, match="mode 'all': expected one of cumulative"):
        compare(graph, graph, feeds, mode="all")
    with pytest.raises(UsageError, match=r"isolated mode: found .* where the real graph has"):
        compare(graph, Graph(graph.inputs, {"y": Relu(graph.inputs[0])}), feeds, mode="isolated")
    with pytest.raises(UsageError, match="input 'x': expected"):
        compare(graph, graph, [{"x": np.zeros((1, 5), FLOAT)}])
    with pytest.raises(UsageError, match="passes insert-qdq: no such pass here"):
        stages(graph, feeds, options=Options(passes=()))
    with pytest.raises(UsageError, match="input x"):
        compare(graph, MLP.graph, feeds)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is absent")
def test_vision_transformer():
    def images(name: str, number: int) -> list[dict[str, np.ndarray]]:
        with np.load(SHARED / name) as archive:
            pixels = archive["x"][:number]
        found = []
        for x in pixels:
            image = Image.fromarray(x).resize((256, 256), Image.Resampling.BILINEAR)
            crop = np.asarray(image.crop((16, 16, 240, 240)), FLOAT).transpose(2, 0, 1)
            found.append(((crop / 255 - 0.5) / 0.5).astype(FLOAT)[None])
        return [{str(graph.inputs[0].name): x} for x in found]

    graph = import_onnx(SHARED / "model.onnx")
    made = stages(graph, images("calib.npz", 4))
    found = compare(made.real, made.integer, images("val.npz", 2))
    assert len(found.rows) > 100
    assert all(0 < row.cumulative.sqnr < 80 for row in found.rows)
    first, last = found.rows[1].cumulative, found.outputs[0].deviation
    assert first.sqnr > last.sqnr
