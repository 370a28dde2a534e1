"""Every pass through every tiny graph, under its contract."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from tiny import Example, tiny_graphs

from qcompiler.calibrate.moments import Moments
from qcompiler.config import QuantizationConfig
from qcompiler.errors import ContractError
from qcompiler.graph import Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.invariants import float_ops, well_formed
from qcompiler.ops import BatchNormalization
from qcompiler.passes import (
    BUILT_IN,
    DEFAULT,
    LOWERING,
    OPTIONAL,
    FoldBatchNorm,
    InsertQdq,
    Integerize,
    Pass,
    PassManager,
)
from qcompiler.passes.evidence import Evidence, FixedRanges
from qcompiler.types import FLOAT, TensorType

PLACE = next(i for i, step in enumerate(DEFAULT) if isinstance(step, InsertQdq))
SCALES, NOISE = OPTIONAL
INTEGERS = next(i for i, step in enumerate(DEFAULT) if isinstance(step, Integerize))
QUANTIZING = (
    *DEFAULT[:PLACE], SCALES, *DEFAULT[PLACE:INTEGERS], NOISE, *DEFAULT[INTEGERS:],
)  # fmt: skip
PIPELINE: tuple[Pass, ...] = (*QUANTIZING, *LOWERING)
GRAPHS = {example.name: example for example in tiny_graphs()}
# What a network of a few channels with 8-bit random weights loses, relative to its largest output.
QUANTIZATION_ERROR = 0.12


def observed_ranges(
    wanted: Mapping[str, int | None], graph: Graph, example: Example
) -> FixedRanges:
    rng = np.random.default_rng(1)
    ranges: dict[str, tuple[float, float]] = {}
    channels: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for _ in range(8):
        feeds = example.feeds(rng)
        env: dict[Op, np.ndarray] = {}
        for node in graph.ops:
            if isinstance(node, Input):
                env[node] = feeds[node.name]
            else:
                env[node] = node.numpy(*(env[x] for x in node.operands))
            name, seen = graph.names[node], env[node]
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = (
                min(low, float(seen.min(initial=0))),
                max(high, float(seen.max(initial=0))),
            )
            if (axis := wanted.get(name)) is not None:
                rows = np.moveaxis(seen, axis, -1).reshape(-1, seen.shape[axis])
                low, high = channels.get(name, (np.inf, -np.inf))
                channels[name] = (np.minimum(low, rows.min(0)), np.maximum(high, rows.max(0)))
    return FixedRanges(ranges, channels)


@dataclass(frozen=True)
class Observed:
    """What the example's random feeds show."""

    example: Example

    def ranges(
        self, graph: Graph, needed: Mapping[str, int | None], helpful: Mapping[str, int | None]
    ) -> FixedRanges:
        return observed_ranges({**helpful, **needed}, graph, self.example)

    def moments(self, graph: Graph, channels: Mapping[str, int]) -> Mapping[str, Moments]:
        assert not channels, "DEFAULT rounds to nearest"
        return {}


def prepared(step: Pass, graph: Graph, example: Example) -> Pass:
    return step.prepared(graph, Evidence(QuantizationConfig(), Observed(example)))


def stages(example: Example) -> list[tuple[Pass, Graph, Graph]]:
    """Each pass of the pipeline with the graph that it got and the one that it gave."""
    graph, found = example.graph, []
    for step in PIPELINE:
        new = prepared(step, graph, example)(graph)
        found.append((step, graph, new))
        graph = new
    return found


def largest(outputs: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(y).max()) for y in outputs.values())


def test_pipeline_has_every_pass():
    assert {type(step) for step in PIPELINE} == set(BUILT_IN)


@pytest.mark.parametrize("name", GRAPHS)
def test_contract(name):
    example = GRAPHS[name]
    rng = np.random.default_rng(2)
    feeds = [example.feeds(rng) for _ in range(3)]
    for step, before, after in stages(example):
        assert list(well_formed(after)) == []
        assert list(after.outputs) == list(before.outputs)
        assert [y.type.shape for y in after.outputs.values()] == [
            y.type.shape for y in before.outputs.values()
        ]
        for feed in feeds:
            old, new = evaluate(before, feed), evaluate(after, feed)
            for key in old:
                match step.preserves:
                    case "bits":
                        assert (old[key] == new[key]).all(), step.title()
                    case "reals":
                        # Integers round at other places: a few of the smallest steps of 8 bits.
                        error = np.abs(old[key] - new[key]).max()
                        exact = step.title() != "integerize"
                        bound = 1e-4 if exact else 0.03
                        assert error <= bound * max(largest(old), 1.0), step.title()


@pytest.mark.parametrize("name", GRAPHS)
def test_second_run_changes_nothing(name):
    for step, _, after in stages(GRAPHS[name]):
        if any(list(invariant(after)) for invariant in step.requires):
            with pytest.raises(Exception, match=f"pass {step.title()} requires"):
                step(after)
        else:
            assert prepared(step, after, GRAPHS[name])(after) is after, step.title()


@pytest.mark.parametrize("name", GRAPHS)
def test_pipeline_is_accurate_and_integer(name):
    example = GRAPHS[name]
    integer = stages(example)[len(QUANTIZING) - 1][2]
    assert [node.label() for node in float_ops(integer)] == []
    rng = np.random.default_rng(1)
    for _ in range(4):
        feed = example.feeds(rng)
        real, codes = evaluate(example.graph, feed), evaluate(integer, feed)
        for key in real:
            error = np.sqrt(np.mean((real[key] - codes[key]) ** 2))
            assert error <= QUANTIZATION_ERROR * largest(real), key


@pytest.mark.parametrize("name", GRAPHS)
def test_every_op_knows_its_origin(name):
    """What had a node name in the user's model still has one after all rewriting."""
    named = {s for node in GRAPHS[name].graph.ops for s in node.sources}
    final = stages(GRAPHS[name])[-1][2]
    left = {s for node in final.ops for s in node.sources}
    assert left <= named
    assert named - {"bn", "conv", "fc"} <= left


def test_computed_parameters_of_a_normalization_are_a_broken_contract():
    x, p = (Input(TensorType(FLOAT, shape), name=n) for n, shape in (("x", (1, 2, 4)), ("p", (2,))))
    graph = Graph((x, p), {"y": BatchNormalization(x, p, p, p, p, sources=("bn",))})
    with pytest.raises(ContractError, match=r"fold-batch-norm must ensure no_batch_norm: .*bn"):
        FoldBatchNorm()(graph)


def test_the_same_graph_gives_the_same_text():
    example = GRAPHS["residual"]
    assert str(stages(example)[-1][2]) == str(stages(example)[-1][2])


def test_wrong_order_is_a_readable_error():
    example = GRAPHS["residual"]
    with pytest.raises(Exception, match=r"pass insert-qdq requires no_batch_norm: batch_norm.*bn"):
        PassManager((InsertQdq(),))(example.graph)
