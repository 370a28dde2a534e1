"""Make a graph that something fails on small.

    qcompile model.onnx --calib data.npz --save-on-error failed.qgraph
    python tools/reduce.py failed.qgraph --predicate script.py:fails [-o small.qgraph]

The function gets a `Graph` and says whether it still fails in the same way:

    def fails(graph):
        try:
            Fuse()(graph)
        except ContractError as error:
            return "integer_kernels" in str(error)
        return False

Where it raises, a graph counts as another failure.  What may kill the process (a kernel, a
library) it runs in a process of its own.  Graphs get fewer outputs and end earlier; ops give way to
inputs of their type, or to one of their operands; weights to inputs at last.  Sizes, and the
regions of composites, stay as they are.
"""

from __future__ import annotations

import argparse
import runpy
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from qcompiler.errors import QcompilerError
from qcompiler.frontends import import_model
from qcompiler.graph import Constant, Graph, Input, Op, rebuilt, toposort
from qcompiler.graph.archive import is_saved, read_note

Predicate = Callable[[Graph], bool]


def reduce(
    graph: Graph,
    fails: Predicate,
    seconds: float = float("inf"),
    report: Callable[[Graph], None] = lambda smaller: None,
) -> Graph:
    """The smallest graph found that fails too; the graph itself where nothing smaller does.

    Args:
        graph: In any language.
        fails: Called with valid graphs only; what it raises means no.
        seconds: When to stop.
        report: Called with each smaller graph that fails.
    """
    end = time.monotonic() + seconds
    while True:
        for smaller in _smaller(graph):
            if time.monotonic() > end:
                return graph
            if _size(smaller) < _size(graph) and _holds(fails, smaller):
                graph = smaller
                report(graph)
                break
        else:
            return graph


def _holds(fails: Predicate, graph: Graph) -> bool:
    try:
        return fails(graph)
    except Exception:  # whatever it is, it is another failure
        return False


def _size(graph: Graph) -> tuple[int, int, int, int]:
    constants = [x for x in graph.ops if isinstance(x, Constant)]
    computed = len(_computed(graph))
    return computed, len(graph.outputs), sum(x.array.size for x in constants), len(graph.inputs)


def _computed(graph: Graph) -> list[Op]:
    return [x for x in graph.ops if not isinstance(x, (Input, Constant))]


def _smaller(graph: Graph) -> Iterator[Graph]:
    """Candidates, the boldest of each kind first."""
    computed = _computed(graph)
    for length in _halves(len(computed)):
        yield from _built(_front, graph, computed[:-length])
    for names in _parts(list(graph.outputs)):
        kept = {name: y for name, y in graph.outputs.items() if name not in names}
        if kept:
            yield Graph(graph.inputs, kept, graph.name)
    for ops in _parts(computed):
        yield from _built(_replaced, graph, {x: _input(graph, x) for x in ops})
    for x in reversed(computed):
        for operand in x.operands:
            if operand.type == x.type:
                yield from _built(_replaced, graph, {x: operand})
    constants = [x for x in graph.ops if isinstance(x, Constant) and not x.is_scalar]
    for ops in _parts(constants):
        yield from _built(_replaced, graph, {x: _input(graph, x) for x in ops})
    used = tuple(x for x in graph.inputs if graph.users[x] or graph.is_output(x))
    yield Graph(used, graph.outputs, graph.name)


def _halves(size: int) -> Iterator[int]:
    while size := size // 2:
        yield size


def _parts(items: Sequence[Op] | Sequence[str]) -> Iterator[Sequence]:
    """All of them, both halves, the quarters, …, each one; the last first."""
    for length in (len(items), *_halves(len(items))):
        for start in reversed(range(0, len(items), length) if length else ()):
            yield items[start : start + length]


def _built(make: Callable[..., Graph], *arguments: object) -> Iterator[Graph]:
    """The graph, unless it cannot be built."""
    try:
        graph = make(*arguments)
    except Exception:  # constructors demand constants and types that fit
        return
    yield graph


def _input(graph: Graph, node: Op) -> Input:
    return Input(node.type, name=graph.names[node])


def _front(graph: Graph, kept: Iterable[Op]) -> Graph:
    """These ops alone, with all results that others use as outputs."""
    inside = set(kept)
    given = {y: name for name, y in graph.outputs.items()}
    ends = [x for x in inside if x in given or not inside.issuperset(graph.users[x])]
    outputs = {given.get(x, graph.names[x]): x for x in graph.ops if x in ends}
    return Graph(graph.inputs, outputs, graph.name)


def _replaced(graph: Graph, replacements: Mapping[Op, Op]) -> Graph:
    """The graph with other values in place of some."""
    env: dict[Op, Op] = {}
    for x in graph.ops:
        new = replacements.get(x)
        env[x] = rebuilt(x, [env[v] for v in x.operands]) if new is None else env.get(new, new)
    outputs = {name: env[y] for name, y in graph.outputs.items()}
    found = (x for x in toposort(outputs.values()) if isinstance(x, Input))
    return Graph(tuple(dict.fromkeys((*graph.inputs, *found))), outputs, graph.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="a saved graph, or any model")
    parser.add_argument("--predicate", required=True, metavar="SCRIPT.PY:FUNCTION")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--seconds", type=float, default=600.0)
    given = parser.parse_args()
    script, _, name = given.predicate.rpartition(":")
    sys.path.insert(0, str(Path(script).resolve().parent))
    fails = runpy.run_path(script)[name]
    try:
        graph = import_model(given.model)
        note = read_note(given.model) if is_saved(given.model) else ""
        if not fails(graph):
            sys.exit(f"{given.predicate} does not hold for {given.model} itself")
        small = reduce(graph, fails, given.seconds, lambda g: print(repr(g), flush=True))
        output = given.output or given.model.with_suffix(".small.qgraph")
        small.save(output, note)
    except QcompilerError as error:
        sys.exit(f"error: {error}")
    print(f"{small}\n{graph!r} → {small!r}: {output}")


if __name__ == "__main__":
    main()
