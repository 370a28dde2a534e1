"""`--save-on-error`: whatever a pass fails on is in a file, from which it fails again."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import qcompiler.passes
from qcompiler.errors import OutputError, TypingError, UsageError
from qcompiler.graph import Graph
from qcompiler.graph.archive import read_note
from qcompiler.invariants import Invariant
from qcompiler.ops import Relu
from qcompiler.passes import Pass


@dataclass(frozen=True)
class Break(Pass):
    """Raises its error."""

    how: str = "ValueError"
    times: int = 1

    def run(self, graph: Graph) -> Graph:
        if self.how == "OSError":
            raise OSError(28, "disk full")
        kinds: tuple[type[Exception], ...] = (ValueError, MemoryError, UsageError, TypingError)
        raise {kind.__name__: kind for kind in kinds}[self.how]("no\ngood")


def nothing_at_all(graph: Graph) -> Any:
    """Never holds."""
    return [node.label() for node in graph.ops]


@dataclass(frozen=True)
class Demand(Pass):
    """Requires what no graph is."""

    requires: ClassVar[tuple[Invariant, ...]] = (nothing_at_all,)


@dataclass(frozen=True)
class Promise(Pass):
    """Ensures what no graph is."""

    ensures: ClassVar[tuple[Invariant, ...]] = (nothing_at_all,)

    def run(self, graph: Graph) -> Graph:
        return graph.with_outputs({y: Relu(y) for y in graph.outputs.values()})


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    built_in = (*qcompiler.passes.BUILT_IN, Break, Demand, Promise)
    monkeypatch.setattr(qcompiler.passes, "BUILT_IN", built_in)


@pytest.mark.parametrize(
    ("step", "code", "words"),
    [
        ("break{times=2}", 70, "pass break{times=2} was given"),
        ("break{how=TypingError}", 12, "pass break{how=TypingError} was given"),
        ("demand", 11, "pass demand requires nothing_at_all"),
        ("promise", 11, "pass promise must ensure nothing_at_all"),
    ],
)
def test_defects_leave_the_graph_that_the_pass_was_given(qcompile, tiny, step, code, words):
    tiny()
    name = step.partition("{")[0]
    command = ("--passes", f"canonicalize,{step}", "--stop-after", name)
    result = qcompile("tiny.onnx", *command, "--save-on-error", "failed.qgraph")
    assert result.code == code
    assert re.fullmatch(r"qcompile: error: [^\n]+\n", result.err)
    assert words in result.err
    assert f"failed.qgraph holds the graph that pass {step} was given" in result.err
    expected = qcompile("tiny.onnx", "--passes", "canonicalize", "--stop-after", "canonicalize")
    assert f"{Graph.load('failed.qgraph')}\n" == expected.out
    assert read_note(Path("failed.qgraph")).startswith(name.capitalize())
    again = qcompile("failed.qgraph", "--passes", step, "--stop-after", name)
    assert again.code == code
    assert result.err.startswith(again.err[:-1])


@pytest.mark.parametrize(("how", "code"), [("UsageError", 2), ("OSError", 74), ("MemoryError", 74)])
def test_what_is_no_defect_leaves_nothing(qcompile, tiny, how, code):
    tiny()
    command = ("--passes", f"break{{how={how}}}", "--stop-after", "break", "--save-on-error", "f")
    result = qcompile("tiny.onnx", *command)
    assert result.code == code
    assert result.files == {"tiny.onnx"}
    assert "holds" not in result.err


def test_success_leaves_nothing(qcompile, tiny):
    tiny()
    result = qcompile("tiny.onnx", "--stop-after", "canonicalize", "--save-on-error", "f")
    assert (result.code, result.files) == (0, {"tiny.onnx"})


def test_where_no_pass_has_begun_nothing_is_saved(qcompile, tiny, monkeypatch):
    tiny()

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("broken")

    monkeypatch.setattr("qcompiler.driver.import_model", fail)
    result = qcompile("tiny.onnx", "--stop-after", "canonicalize", "--save-on-error", "f")
    assert result.code == 70
    assert result.err.endswith("; no pass had begun, so no graph is saved\n")


def test_the_file_is_tried_before_the_work(refused, tiny):
    tiny()
    refused(9, "tiny.onnx", "--save-on-error", "gone/f", words=("gone/f", "cannot be written"))
    refused(9, "tiny.onnx", "--save-on-error", "tiny.onnx", words=("tiny.onnx", "is what is read"))


def test_an_unwritable_file_hides_no_error(qcompile, tiny, monkeypatch):
    def fail(*_: Any) -> None:
        raise OutputError("f: disk full")

    tiny()
    monkeypatch.setattr(Graph, "save", fail)
    command = ("--passes", "break", "--stop-after", "break", "--save-on-error", "f")
    result = qcompile("tiny.onnx", *command)
    assert result.code == 70
    assert result.err.endswith("; no graph is saved: f: disk full\n")


def test_compare_saves_too(qcompile, tiny, samples):
    arguments = (
        tiny(),
        "--calib",
        samples(),
        "--data",
        "calib.npz",
        "--passes",
        "break,insert-qdq",
    )
    result = qcompile("compare", *arguments, "--save-on-error", "f")
    assert result.code == 70
    assert "f holds the graph that pass break was given" in result.err


def test_inspect_says_what_a_graph_was_saved_for(qcompile, tiny):
    tiny()
    command = ("--passes", "canonicalize,break", "--stop-after", "break", "--save-on-error", "f")
    qcompile("tiny.onnx", *command)
    facts = json.loads(qcompile("inspect", "f", "--json").out)
    assert facts["kind"] == "graph"
    assert facts["note"] == ["Break(how='ValueError', times=1)", "ValueError: no", "good"]
    assert [(x["name"], x["shape"]) for x in facts["inputs"]] == [("x", [1, 4])]
    assert facts["operators"] == {"mat_mul": 1, "relu": 1}
    shown = qcompile("inspect", "f").out
    assert "ValueError: no" in shown
    assert "x: float32[1x4]" in shown


def test_a_saved_graph_compiles_like_its_model(qcompile, tiny, samples):
    real, calib = qcompiler.import_onnx(tiny()), samples()
    real.save("real.qgraph")
    outputs = [
        qcompile(name, "--calib", calib, "--stop-after", "integerize").out
        for name in ("tiny.onnx", "real.qgraph")
    ]
    assert outputs[0] == outputs[1]
    assert "requantize" in outputs[0]
