"""What becomes one library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from qcompiler.batching import output_axes, rebatched, sample_axes
from qcompiler.errors import UsageError
from qcompiler.graph import Graph
from qcompiler.metadata import Batch, Lengths


@dataclass(frozen=True)
class Programs:
    """Graphs that share one library, its kernels and its constants.

    Attributes:
        graphs: Name of the program → what it computes; the first is what a call runs.
        batch: Which numbers of samples they are for, if they compute the same.
        lengths: Which lengths of sequences they are for, likewise.
    """

    graphs: Mapping[str, Graph]
    batch: Batch | None = None
    lengths: Lengths | None = None

    @classmethod
    def of(cls, graphs: Graph | Programs) -> Programs:
        """A single graph as the program "main"."""
        if isinstance(graphs, Programs):
            return graphs
        return cls(MappingProxyType({"main": graphs}))

    @property
    def first(self) -> Graph:
        """What a call runs."""
        return next(iter(self.graphs.values()))


def batched(graph: Graph, sizes: Iterable[int]) -> Programs:
    """One program for each number of samples.

    Args:
        graph: In any language, before kernels are chosen.
        sizes: Numbers of samples, each at least 1.

    Raises:
        UnsupportedError: an op mixes samples; it is named.
        UsageError: there are no sizes, or one is less than 1.
    """
    chosen = tuple(sorted(set(sizes)))
    if not chosen:
        raise UsageError("--batch: expected numbers of samples, such as 1,4,16")
    axes, results = sample_axes(graph), output_axes(graph)
    batch = Batch(
        chosen,
        tuple(axes.get(str(x.name)) for x in graph.inputs),
        tuple(results[name] for name in graph.outputs),
    )
    return Programs({f"batch-{size}": rebatched(graph, size) for size in chosen}, batch)
