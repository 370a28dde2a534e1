"""Sequences of any length up to a capacity: programs for a few, and padding that changes no bit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qcompiler.dispatch import longer
from qcompiler.errors import ShapeError
from qcompiler.graph import Graph
from qcompiler.metadata import Lengths
from qcompiler.report.latency import random_inputs
from qcompiler.report.observe import session


def output_lengths(long: Graph, short: Graph, capacities: tuple[int, int]) -> dict[str, int | None]:
    """Output name → the axis along which sequences lie, by what differs at another length.

    Raises:
        ShapeError: an output differs by something else.
    """
    found: dict[str, int | None] = {}
    for name, y in long.outputs.items():
        shapes = y.type.shape, short.outputs[name].type.shape
        pairs = [*zip(*shapes, strict=len(shapes[0]) == len(shapes[1]))]
        axes = [i for i, (a, b) in enumerate(pairs) if a != b]
        if len(axes) > 1 or any(pairs[i] != capacities for i in axes):
            raise ShapeError(
                f"--length: output {name!r} is {y.type} at {capacities[0]} places and "
                f"{short.outputs[name].type} at {capacities[1]}: expected one axis of that size"
            )
        found[name] = axes[0] if axes else None
    return found


def lengths_of(graphs: Mapping[int, Graph], probe: tuple[int, Graph]) -> Lengths:
    """What the programs of several capacities are, if padding changes no bit of their results.

    Args:
        graphs: Capacity → the integer graph.
        probe: A shorter length, and the integer graph of exactly that length: its results on random
            inputs must be those of every capacity on the same inputs, padded with zeros.

    Raises:
        ShapeError: they are not: the model has no mask, or one that does not hide the padding.
    """
    capacities = tuple(sorted(graphs))
    length, exact = probe
    longest = graphs[capacities[-1]]
    axes = longest.open_length
    results = output_lengths(longest, exact, (capacities[-1], length))
    feeds = {
        str(x.name): array
        for x, array in zip(exact.inputs, random_inputs(exact.inputs), strict=True)
    }
    expected = session(exact, None)(feeds)
    for capacity, graph in graphs.items():
        more = capacity - length
        padded = {name: longer(x, axes.get(name), more) for name, x in feeds.items()}
        found = session(graph, None)(padded)
        for (name, axis), y, one in zip(results.items(), found, expected, strict=True):
            kept = y if axis is None else y[(slice(None),) * axis + (slice(length),)]
            if not np.array_equal(kept, one, equal_nan=one.dtype.kind == "f"):
                raise ShapeError(
                    f"--length: padding {length} places to {capacity} with zeros changes output "
                    f"{name!r}: expected an input that masks the padding, as attention_mask does; "
                    "fix the length with --input-shape"
                )
    inputs = tuple(axes.get(str(x.name)) for x in longest.inputs)
    return Lengths(capacities, inputs, tuple(results[name] for name in longest.outputs))
