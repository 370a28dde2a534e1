"""Networks that remember: states as codes, from the samples to the session."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from recurrent import FEATURES, UNITS, recurrent, sequence

import qcompiler
from qcompiler.backends.onnx import export_onnx
from qcompiler.batching import rebatched
from qcompiler.calibrate.rollout import rolled_out
from qcompiler.errors import UsageError
from qcompiler.graph import Graph, Input
from qcompiler.interpret import evaluate
from qcompiler.invariants import float_ops
from qcompiler.ops import FakeQuantize, Relu
from qcompiler.passes import QuantizeStates, StoreStates
from qcompiler.states import with_states
from qcompiler.types import FLOAT, Quantization, TensorType

STEPS = 40


def outputs(graph: Graph, steps: np.ndarray) -> list[np.ndarray]:
    """y of each step by the reference, from a state of zeros."""
    h = next(x for x in graph.inputs if x.name == "h")
    q = h.type.quantization
    state = np.full(h.type.shape, 0 if q is None else q.zero_point[0], h.type.dtype)
    found = []
    for x in steps:
        result = evaluate(graph, {"x": x[None], "h": state})
        state = result["after"]
        found.append(result["y"])
    return found


@pytest.fixture(scope="module")
def integer() -> Graph:
    return qcompiler.quantize(recurrent(), {"x": sequence(200)})


def test_states_are_codes_of_one_quantization(integer: Graph) -> None:
    (h,) = (x for x in integer.inputs if x.name == "h")
    assert h.type == integer.outputs["after"].type
    assert h.type.dtype == "int16"
    assert list(float_ops(integer)) == []


def test_the_integer_network_follows_the_float_one(integer: Graph) -> None:
    """Errors do not add up: the state is rounded once per step."""
    steps = sequence(STEPS, 2)
    expected, found = np.stack(outputs(recurrent(), steps)), np.stack(outputs(integer, steps))
    assert np.abs(expected - found).max() < 0.03 * np.abs(expected).max()


def test_samples_are_rolled_out() -> None:
    steps = sequence(5)
    feeds = [{"x": x[None]} for x in steps]
    whole = rolled_out(recurrent(), feeds)
    for _ in range(2):  # each walk begins with zeros
        seen = list(whole)
        assert not seen[0]["h"].any()
        for before, after in itertools.pairwise(seen):
            expected = evaluate(recurrent(), before)["after"]
            np.testing.assert_allclose(after["h"], expected, rtol=1e-5, atol=1e-6)


def test_onnx_runtime_has_the_same_bits(integer: Graph, tmp_path: Path) -> None:
    import onnxruntime

    export_onnx(integer, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    state = np.zeros((1, UNITS), np.int16)
    for x, expected in zip(sequence(10), outputs(integer, sequence(10)), strict=True):
        y, state = session.run(["y", "after"], {"x": x[None], "h": state})
        np.testing.assert_array_equal(y, expected)


def test_states_of_several_samples(integer: Graph) -> None:
    together = rebatched(integer, 3)
    steps = [sequence(6, seed) for seed in range(3)]
    state = np.zeros((3, UNITS), np.int16)
    alone = [outputs(integer, own) for own in steps]
    for i in range(6):
        found = evaluate(together, {"x": np.stack([own[i] for own in steps]), "h": state})
        state = found["after"]
        np.testing.assert_array_equal(found["y"], np.concatenate([own[i] for own in alone]))


def test_saved_graphs_keep_them(integer: Graph, tmp_path: Path) -> None:
    integer.save(tmp_path / "g")
    assert Graph.load(tmp_path / "g").states == {"h": "after"}


def test_codes_that_the_model_says_are_kept() -> None:
    q = Quantization.per_tensor("int8", 0.01)
    h = Input(TensorType(FLOAT, (1, 4)), name="h")
    graph = Graph((h,), {"after": Relu(FakeQuantize(h, q))}, states={"h": "after"})
    step = QuantizeStates()
    assert step.observed(graph) == {}
    found = step(graph)
    after = found.outputs["after"]
    assert isinstance(after, FakeQuantize)
    assert after.quantization == q
    assert step(found) is found


def test_a_state_that_stays_in_float_stays_real() -> None:
    config = qcompiler.QuantizationConfig(rules=(qcompiler.Rule("after", skip=True),))
    options = qcompiler.Options(config=config)
    found = qcompiler.quantize(recurrent(), {"x": sequence(64)}, options=options)
    (h,) = (x for x in found.inputs if x.name == "h")
    assert h.type.dtype == found.outputs["after"].type.dtype
    assert StoreStates()(found) is found


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ({"g": "after"}, "--state g=after: no input 'g'; expected one of x, h"),
        ({"h": "z"}, "--state h=z: no output 'z'; expected one of y, after"),
        ({"h": "y"}, r"--state h=y: expected an output float32\[1x16\], found float32\[1x4\]"),
    ],
)
def test_refusals(states: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        with_states(recurrent(states=False), states)
    x = Input(TensorType(FLOAT, (1, FEATURES)), name="x")
    with pytest.raises(UsageError, match="expected an input that is no state"):
        with_states(Graph((x,), {"y": Relu(x)}), {"x": "y"})
    twice = dataclasses.replace(x, name="z")
    with pytest.raises(UsageError, match="an output of its own"):
        with_states(Graph((x, twice), {"y": Relu(x)}), {"x": "y", "z": "y"})
