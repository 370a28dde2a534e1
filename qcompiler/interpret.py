"""The reference: evaluate a graph with numpy, in any of its languages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qcompiler.errors import UsageError
from qcompiler.graph import Graph, Input, Op


def evaluate(graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Compute the outputs; integer ops give the bits that every backend must give.

    Args:
        graph: In any language.
        feeds: Input name → array of exactly the input's dtype and shape.

    Returns:
        Output name → array.

    Raises:
        UsageError: an input is missing, unknown, or of another dtype or shape.
    """
    env: dict[Op, np.ndarray] = {}
    check_feeds({str(x.name): x for x in graph.inputs}, feeds)
    remaining = {node: len(users) for node, users in graph.users.items()}
    results: dict[Op, np.ndarray] = {}
    for node in graph.ops:
        if isinstance(node, Input):
            env[node] = np.asarray(feeds[str(node.name)], order="C")
        else:
            with np.errstate(all="ignore"):  # infinities and NaN are values like any other
                env[node] = np.asarray(node.numpy(*(env[x] for x in node.operands)))
        if graph.is_output(node):
            results[node] = env[node]
        for x in dict.fromkeys(node.operands):
            remaining[x] -= 1
            if not remaining[x]:  # its last user has run
                del env[x]
    return {name: results[y] for name, y in graph.outputs.items()}


def check_feeds(inputs: Mapping[str, Input], feeds: Mapping[str, np.ndarray]) -> None:
    """Refuse feeds that do not fit the inputs.

    Raises:
        UsageError: an input is missing, unknown, or of another dtype or shape.
    """
    if missing := [name for name in inputs if name not in feeds]:
        raise UsageError(f"input {missing[0]!r} is missing: expected {', '.join(inputs)}")
    if unknown := [name for name in feeds if name not in inputs]:
        raise UsageError(f"unknown input {unknown[0]!r}: expected {', '.join(inputs)}")
    for name, x in inputs.items():
        found = (str(feeds[name].dtype), tuple(feeds[name].shape))
        if found != (x.type.dtype, x.type.shape):
            shape = "x".join(map(str, found[1]))
            raise UsageError(f"input {name!r}: expected {x.type}, found {found[0]}[{shape}]")
