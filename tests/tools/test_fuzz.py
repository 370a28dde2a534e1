"""The fuzzer draws valid graphs of every operator, and finds and reduces what is broken."""

from __future__ import annotations

import numpy as np
import pytest
from fuzz import read, write
from fuzz_check import check
from fuzz_draft import GENERATORS
from fuzz_graphs import Case, draw, missing, operators
from fuzz_reduce import reduce
from fuzz_runtime import RejectedError, build, run
from onnx import helper

import qcompiler
from qcompiler.errors import CalibrationError, ModelError
from qcompiler.ops import Relu, Requantize


def test_every_operator_has_a_generator() -> None:
    assert missing() == []


@pytest.mark.parametrize("op_type", sorted(set(operators()) & set(GENERATORS)))
def test_draws_valid_graphs_with_the_operator(op_type: str) -> None:
    found = 0
    for seed in range(12):
        try:
            case = draw(seed, op_type)
            ran = run(case.model, case.feeds)
        except RejectedError:
            continue
        found += op_type.rpartition(".")[2] in case.operators and bool(ran)
        if found == 2:
            break
    assert found == 2


def test_a_seed_is_one_graph() -> None:
    one, other = draw(5), draw(5)
    assert one.model == other.model
    for a, b in zip(one.feeds, other.feeds, strict=True):
        for name, x in a.items():
            np.testing.assert_array_equal(x, b[name])


@pytest.fixture
def chain() -> Case:
    """Five nodes, two outputs, three samples."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Abs", ["x0"], ["v0"], name="n0"),
        helper.make_node("MatMul", ["v0", "c0"], ["v1"], name="n1"),
        helper.make_node("Relu", ["v1"], ["v2"], name="n2"),
        helper.make_node("Add", ["v2", "x1"], ["v3"], name="n3"),
        helper.make_node("Tanh", ["v3"], ["v4"], name="n4"),
    ]
    x, y = rng.standard_normal((2, 4, 8), np.float32)
    weight = rng.standard_normal((8, 8), np.float32)
    inputs, outputs = {"x0": x, "x1": y}, {"v2": x, "v4": x}
    model = build(nodes, inputs, {"c0": weight}, outputs, 17)
    return Case(0, model, ({"x0": x, "x1": y}, {"x0": y, "x1": x}, {"x0": x, "x1": x}))


def test_a_sound_graph_passes(chain: Case) -> None:
    assert check(chain).kind == "integer"


def test_a_wrong_import_is_found_and_reduced(chain: Case, monkeypatch) -> None:
    exact = Relu.numpy
    monkeypatch.setattr(Relu, "numpy", lambda self, x: exact(self, x) + np.float32(0.25))
    assert check(chain, library=False).kind == "import"
    small = reduce(chain, lambda c: check(c, library=False).kind == "import")
    assert small.operators == ("Relu",)
    assert [x.size for feed in small.feeds for x in feed.values()] == [1]


@pytest.mark.parametrize("library", [False, True])
def test_different_bits_are_found_and_reduced(chain: Case, library: bool, monkeypatch) -> None:
    exact = Requantize.numpy
    monkeypatch.setattr(Requantize, "numpy", lambda self, *x: exact(self, *x) ^ 1)
    found = check(chain, library=library)
    assert (found.kind, found.what) == ("bits", "integer ONNX: values")
    if not library:
        small = reduce(chain, lambda c: check(c, library=False).what == found.what)
        assert len(small.operators) == 1


def test_a_loss_of_accuracy_is_found(chain: Case, monkeypatch) -> None:
    real, coarse = qcompiler.quantize, {k: x * 1e-3 for k, x in chain.feeds[0].items()}
    shrunk = {k: x.astype(np.float32) for k, x in coarse.items()}
    monkeypatch.setattr(qcompiler, "quantize", lambda graph, feeds: real(graph, [shrunk]))
    assert check(chain, library=False).kind == "accuracy"


def test_a_crash_is_found(chain: Case, monkeypatch) -> None:
    monkeypatch.setattr(Relu, "infer", lambda self: 1 // 0)
    found = check(chain, library=False)
    assert (found.kind, found.what.partition(" ")[0]) == ("crash", "ZeroDivisionError")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CalibrationError("value 'v1': not finite"), "refused"),
        (CalibrationError("value 'map': not finite"), "refusal"),  # what is that?
        (CalibrationError("value 'v1':\nnot finite"), "refusal"),
        (ModelError("node 'n1' is damaged"), "refusal"),  # it is not
    ],
)
def test_refusals_say_what_is_wrong(chain: Case, error: Exception, kind: str, monkeypatch) -> None:
    def quantize(graph: object, feeds: object) -> None:
        raise error

    monkeypatch.setattr(qcompiler, "quantize", quantize)
    assert check(chain, library=False).kind == kind


def test_written_graphs_are_read(chain: Case, tmp_path) -> None:
    again = read(write(chain, tmp_path, "seed7"))
    assert again.model == chain.model
    for a, b in zip(again.feeds, chain.feeds, strict=True):
        for name, x in b.items():
            np.testing.assert_array_equal(a[name], x)
