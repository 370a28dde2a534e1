"""Networks that remember: inputs that are replaced by outputs from one call to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from qcompiler.errors import UsageError
from qcompiler.graph import Graph


def with_states(graph: Graph, states: Mapping[str, str]) -> Graph:
    """The graph whose states are these.

    Args:
        graph: In the real language.
        states: Input name → name of the output that replaces it.

    Raises:
        UsageError: there is no such input or output, or they are of different types.
    """
    inputs = {str(x.name): x.type for x in graph.inputs}
    for name, after in states.items():
        option = f"--state {name}={after}"
        if name not in inputs:
            raise UsageError(f"{option}: no input {name!r}; expected one of {', '.join(inputs)}")
        if after not in graph.outputs:
            expected = ", ".join(graph.outputs)
            raise UsageError(f"{option}: no output {after!r}; expected one of {expected}")
        if (found := graph.outputs[after].type) != inputs[name]:
            raise UsageError(f"{option}: expected an output {inputs[name]}, found {found}")
    if len(set(states.values())) < len(states):
        raise UsageError("--state: expected an output of its own for each input")
    if len(states) == len(inputs):
        raise UsageError("--state: expected an input that is no state")
    return dataclasses.replace(graph, states=dict(states))
