"""Values in between, of a graph that runs on samples: bounded memory, whatever their number."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import length_hint

import numpy as np
import onnxruntime

from qcompiler.calibrate.feeds import Feed, widened
from qcompiler.calibrate.progress import progress
from qcompiler.errors import CalibrationError, ModelError, UsageError
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
        UsageError: an iterator of feeds, which can be walked only once, or feeds that do not fit.
    """
    if isinstance(feeds, Iterator):
        raise UsageError("feeds: an iterator can be walked only once, expected a list or the like")
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
    from qcompiler.backends.onnx import detached, to_model, without_bfloat16

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads or _cores()
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Higher levels fuse across whatever is not an output: roundings would depend on the chunks.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    model, weights = detached(to_model(without_bfloat16(graph)))
    if weights:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        settings.add_external_initializers(list(weights), values)
    content = model.SerializeToString()
    try:
        loaded = onnxruntime.InferenceSession(content, settings, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no other common base
        raise _refused("load", error) from error
    dtypes = {name: y.type.dtype for name, y in graph.outputs.items()}

    def run(feed: Feed) -> list[np.ndarray]:
        try:
            values = loaded.run(list(dtypes), widened(feed))
            return [np.asarray(v, dtype) for v, dtype in zip(values, dtypes.values(), strict=True)]
        except Exception as error:
            raise _refused("run", error) from error

    return run


def _refused(verb: str, error: Exception) -> ModelError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelError(
        f"ONNX Runtime cannot {verb} the model ({reason}): check it with qcompile run"
    )


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


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
