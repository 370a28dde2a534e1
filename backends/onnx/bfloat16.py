"""bfloat16 at the ends of a graph, of which ONNX Runtime's Python interface knows no arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from qcompiler.graph import Graph, Input, Op, fold, rebuilt
from qcompiler.ops import Cast
from qcompiler.types import FLOAT, TensorType

BFLOAT16 = "bfloat16"


def without_bfloat16(graph: Graph) -> Graph:
    """The graph with float32 inputs and outputs in place of bfloat16 ones, of equal values.

    Values between keep their names.  `widened` does it to arrays.
    """
    env: dict[Op, Op] = {}
    inputs: list[Input] = []
    for x in graph.inputs:
        if x.type.dtype == BFLOAT16:
            wide = Input(TensorType(FLOAT, x.type.shape), name=x.name, sources=x.sources)
            env[x] = Cast(wide, BFLOAT16, name=f"{x.name}/{BFLOAT16}", sources=())
            x = wide
        inputs.append(x)
    if not env and not any(y.type.dtype == BFLOAT16 for y in graph.outputs.values()):
        return graph
    fold(graph.outputs.values(), env, rebuilt)
    outputs = {
        name: Cast(env[y], FLOAT, sources=()) if y.type.dtype == BFLOAT16 else env[y]
        for name, y in graph.outputs.items()
    }
    return dataclasses.replace(graph, inputs=tuple(inputs), outputs=outputs)


def widened(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by name with float32 ones in place of bfloat16 ones."""
    return {k: v.astype(np.float32) if v.dtype == BFLOAT16 else v for k, v in arrays.items()}
