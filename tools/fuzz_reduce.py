"""A failing graph made small: fewer outputs, nodes and elements, as long as it fails alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from fuzz_graphs import Case
from fuzz_runtime import RejectedError, build, run
from onnx import numpy_helper

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Parts:
    """A case that can be edited.

    Attributes:
        inputs: Name → its array in each sample.
        values: The computed values likewise.
    """

    case: Case
    nodes: tuple[onnx.NodeProto, ...]
    inputs: Mapping[str, Arrays]
    initializers: Mapping[str, np.ndarray]
    outputs: tuple[str, ...]
    values: Mapping[str, Arrays]

    @classmethod
    def of(cls, case: Case) -> Parts:
        """A case taken apart; its values are not known yet."""
        graph = case.model.graph
        inputs = {x.name: tuple(f[x.name] for f in case.feeds) for x in graph.input}
        initializers = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        outputs = tuple(y.name for y in graph.output)
        return cls(case, tuple(graph.node), inputs, initializers, outputs, {})

    @property
    def opset(self) -> int:
        """Of the standard operators."""
        return next(o.version for o in self.case.model.opset_import if o.domain == "")

    def evaluated(self) -> Parts:
        """Without what no output needs, and with the values of all nodes."""
        needed, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                kept.append(node)
                needed |= set(node.input)
        nodes = tuple(reversed(kept))
        inputs = {k: v for k, v in self.inputs.items() if k in needed}
        initializers = {k: v for k, v in self.initializers.items() if k in needed}
        names = [y for n in nodes for y in n.output if y]
        first = {k: v[0] for k, v in inputs.items()}
        samples = len(next(iter(inputs.values()))) if inputs else 1
        feeds = [{k: v[i] for k, v in inputs.items()} for i in range(samples)]
        values: dict[str, Arrays] = {}
        if names:
            model = build(nodes, first, initializers, dict.fromkeys(names), self.opset)
            runs = run(model, feeds)
            values = {name: tuple(r[j] for r in runs) for j, name in enumerate(names)}
        return replace(self, nodes=nodes, inputs=inputs, initializers=initializers, values=values)

    def rebuilt(self) -> Case:
        """The case of the parts."""
        known = {**{k: (v,) for k, v in self.initializers.items()}, **self.inputs, **self.values}
        model = build(
            self.nodes,
            {k: v[0] for k, v in self.inputs.items()},
            self.initializers,
            {y: known[y][0] for y in self.outputs},
            self.opset,
        )
        samples = len(next(iter(self.inputs.values()))) if self.inputs else 1
        feeds = tuple({k: v[i] for k, v in self.inputs.items()} for i in range(samples))
        return replace(self.case, model=model, feeds=feeds)


def evaluate(parts: Parts) -> tuple[Parts, Case] | None:
    """The parts with all values, and their case; None if they do not run."""
    try:
        found = parts.evaluated()
        return found, found.rebuilt()
    except (RejectedError, KeyError, ValueError, IndexError):
        return None


def reduce(
    case: Case,
    fails: Callable[[Case], bool],
    seconds: float = 60.0,
    evaluate: Callable[[Parts], tuple[Parts, Case] | None] = evaluate,
) -> Case:
    """The smallest case found that still fails; the case itself where nothing smaller does.

    Args:
        case: What fails.
        fails: Whether a smaller case fails alike.
        seconds: For all of it.
        evaluate: `evaluate`, or the same in a process that may die of it.
    """
    end = time.monotonic() + seconds
    if (first := evaluate(Parts.of(case))) is None:
        return case
    parts, _ = first
    changed = True
    while changed and time.monotonic() < end:
        changed = False
        for candidate in _smaller(parts):
            if time.monotonic() > end:
                break
            if (smaller := evaluate(candidate)) is None:
                continue
            found, again = smaller
            if _size(found) < _size(parts) and fails(again):
                parts, case, changed = found, again, True
                break
    return case


def _size(parts: Parts) -> tuple[int, int, int, int, int]:
    elements = sum(x.size for v in parts.inputs.values() for x in v)
    elements += sum(x.size for x in parts.initializers.values())
    named = len(parts.inputs) + len(parts.initializers)
    samples = max((len(v) for v in parts.inputs.values()), default=0)
    return len(parts.nodes), len(parts.outputs), samples, elements, named


def _smaller(parts: Parts) -> Iterator[Parts]:
    """Candidates, the boldest first."""
    made = [y for n in parts.nodes for y in n.output if y]
    for name in made:  # stop early
        if parts.outputs != (name,):
            yield replace(parts, outputs=(name,))
    if len(parts.outputs) > 1:
        for name in parts.outputs:
            yield replace(parts, outputs=tuple(y for y in parts.outputs if y != name))
    for node in reversed(parts.nodes):  # start late
        rest = tuple(n for n in parts.nodes if n is not node)
        fresh = {y: parts.values[y] for y in node.output if y}
        outputs = tuple(y for y in parts.outputs if y not in fresh)
        if outputs:
            yield replace(parts, nodes=rest, inputs={**parts.inputs, **fresh}, outputs=outputs)
    for node in parts.nodes:  # leave one out
        yield from _bypassed(parts, node)
    for i in range(max((len(v) for v in parts.inputs.values()), default=1)):
        if len(next(iter(parts.inputs.values()), ())) > 1:
            yield replace(parts, inputs={k: (v[i],) for k, v in parts.inputs.items()})
    yield from _shrunk(parts)


def _bypassed(parts: Parts, node: onnx.NodeProto) -> Iterator[Parts]:
    known = {**{k: (v,) for k, v in parts.initializers.items()}, **parts.inputs, **parts.values}
    y = node.output[0]
    if y in parts.outputs or len(node.output) > 1:
        return
    for x in node.input:
        if not x or (known[x][0].shape, known[x][0].dtype) != (
            known[y][0].shape,
            known[y][0].dtype,
        ):
            continue
        nodes = []
        for other in parts.nodes:
            if other is node:
                continue
            copy = onnx.NodeProto()
            copy.CopyFrom(other)
            copy.input[:] = [x if name == y else name for name in other.input]
            nodes.append(copy)
        yield replace(parts, nodes=tuple(nodes))


def _shrunk(parts: Parts) -> Iterator[Parts]:
    """Every axis of one size made shorter, in shapes that are operands too."""
    arrays = [v[0] for v in parts.inputs.values()] + list(parts.initializers.values())
    for size in sorted({n for x in arrays for n in x.shape if n > 1}, reverse=True):
        for less in sorted({1, 2, size // 2, size - 1} - {0, size}):

            def cut(x: np.ndarray, size: int = size, less: int = less) -> np.ndarray:
                x = x[tuple(slice(less) if n == size else slice(None) for n in x.shape)]
                return np.where(x == size, less, x) if x.dtype == np.int64 and x.ndim == 1 else x

            inputs = {k: tuple(cut(x) for x in v) for k, v in parts.inputs.items()}
            initializers = {k: cut(x) for k, x in parts.initializers.items()}
            yield replace(parts, inputs=inputs, initializers=initializers)
