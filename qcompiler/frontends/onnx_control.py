"""Control flow: both branches computed and one selected, loops and scans step by step.

Trip counts and exit conditions are constants of the import; what they depend on may be computed by
the steps before, as long as it does not depend on the model's inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from qcompiler.errors import ModelError, ShapeError
from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_logic import selected
from qcompiler.frontends.onnx_node import Node
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Constant, Input, Op, toposort
from qcompiler.ops import Concat, Reshape

UNROLLED = 1 << 15
"""Nodes that loops, scans, branches and calls may come to when they are imported step by step."""

Values = Sequence[Op | None]
"""None: depends on what was refused."""


class Walk(Protocol):
    """The import, as control flow needs it."""

    def evaluate(self, graph: ir.Graph, arguments: Values) -> Values:
        """The outputs of a subgraph for its arguments."""


def branch(walk: Walk, node: Node) -> Values:
    """If: the branch that a constant condition chooses, else a choice between both."""
    if isinstance(node.x, Constant):
        chosen = "then_branch" if node.known_scalar(0, "condition") else "else_branch"
        return walk.evaluate(node.attributes[chosen], ())
    if node.x.type.dtype != "bool" or node.x.type.size != 1:
        raise node.broken(f"expected one bool as condition, found {node.x.type}")
    condition = Reshape(node.x, ())
    try:
        pairs = [walk.evaluate(node.attributes[k], ()) for k in ("then_branch", "else_branch")]
    except (ModelError, ShapeError) as error:  # the other one may be all that is ever taken
        names = [f"--input-value {x.name}=…" for x in toposort([node.x]) if isinstance(x, Input)]
        raise node.unsupported(
            f"a branch that does not fit these shapes ({error}): if inputs choose the other one, "
            f"say so: {' '.join(names)}"
        ) from error
    results: list[Op | None] = []
    for a, b in zip(*pairs, strict=True):
        if a is None or b is None:
            results.append(None)
        elif (a.type.dtype, a.type.shape) != (b.type.dtype, b.type.shape):
            raise node.unsupported(
                f"a computed condition and branches that return {a.type} and {b.type}"
            )
        else:
            results.append(a if a is b else selected(condition, a, b))
    return results


def loop(walk: Walk, node: Node) -> Values:
    """Loop: its steps one after the other."""
    body: ir.Graph = node.attributes["body"]
    limit, going = node.known_scalar(0, "trip count"), node.known_scalar(1, "condition")
    state: Values = node.inputs[2:]
    if len(body.inputs) != 2 + len(state) or len(body.outputs) < 1 + len(state):
        raise node.broken(
            f"expected a body of {2 + len(state)} inputs and at least {1 + len(state)} outputs, "
            f"found {len(body.inputs)} and {len(body.outputs)}"
        )
    if limit is not None and limit < 1 << 62:  # exporters write the largest integer for "while"
        _check_size(node, int(limit), body)
    columns: list[list[Op]] = [[] for _ in body.outputs[1 + len(state) :]]
    step = 0
    while (limit is None or step < limit) and (going is None or going):
        counter = Constant(np.asarray(step, np.int64))
        results = walk.evaluate(body, (counter, Constant(np.asarray(True)), *state))
        if any(y is None for y in results):
            return [None] * (len(results) - 1)
        if not isinstance(results[0], Constant):
            raise node.unsupported("a computed exit condition")
        going = bool(results[0].array.all())
        state = results[1 : 1 + len(state)]
        for column, y in zip(columns, results[1 + len(state) :], strict=True):
            assert y is not None
            column.append(y)
        step += 1
    if columns and not step:
        raise node.unsupported("no steps")
    return [*state, *(_stacked(node, column, 0) for column in columns)]


def scan(walk: Walk, node: Node) -> Values:
    """Scan since opset 9: a body over slices of sequences."""
    body: ir.Graph = node.attributes["body"]
    sequences = node.inputs[len(node.inputs) - node.integer("num_scan_inputs") :]
    state = node.inputs[: len(node.inputs) - len(sequences)]
    count = len(body.outputs) - len(state)
    _check_arity(node, body, sequences, count)
    xs = [x for x in sequences if x is not None]
    axes = _listed(node, "scan_input_axes", len(xs))
    outer = [node.axis(axis, x.type.rank) for axis, x in zip(axes, xs, strict=True)]
    backwards = _listed(node, "scan_input_directions", len(xs))
    final, columns = _scanned(walk, node, state, list(zip(xs, outer, backwards, strict=True)))
    if columns is None:
        return [None] * len(node.outputs)
    results: list[Op | None] = list(final)
    for column, axis, reverse in zip(
        columns,
        _listed(node, "scan_output_axes", count),
        _listed(node, "scan_output_directions", count),
        strict=True,
    ):
        axis = node.axis(axis, column[0].type.rank + 1)
        results.append(_stacked(node, column[::-1] if reverse else column, axis))
    return results


def scan_of_batches(walk: Walk, node: Node) -> Values:
    """Scan in opset 8: axis 0 is the batch, axis 1 is scanned."""
    body: ir.Graph = node.attributes["body"]
    operands = node.inputs[1:]
    sequences = operands[len(operands) - node.integer("num_scan_inputs") :]
    state = operands[: len(operands) - len(sequences)]
    count = len(body.outputs) - len(state)
    _check_arity(node, body, sequences, count)
    xs = [x for x in sequences if x is not None]
    if any(x is None or x.type.rank < 1 for x in state) or any(x.type.rank < 2 for x in xs):
        raise node.broken("expected states with a batch axis and sequences behind it")
    lengths = node.known_integers(0, "sequence_lens")
    if lengths is not None and any(n != xs[0].type.shape[1] for n in lengths):
        raise node.unsupported("sequences of different lengths")
    backwards = _listed(node, "directions", len(xs))
    rows: list[list[Op]] = [[] for _ in body.outputs]
    for i in range(xs[0].type.shape[0]):
        first = [None if x is None else _at(x, 0, i) for x in state]
        parts = [(_at(x, 0, i), 0, reverse) for x, reverse in zip(xs, backwards, strict=True)]
        final, columns = _scanned(walk, node, first, parts)
        if columns is None:
            return [None] * len(node.outputs)
        stacked = [_stacked(node, column, 0) for column in columns]
        for row, y in zip(rows, [*final, *stacked], strict=True):
            assert y is not None
            row.append(y)
    return [_stacked(node, row, 0) for row in rows]


Importer = Callable[[Walk, Node], Values]

_CONTROL: dict[str, dict[int, Importer]] = {
    "If": {1: branch},
    "Loop": {1: loop},
    "Scan": {8: scan_of_batches, 9: scan},
}


def find_control(node: ir.Node, opset: int) -> Importer | None:
    """The importer of a node of control flow in an opset of the standard; None for others."""
    forms = _CONTROL.get(node.op_type, {}) if node.domain in ("", "ai.onnx") else {}
    return forms.get(max((since for since in forms if since <= opset), default=0))


def _scanned(
    walk: Walk, node: Node, state: Values, sequences: Sequence[tuple[Op, int, int]]
) -> tuple[Values, list[list[Op]] | None]:
    """The last state and each step's outputs; None for them where a step was refused.

    Args:
        walk: Imports the body.
        node: The scan.
        state: Before the first step.
        sequences: Each with the axis to scan, and whether from its end.
    """
    body: ir.Graph = node.attributes["body"]
    lengths = {x.type.shape[axis] for x, axis, _ in sequences}
    if len(lengths) != 1:
        raise node.broken(f"expected sequences of one length, found {sorted(lengths)}")
    (steps,) = lengths
    if not steps:
        raise node.unsupported("no steps")
    _check_size(node, steps, body)
    columns: list[list[Op]] = [[] for _ in body.outputs[len(state) :]]
    for step in range(steps):
        parts = [_at(x, a, steps - 1 - step if back else step) for x, a, back in sequences]
        results = walk.evaluate(body, (*state, *parts))
        if any(y is None for y in results):
            return state, None
        state = results[: len(state)]
        for column, y in zip(columns, results[len(state) :], strict=True):
            assert y is not None
            column.append(y)
    return state, columns


def _check_arity(node: Node, body: ir.Graph, sequences: Values, outputs: int) -> None:
    operands = len(body.inputs)
    if not sequences or any(x is None for x in sequences):
        raise node.broken(f"expected sequences to scan, found {len(sequences)}")
    state = len(body.outputs) - outputs
    if outputs < 0 or operands != state + len(sequences):
        raise node.broken(
            f"expected a body of {state + len(sequences)} inputs and at least {state} outputs, "
            f"found {operands} and {len(body.outputs)}"
        )


def _check_size(node: Node, steps: int, body: ir.Graph) -> None:
    """Refuse a loop that would be too large, before its first step."""
    count = sum(1 for _ in body.all_nodes())
    if steps * count > UNROLLED:
        raise node.unsupported(
            f"{steps} steps of {count} nodes: at most {UNROLLED} nodes in all can be unrolled; run "
            "the model on parts of the sequence and hand the state on"
        )


def _listed(node: Node, name: str, count: int) -> tuple[int, ...]:
    values = node.integers(name) or (0,) * count
    if len(values) != count:
        raise node.broken(f"{name}: expected {count} values, found {list(values)}")
    return values


def _at(x: Op, axis: int, index: int) -> Op:
    """The element of an axis, without the axis."""
    part = simplified(sliced(x, {axis: (index, index + 1, 1)}))
    shape = x.type.shape
    return simplified(Reshape(part, (*shape[:axis], *shape[axis + 1 :])))


def _stacked(node: Node, parts: Sequence[Op], axis: int) -> Op:
    """The values along a new axis."""
    types = {(x.type.dtype, x.type.shape) for x in parts}
    if len(types) != 1:
        raise node.unsupported("outputs of different types from step to step")
    shape = parts[0].type.shape
    ones = (*shape[:axis], 1, *shape[axis:])
    rows = tuple(simplified(Reshape(x, ones)) for x in parts)
    return rows[0] if len(rows) == 1 else simplified(Concat(rows, axis))


def varying(graph: ir.Graph) -> list[ir.Value]:
    """The values of a subgraph that depend on its inputs, and so differ from step to step."""
    owners = {inner: node for node in graph.all_nodes() for inner in subgraphs(node)}
    found = dict.fromkeys(graph.inputs)
    stack = list(found)
    while stack:
        for use in stack.pop().uses():
            user: ir.Node | None = use.node
            while user is not None:
                new = [y for y in user.outputs if y not in found]
                found.update(dict.fromkeys(new))
                stack.extend(new)
                user = owners.get(user.graph) if isinstance(user.graph, ir.Graph) else None
    return list(found)


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs among a node's attributes."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
