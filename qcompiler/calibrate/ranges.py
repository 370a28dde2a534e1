"""Ranges of a graph's values, from running it on samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from qcompiler.backends.onnx import detached, to_model, without_bfloat16
from qcompiler.calibrate.collect import CollectOptions, accumulate, collect
from qcompiler.calibrate.feeds import Feed
from qcompiler.calibrate.methods import METHODS
from qcompiler.calibrate.moments import Moments
from qcompiler.calibrate.sources import Samples
from qcompiler.calibrate.statistics import Statistics
from qcompiler.graph import Graph
from qcompiler.types import Storage

MOMENT_SAMPLES = 128
"""Feeds that second moments are taken over; more change little (GPTQ uses as many)."""


@dataclass(frozen=True)
class CalibratedRanges:
    """Statistics by value name, as the ranges that `InsertQdq` asks for."""

    statistics: Mapping[str, Statistics]

    def range(self, name: str, storage: str, method: str) -> tuple[float, float]:
        """The range of a value for codes of that storage.

        Wide codes have steps to spare, so that clipping could only lose: they cover all that was
        seen, whatever the method.

        Args:
            name: The value's name in the graph.
            storage: Signed: the range is symmetric.
            method: A key of `METHODS`.
        """
        bounds = Storage(storage)
        chosen = METHODS[method if bounds.bits <= 8 else "min-max"]()
        levels = bounds.high - bounds.low + 1
        return self.statistics[name].range(chosen, levels, bounds.signed)

    def knows(self, name: str) -> bool:
        """Whether the value was observed."""
        return name in self.statistics

    def channels(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Exact extremes per channel of a value that was observed per channel."""
        found = self.statistics[name]
        assert found.channel_minimum is not None
        assert found.channel_maximum is not None
        return found.channel_minimum, found.channel_maximum


def calibrate(
    graph: Graph,
    wanted: Mapping[str, int | None],
    feeds: Iterable[Feed],
    options: CollectOptions,
) -> dict[str, Statistics]:
    """Run a real graph in ONNX Runtime and keep statistics of values.

    Args:
        graph: In the real language.
        wanted: Names of values, with the axis of their channels where those count.
        feeds: Samples.
        options: Threads, progress, and bins of histograms.

    Raises:
        CalibrationError: no feeds, or a value that is NaN or infinite.
    """
    axes = {name: axis for name, axis in wanted.items() if axis is not None}
    model, weights = detached(to_model(without_bfloat16(graph)))
    labels = {
        name: f"{name}' of '{', '.join(node.sources)}"
        for node, name in graph.names.items()
        if node.name is None and node.sources
    }
    return collect(
        model, list(wanted), feeds, axes=axes, labels=labels, weights=weights, options=options
    )


def moments(
    graph: Graph, channels: Mapping[str, int], feeds: Iterable[Feed], options: CollectOptions
) -> dict[str, Moments]:
    """Run a graph of any float language in ONNX Runtime and keep second moments of values.

    Args:
        graph: In the real or the quantized language.
        channels: By value name: the size of its last axis.
        feeds: Samples; at most `MOMENT_SAMPLES` of them.
        options: Threads and progress.

    Raises:
        CalibrationError: no feeds.
    """
    found = {name: Moments.of(size) for name, size in channels.items()}
    if found:
        model, weights = detached(to_model(without_bfloat16(graph), inline=True))
        some = Samples(lambda: islice(iter(feeds), MOMENT_SAMPLES))
        accumulate(model, found, some, options, weights)
    return found
