"""Graphs for several samples: what each gives is what it gives alone, bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
from tiny import Example, examples, tiny_graphs

from qcompiler.batching import output_axes, rebatched, sample_axes
from qcompiler.errors import UnsupportedError, UsageError
from qcompiler.graph import Constant, Graph, Input, Op, fold, op
from qcompiler.interpret import evaluate
from qcompiler.ops import Attention, Conv, Fused, ReduceMax, Relu, Reshape, Window
from qcompiler.types import FLOAT, TensorType

SAMPLES = 3
LOWERED = (Attention, Fused)
EXAMPLES = [e for e in examples() if e.graph.inputs and not isinstance(e.op, LOWERED)]
NETWORKS = [e for e in tiny_graphs() if any(x.type.shape[:1] == (1,) for x in e.graph.inputs)]
OWN_WEIGHTS = {
    "conv",
    "conv_integer",
    "mat_mul",
    "mat_mul_integer",
    "batch_normalization",
    "gather",
    "lookup",
}
"""Kinds whose second operand, or bias, may have to be the same for all samples."""


def per_sample(example: Example, batched: int) -> Graph:
    """The example's op behind inputs [1, …] of one sample; those behind `batched` are shared."""
    env: dict[Op, Op] = {}
    inputs = []
    for i, x in enumerate(example.graph.inputs):
        q, shape = x.type.quantization, x.type.shape
        if i >= batched or (q is not None and q.axis is not None):
            inputs.append(x)
            continue
        one = Input(dataclasses.replace(x.type, shape=(1, *shape)), name=x.name)
        inputs.append(one)
        env[x] = Reshape(one, shape)
    y = fold([example.op], env, lambda node, xs: node.with_operands(xs) if xs else node)[example.op]
    q = y.type.quantization
    if q is None or q.axis is None:
        y = Reshape(y, (1, *y.type.shape))
    axes = {
        str(x.name): 0 for x, old in zip(inputs, example.graph.inputs, strict=True) if x is not old
    }
    return Graph(tuple(inputs), {"y": y}, example.name, axes)


def assert_each_alone(graph: Graph, feeds: list[Mapping[str, np.ndarray]]) -> None:
    """The graph of all samples gives what `graph` gives for each."""
    axes, results = sample_axes(graph), output_axes(graph)
    together = rebatched(graph, len(feeds))
    shared = {name: x for name, x in feeds[0].items() if name not in axes}
    found = evaluate(
        together,
        {**shared, **{n: np.concatenate([f[n] for f in feeds], axis) for n, axis in axes.items()}},
    )
    for i, feed in enumerate(feeds):
        for name, expected in evaluate(graph, {**feed, **shared}).items():
            axis, y = results[name], found[name]
            one = y if axis is None else np.split(y, len(feeds), axis)[i]
            if expected.dtype.kind == "f":
                np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-5)
            else:
                np.testing.assert_array_equal(one, expected)


@pytest.mark.parametrize("batched", [1, 9])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_every_op(example: Example, batched: int) -> None:
    graph = per_sample(example, batched)
    if not graph.open_batch:
        pytest.skip("scales per channel lie along the axis in front")
    rng = np.random.default_rng(0)
    feeds = []
    for _ in range(SAMPLES):
        own = example.feeds(rng)
        feeds.append(
            {name: own[name].reshape(x.type.shape) for x in graph.inputs for name in [str(x.name)]}
        )
    try:
        rebatched(graph, SAMPLES)
    except UnsupportedError:
        if batched > 1 and example.op.kind() in OWN_WEIGHTS:
            return
        raise
    assert_each_alone(graph, feeds)


@pytest.mark.parametrize("example", NETWORKS, ids=lambda e: e.name)
def test_networks(example: Example) -> None:
    rng = np.random.default_rng(0)
    assert_each_alone(example.graph, [example.feeds(rng) for _ in range(SAMPLES)])


def test_refusals() -> None:
    x = Input(TensorType(FLOAT, (2, 3)), name="x")
    with pytest.raises(UnsupportedError, match=r"expected an input for 1 sample, found x float32"):
        rebatched(Graph((x,), {"y": Relu(x)}), 4)
    one = Input(TensorType(FLOAT, (1, 3)), name="x")
    with pytest.raises(UsageError, match="--batch: expected at least 1 sample, found 0"):
        rebatched(Graph((one,), {"y": Relu(one)}), 0)
    scalar = Reshape(ReduceMax(one, (0, 1)), ())
    with pytest.raises(UnsupportedError, match="output 'y': expected an axis"):
        rebatched(Graph((one,), {"y": scalar}), 4)


@op
class Shuffled(Op):
    """Of another package: batching knows nothing of its attribute."""

    x: Op
    dim: int

    def infer(self) -> TensorType:
        return self.x.type


def test_ops_of_others_are_refused_by_name() -> None:
    x = Input(TensorType(FLOAT, (1, 3)), name="x")
    graph = Graph((x,), {"y": Shuffled(x, 1, sources=("theirs",))})
    with pytest.raises(
        UnsupportedError, match=r"shuffled \(theirs\): not known for several samples"
    ):
        rebatched(graph, 4)


def test_an_image_batch_stays_one() -> None:
    """The samples take the place of the axis of size 1, as if imported so."""
    weight = Constant(np.ones((5, 2, 3, 3), FLOAT))

    def network(samples: int) -> Graph:
        x = Input(TensorType(FLOAT, (samples, 2, 4, 4)), name="x")
        return Graph((x,), {"y": Relu(Conv(x, weight, None, Window((3, 3))))})

    assert str(rebatched(network(1), 4)) == str(network(4))
