"""Samples of a network with state: each is fed with what the one before it left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from qcompiler.backends.onnx import detached, runner, to_model, without_bfloat16
from qcompiler.calibrate.feeds import Feed
from qcompiler.calibrate.sources import Samples
from qcompiler.graph import Graph


def rolled_out(graph: Graph, feeds: Iterable[Feed], threads: int | None = None) -> Samples:
    """The feeds with the states that a float graph computes, which begin with zeros.

    Args:
        graph: In the real language; its `states` are what is added.
        feeds: Of the other inputs, in the order of time; walked once per walk of the result.
        threads: Of ONNX Runtime.
    """
    zeros = {
        str(x.name): np.zeros(x.type.shape, x.type.dtype)
        for x in graph.inputs
        if str(x.name) in graph.states
    }
    wanted = {graph.states[name]: graph.outputs[graph.states[name]] for name in zeros}
    model, weights = detached(to_model(without_bfloat16(Graph(graph.inputs, wanted))))
    step = runner(model, weights, threads=threads)

    def walk() -> Iterator[Feed]:
        state = zeros
        for feed in feeds:
            whole = {**feed, **state}
            yield whole
            results = zip(zeros.items(), step(whole), strict=True)
            state = {name: np.asarray(y, zero.dtype) for (name, zero), y in results}

    return Samples(walk, getattr(feeds, "runs", None))
