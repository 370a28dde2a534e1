"""What RNN, GRU and LSTM share: operands by direction, activations, unrolling, masks, outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx.defs import OpSchema

from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node, find_importer
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    Clip,
    Concat,
    GreaterEqual,
    MatMul,
    Mul,
    Reshape,
    Select,
    Tanh,
    Transpose,
    scalar,
)
from qcompiler.types import FLOAT

STEPS = 1 << 10
"""Steps of one node, over all directions, beyond which unrolling takes too long."""

State = tuple[Op | None, ...]
"""What one step hands to the next, [batch, hidden] each; None for zeros."""

Step = Callable[[int, State], State]
Activation = Callable[[Op], Op]


@dataclass(frozen=True, eq=False)
class Direction:
    """The operands of one direction of a recurrent node.

    Attributes:
        node: The node.
        hidden: Elements of the state.
        inputs: x·Wᵀ + b for all steps and gates, [steps, batch, gates·hidden].
        weights: Rᵀ, [hidden, gates·hidden].
        bias: Of the recurrent product, [gates·hidden], or None.
        peepholes: Weights of the cell state in gates i, o and f, [hidden] each, or None.
        activations: f, g, h.
    """

    node: Node
    hidden: int
    inputs: Op
    weights: Op
    bias: Op | None
    peepholes: tuple[Op, ...] | None
    activations: tuple[Activation, ...]

    def part(self, x: Op, first: int, last: int) -> Op:
        """The columns of gates first to last − 1 of a value whose last axis holds gates."""
        columns = (first * self.hidden, last * self.hidden, 1)
        return simplified(sliced(x, {x.type.rank - 1: columns}))

    def projected(self, step: int, first: int, last: int) -> Op:
        """What the input contributes to some gates in a step, [batch, columns]."""
        columns = (first * self.hidden, last * self.hidden, 1)
        x = sliced(self.inputs, {0: (step, step + 1, 1), 2: columns})
        return Reshape(x, x.type.shape[1:])

    def recurrent(self, first: int, last: int) -> Op:
        """The weights of the state in some gates, [hidden, columns]."""
        return self.part(self.weights, first, last)

    def recurrent_bias(self, first: int, last: int) -> Op | None:
        """The bias of the recurrent product in some gates, [columns]."""
        return None if self.bias is None else self.part(self.bias, first, last)

    def clipped(self, x: Op) -> Op:
        """What an activation is applied to."""
        bound = self.node.attributes.get("clip")
        return x if bound is None else Clip(x, -float(bound), float(bound))


def run(
    node: Node, build: Callable[[Direction], Step], *, gates: int, defaults: tuple[str, ...]
) -> tuple[Op, ...]:
    """Y, Y_h (and Y_c) of a recurrent node.

    Args:
        node: Its operands are X, W, R, B, sequence_lens, initial_h (initial_c, P).
        build: Makes the function of one step.
        gates: How many blocks of `hidden` rows W and R have.
        defaults: The activations of one direction where the node names none.

    Raises:
        ModelError: operands do not fit together.
        UnsupportedError: it has too many steps, or an activation without an importer.
    """
    batch_first = node.integer("layout") != 0
    if node.x.type.rank != 3:
        raise node.broken(f"expected a sequence of rank 3, found {node.x.type}")
    x = _swapped(node.x) if batch_first else node.x
    steps, batch, _ = x.type.shape
    names = {"forward": 1, "reverse": 1, "bidirectional": 2}
    if (direction := node.text("direction", "forward")) not in names:
        raise node.broken(f"direction: expected {', '.join(names)}, found {direction!r}")
    count = names[direction]
    if steps * count > STEPS:
        raise node.unsupported(
            f"{steps} steps in {count} directions: at most {STEPS} in all can be unrolled; run the "
            "model on parts of the sequence and hand the state on (initial_h)"
        )
    if not steps:
        raise node.unsupported("no steps")
    hidden = _checked(node, x, gates, count)
    masks = _masks(node, steps, batch)
    last: list[State] = []
    sequences: list[list[Op]] = []
    functions = _activations(node, defaults, count)
    for d in range(count):
        step = build(_direction(node, x, d, gates, hidden, functions[d]))
        order = range(steps) if (direction, d) in _FORWARD else range(steps - 1, -1, -1)
        state, outputs = _unrolled(step, _initial(node, d, batch_first, hidden), order, masks)
        last.append(state)
        sequences.append([y if y is not None else _zeros(batch, hidden) for y in outputs])
    rows = [y for step_outputs in zip(*sequences, strict=True) for y in step_outputs]
    y = Reshape(_joined(rows, 0), (steps, count, batch, hidden))
    finals = []
    for states in zip(*last, strict=True):
        known = [_zeros(batch, hidden) if s is None else s for s in states]
        finals.append(Reshape(_joined(known, 0), (count, batch, hidden)))
    if batch_first:
        return Transpose(y, (2, 0, 1, 3)), *(_swapped(s) for s in finals)
    return y, *finals


_FORWARD = (("forward", 0), ("bidirectional", 0))


def _unrolled(
    step: Step, state: State, order: Sequence[int], masks: Sequence[Op | bool]
) -> tuple[State, list[Op | None]]:
    """The last state, and the hidden state behind each step by position (None: zeros).

    Behind a sequence's end its state stays, and its output is 0.
    """
    outputs: list[Op | None] = [None] * len(order)
    for t in order:
        match masks[t]:
            case False:
                continue
            case True:
                state = step(t, state)
                outputs[t] = state[0]
            case Op() as mask:
                new = step(t, state)
                state = tuple(_either(mask, a, b) for a, b in zip(new, state, strict=True))
                outputs[t] = _either(mask, new[0], None)
    return state, outputs


def _either(mask: Op, new: Op | None, old: Op | None) -> Op:
    assert new is not None
    return Select(mask, new, _zeros(*new.type.shape) if old is None else old)


def _zeros(*shape: int) -> Constant:
    return Constant(np.zeros(shape, np.float32))


def _joined(parts: Sequence[Op], axis: int) -> Op:
    return parts[0] if len(parts) == 1 else Concat(tuple(parts), axis)


def _swapped(x: Op) -> Op:
    """The operand with its first two axes swapped."""
    return simplified(Transpose(x, (1, 0, *range(2, x.type.rank))))


def _checked(node: Node, x: Op, gates: int, directions: int) -> int:
    """The number of hidden elements, all shapes checked."""
    w = node.operand(1).type.shape
    hidden = node.integer("hidden_size", w[1] // gates if len(w) == 3 else 0)
    _, batch, size = x.type.shape
    state = (directions, batch, hidden)
    state = (batch, directions, hidden) if node.integer("layout") else state
    expected = {
        1: ("W", (directions, gates * hidden, size)),
        2: ("R", (directions, gates * hidden, hidden)),
        3: ("B", (directions, 2 * gates * hidden)),
        4: ("sequence_lens", (batch,)),
        5: ("initial_h", state),
        6: ("initial_c", state),
        7: ("P", (directions, 3 * hidden)),
    }
    for i, (name, shape) in expected.items():
        if (operand := node.optional(i)) is not None and operand.type.shape != shape:
            raise node.broken(f"expected {name} as {list(shape)}, found {operand.type}")
    return hidden


def _direction(
    node: Node, x: Op, d: int, gates: int, hidden: int, activations: tuple[Activation, ...]
) -> Direction:
    w, r = (simplified(Transpose(_row(node.operand(i), d), (1, 0))) for i in (1, 2))
    bias, both = None, None
    if (biases := node.optional(3)) is not None:
        middle = gates * hidden
        both = _row(biases, d)
        bias, both = (
            simplified(sliced(both, {0: (start, start + middle, 1)})) for start in (middle, 0)
        )
        total = simplified(Add(both, bias))
        if node.op_type == "GRU" and node.integer("linear_before_reset"):
            # The candidate's recurrent bias is multiplied by the reset gate.
            parts = [simplified(sliced(total, {0: (0, 2 * hidden, 1)}))]
            parts.append(simplified(sliced(both, {0: (2 * hidden, middle, 1)})))
            total = simplified(Concat(tuple(parts), 0))
        both = total
    peepholes = None
    if (weights := node.optional(7)) is not None:
        row = _row(weights, d)
        peepholes = tuple(
            simplified(sliced(row, {0: (k * hidden, (k + 1) * hidden, 1)})) for k in range(3)
        )
    return Direction(node, hidden, MatMul(x, w, both), r, bias, peepholes, activations)


def _row(x: Op, index: int) -> Op:
    """x[index]."""
    part = simplified(sliced(x, {0: (index, index + 1, 1)}))
    return simplified(Reshape(part, x.type.shape[1:]))


def _initial(node: Node, d: int, batch_first: bool, hidden: int) -> State:
    """The state before the first step."""
    found: list[Op | None] = []
    for i in (5, 6) if node.op_type == "LSTM" else (5,):
        state = node.optional(i)
        if state is not None and batch_first:
            state = _swapped(state)
        row = None if state is None else _row(state, d)
        zero = isinstance(row, Constant) and not row.array.any()
        found.append(None if zero else row)
    return tuple(found)


def _masks(node: Node, steps: int, batch: int) -> list[Op | bool]:
    """For each step which sequences are still running; True for all, False for none."""
    match node.optional(4):
        case None:
            return [True] * steps
        case Constant(array=lengths):
            if lengths.min(initial=0) < 0 or lengths.max(initial=0) > steps:
                raise node.broken(f"expected sequence_lens in [0, {steps}], found {lengths}")
            running = [lengths > t for t in range(steps)]
            return [
                bool(r.all()) if r.all() or not r.any() else Constant(r.reshape(batch, 1))
                for r in running
            ]
        case Op() as computed:
            column = Reshape(computed, (batch, 1))
            dtype = computed.type.dtype
            return [GreaterEqual(column, scalar(t + 1, dtype)) for t in range(steps)]
    raise AssertionError


def _activations(
    node: Node, defaults: tuple[str, ...], directions: int
) -> list[tuple[Activation, ...]]:
    """The functions of each direction; their parameters are taken from the lists in order."""
    names = [_text(name) for name in node.attributes.get("activations") or ()]
    count = len(defaults) * directions
    names = names[:count] or list(defaults * directions)  # RNN's default is that of two directions
    if len(names) != count:
        raise node.broken(f"expected {count} activations, found {', '.join(names)}")
    given = {p: iter(node.attributes.get(f"activation_{p}") or ()) for p in ("alpha", "beta")}
    functions = [_activation(node, name, given) for name in names]
    n = len(defaults)
    return [tuple(functions[d * n : (d + 1) * n]) for d in range(directions)]


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _activation(node: Node, name: str, given: dict[str, Iterator[float]]) -> Activation:
    name = next((known for known in _NAMES if known.lower() == name.lower()), name)
    if name not in _NAMES:
        raise node.unsupported(f"activation {name}")
    if name in ("Affine", "ScaledTanh"):  # no operators any more
        numbers = [next(given[p], None) for p in given]
        if None in numbers:
            raise node.unsupported(f"activation {name} without alpha and beta")
        alpha, beta = (scalar(v, FLOAT) for v in numbers if v is not None)
        if name == "Affine":
            return lambda x: Add(Mul(x, alpha), beta)
        return lambda x: Mul(Tanh(Mul(x, beta)), alpha)
    function = find_importer(ir.node(name, ()), node.opset)
    if function is None:
        raise node.unsupported(f"activation {name}")
    schema: OpSchema = onnx.defs.get_schema(name, node.opset, "")
    parameters = {
        p: next(given[p], onnx.helper.get_attribute_value(schema.attributes[p].default_value))
        for p in given
        if p in schema.attributes
    }

    def apply(x: Op) -> Op:
        y = function(Node(node.name, name, node.opset, (x,), parameters, ("",)))
        assert isinstance(y, Op)
        return y

    return apply


_NAMES = (
    "Relu",
    "Tanh",
    "Sigmoid",
    "Affine",
    "LeakyRelu",
    "ThresholdedRelu",
    "ScaledTanh",
    "HardSigmoid",
    "Elu",
    "Softsign",
    "Softplus",
)
