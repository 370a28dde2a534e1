"""Values in between, of a graph that runs on samples: bounded memory, whatever their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import length_hint

import numpy as np

from qcompiler.backends.onnx import detached, runner, to_model, without_bfloat16
from qcompiler.calibrate.feeds import Feed
from qcompiler.calibrate.progress import progress
from qcompiler.errors import CalibrationError
from qcompiler.graph import Graph, Input, Op
from qcompiler.interpret import check_feeds
from qcompiler.report.deviation import DeviationSums

PAIRS = 512
"""Most pairs of one session: limits the size of graphs that hold many variants of a network."""


@dataclass(frozen=True)
class ObserveOptions:
    """How graphs are run.

    Attributes:
        chunk_bytes: Values of one sample held at once, in bytes; more values than fit are computed
            in several passes over the samples.
        threads: Of ONNX Runtime; None takes the cores that this process may use.
        progress: A progress bar on stderr if that is a terminal, else one line.
    """

    chunk_bytes: int = 1 << 28
    threads: int | None = None
    progress: bool = False


@dataclass(frozen=True, eq=False)
class Pair:
    """A value, its reference, and where their deviation is summed up."""

    reference: Op
    found: Op
    sums: DeviationSums

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.reference.type.nbytes + self.found.type.nbytes


def measure(
    inputs: tuple[Input, ...],
    pairs: Sequence[Pair],
    feeds: Iterable[Feed],
    options: ObserveOptions,
    *,
    together: int = PAIRS,
) -> int:
    """Compute all pairs on all feeds and add them to their sums.

    Args:
        inputs: What the values are computed from.
        pairs: Both values over these inputs; what several of them need is computed once.
        feeds: Inputs by name for each run; walked once per chunk of values.
        options: Memory, threads, progress.
        together: At most so many pairs per chunk.

    Returns:
        The number of runs.

    Raises:
        CalibrationError: no feeds.
        ModelError: ONNX Runtime cannot run the graph.
        UsageError: feeds that do not fit.
    """
    chunks = list(_chunks(pairs, options.chunk_bytes, together))
    runs = 0
    total = length_hint(feeds) * len(chunks) or None
    with progress(f"comparing {len(pairs)} values", total, options.progress) as tick:
        for chunk in chunks:
            ops = [x for pair in chunk for x in (pair.reference, pair.found)]
            runs = 0
            for _, values in observe(inputs, ops, feeds, options, tick):
                for pair in chunk:
                    pair.sums.update(values[pair.reference], values[pair.found])
                runs += 1
    return runs


def observe(
    inputs: tuple[Input, ...],
    ops: Iterable[Op],
    feeds: Iterable[Feed],
    options: ObserveOptions,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Feed, Mapping[Op, np.ndarray]]]:
    """Each feed with the values of the ops on it, from one session of ONNX Runtime.

    Raises:
        CalibrationError: no feeds.
        ModelError: ONNX Runtime cannot run the graph.
        UsageError: a feed that does not fit the inputs.
    """
    distinct = list(dict.fromkeys(ops))
    outputs = {f"/observed/{i}": x for i, x in enumerate(distinct)}
    run = session(Graph(inputs, outputs), options.threads)
    named = {str(x.name): x for x in inputs}
    empty = True
    for feed in feeds:
        empty = False
        check_feeds(named, feed)
        yield feed, dict(zip(distinct, run(feed), strict=True))
        tick()
    if empty:
        raise CalibrationError("there are no samples to compare on: give at least one batch")


def session(graph: Graph, threads: int | None) -> Callable[[Feed], list[np.ndarray]]:
    """The graph in ONNX Runtime, as a function from inputs by name to outputs in order.

    Raises:
        ModelError: ONNX Runtime cannot load it, or (when called) run it.
    """
    model, weights = detached(to_model(without_bfloat16(graph)))
    computed = runner(model, weights, threads=threads)
    dtypes = [y.type.dtype for y in graph.outputs.values()]

    def run(feed: Feed) -> list[np.ndarray]:
        return [np.asarray(v, d) for v, d in zip(computed(feed), dtypes, strict=True)]

    return run


def _chunks(pairs: Iterable[Pair], budget: int, together: int) -> Iterator[list[Pair]]:
    """Consecutive pairs whose values fit the budget together, at least one in each chunk."""
    chunk: list[Pair] = []
    used = 0
    for pair in pairs:
        if chunk and (used + pair.nbytes > budget or len(chunk) == together):
            yield chunk
            chunk, used = [], 0
        chunk.append(pair)
        used += pair.nbytes
    if chunk:
        yield chunk
