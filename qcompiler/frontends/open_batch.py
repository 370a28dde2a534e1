"""Whether an open first dimension counts samples that do not depend on one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from qcompiler.batching import rebatched
from qcompiler.errors import QcompilerError, ShapeError
from qcompiler.graph import Graph
from qcompiler.report.latency import random_inputs
from qcompiler.report.observe import session

Shape = tuple[int, ...]

SAMPLES = 2
RELATIVE = 1e-3
"""Of the largest result: what float arithmetic in another order may change."""


def with_checked_batch(graph: Graph, imported: Callable[[Mapping[str, Shape]], Graph]) -> Graph:
    """The graph, whose open batch is closed where the model works for one sample only.

    The model is imported for two samples as well, and run on random ones: its results must be those
    of one sample and of the other.

    Args:
        graph: As a frontend gives it.
        imported: The model with other shapes of inputs.

    Raises:
        ShapeError: the results differ, so that the dimension counts something else.
    """
    if not graph.open_batch:
        return graph
    shapes = {str(x.name): x.type.shape for x in graph.inputs}
    wanted = {
        name: (*shapes[name][:axis], SAMPLES, *shapes[name][axis + 1 :])
        for name, axis in graph.open_batch.items()
    }
    try:
        together, apart = imported(wanted), rebatched(graph, SAMPLES)
    except QcompilerError:
        return dataclasses.replace(graph, open_batch={})
    if any(wanted.get(str(x.name), x.type.shape) != x.type.shape for x in together.inputs):
        return graph  # no model but a graph, whose shapes are what they are
    fed = zip(together.inputs, random_inputs(together.inputs), strict=True)
    feeds = {str(x.name): array for x, array in fed}
    found, expected = (session(g, None)(feeds) for g in (together, apart))
    for name, x, y in zip(graph.outputs, found, expected, strict=True):
        if not _agree(np.asarray(x), np.asarray(y)):
            fixed = (
                f"--input-shape {name}:{'x'.join(map(str, shapes[name]))}"
                for name in graph.open_batch
            )
            raise ShapeError(
                f"dynamic dimensions: the first one of {', '.join(graph.open_batch)} counts no "
                f"independent samples: output {name!r} of two is not that of each; fix it, for "
                f"example {' '.join(fixed)}"
            )
    return graph


def _agree(x: np.ndarray, y: np.ndarray) -> bool:
    if x.shape != y.shape:
        return False
    if x.dtype.kind != "f":
        return bool((x == y).mean() > 0.5)  # of an index two candidates may be as good
    largest = np.abs(y[np.isfinite(y)]).max(initial=0)
    return bool(np.isclose(x, y, 0, RELATIVE * largest, equal_nan=True).all())
