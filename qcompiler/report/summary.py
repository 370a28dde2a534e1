"""The figures at the end of a compilation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcompiler.graph import Constant, Graph, Input
from qcompiler.invariants import computes_float, float_ops
from qcompiler.ops import Quantize, macs

if TYPE_CHECKING:
    from qcompiler.artifact import CompiledModel


@dataclass(frozen=True)
class Summary:
    """What became of a model.

    Attributes:
        operators_integer: Ops of the integer graph that compute with integers.
        operators_float: Ops that stayed in float, entry and exit not counted.
        float_names: Those ops, in the user's node names.
        macs_integer: Multiply-accumulates in integers.
        macs: All multiply-accumulates.
        bytes_before: Constants of the float model.
        bytes_after: Constants of the integer model.
        file_bytes: The library.
        workspace_bytes: Memory for values that each running call needs, at its peak.
        seconds: Stage → wall time.
        gpus: The GPU architectures that the library has code for.
        batches: Numbers of samples that it has programs for; none where the number is fixed.
        lengths: Lengths of sequences that it has programs for; likewise.
    """

    operators_integer: int
    operators_float: int
    float_names: tuple[str, ...]
    macs_integer: int
    macs: int
    bytes_before: int
    bytes_after: int
    file_bytes: int
    workspace_bytes: int
    seconds: Mapping[str, float]
    gpus: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()


def summarize(
    before: int, integer: Graph, compiled: CompiledModel | None, seconds: Mapping[str, float]
) -> Summary:
    """Compare a real graph, of which only the bytes of its constants count, with its successor."""
    floats = list(float_ops(integer))
    metadata = None if compiled is None else compiled.metadata
    counted = [
        node
        for node in integer.ops
        if not isinstance(node, (Input, Constant, Quantize)) and not computes_float(node)
    ]
    return Summary(
        operators_integer=len(counted),
        operators_float=len(floats),
        float_names=tuple(node.label() for node in floats),
        macs_integer=sum(macs(node) for node in counted),
        macs=sum(macs(node) for node in integer.ops),
        bytes_before=before,
        bytes_after=constant_bytes(integer),
        file_bytes=0 if compiled is None else compiled.path.stat().st_size,
        workspace_bytes=0 if metadata is None else metadata.workspace_bytes,
        seconds=dict(seconds),
        gpus=() if metadata is None else metadata.gpus,
        batches=() if metadata is None or metadata.batch is None else metadata.batch.sizes,
        lengths=() if metadata is None or metadata.lengths is None else metadata.lengths.capacities,
    )


def constant_bytes(graph: Graph) -> int:
    """Bytes of all constants."""
    return sum(node.type.nbytes for node in graph.ops if isinstance(node, Constant))
