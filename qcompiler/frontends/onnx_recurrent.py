"""Importers of RNN, GRU and LSTM: one product for the inputs of all steps, then step by step.

A recurrence is unrolled: every step becomes ops of its own, so that calibration gives every value
scales of its own and integers need no ranges that hold for all steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from qcompiler.frontends.onnx_contrib import FLOAT as FLOAT_NUMBER
from qcompiler.frontends.onnx_contrib import FLOATS, INT, MICROSOFT, STRINGS, define
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_recurrence import Direction, State, Step, run
from qcompiler.graph import Constant, Op
from qcompiler.ops import Add, MatMul, Mul, Sub, scalar
from qcompiler.types import FLOAT


@importer("RNN", since=7)
def rnn(node: Node) -> tuple[Op, ...]:
    """hᵗ = f(W·xᵗ + R·hᵗ⁻¹ + b)."""
    return run(node, _rnn_step, gates=1, defaults=("Tanh",))


@importer("GRU", since=7)
def gru(node: Node) -> tuple[Op, ...]:
    """Gated recurrent units (Cho et al. 2014): gates z and r, the new state between old and h~."""
    return run(node, _gru_step, gates=3, defaults=("Sigmoid", "Tanh"))


@importer("LSTM", since=7)
def lstm(node: Node) -> tuple[Op, ...]:
    """Long short-term memory (Hochreiter & Schmidhuber 1997), with peepholes (Gers et al. 2002)."""
    return run(node, _lstm_step, gates=4, defaults=("Sigmoid", "Tanh", "Tanh"))


define(
    "DynamicQuantizeLSTM(X, W, R, B?, sequence_lens?, initial_h?, initial_c?, P?,"
    " W_scale, W_zero_point, R_scale, R_zero_point) -> Y?, Y_h?, Y_c?",
    activation_alpha=FLOATS,
    activation_beta=FLOATS,
    activations=STRINGS,
    clip=FLOAT_NUMBER,
    direction="forward",
    hidden_size=INT,
    input_forget=0,
)


@importer("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_quantize_lstm(node: Node) -> tuple[Op, ...]:
    """An LSTM of dequantized weights, which lie as [directions, inputs, 4·hidden]."""
    w, r = (_dequantized(node, *places) for places in ((1, 8), (2, 10)))
    inputs, attributes = (node.x, w, r, *node.inputs[3:8]), {**node.attributes, "layout": 0}
    return lstm(replace(node, op_type="LSTM", inputs=inputs, attributes=attributes))


def _dequantized(node: Node, codes: int, scale: int) -> Op:
    """Weights by their direction's scale, or by one per column of it, as LSTM has them."""
    found = [node.known(i, "weights") for i in (codes, scale, scale + 1)]
    w, s, zero = (np.asarray(array, np.float64) for array in found)
    if w.ndim != 3 or any(a.shape not in (w.shape[:1], w.shape[::2]) for a in (s, zero)):
        shapes = f"{w.shape} scaled by {s.shape} and {zero.shape}"
        raise node.broken(f"expected weights of rank 3 and a scale per direction, found {shapes}")
    s, zero = (a.reshape(len(w), 1, -1) for a in (s, zero))
    return Constant(((w - zero) * s).swapaxes(1, 2).astype(FLOAT))


def _rnn_step(d: Direction) -> Step:
    (f,) = d.activations
    recurrent = d.recurrent(0, 1)

    def step(t: int, state: State) -> State:
        return (f(d.clipped(_sum(d.projected(t, 0, 1), _product(state[0], recurrent)))),)

    return step


def _gru_step(d: Direction) -> Step:
    f, g = d.activations
    both, candidate = d.recurrent(0, 2), d.recurrent(2, 3)
    late = d.node.integer("linear_before_reset") != 0
    bias = d.recurrent_bias(2, 3) if late else None

    def step(t: int, state: State) -> State:
        (hidden,) = state
        gates = f(d.clipped(_sum(d.projected(t, 0, 2), _product(hidden, both))))
        z, r = d.part(gates, 0, 1), d.part(gates, 1, 2)
        term: Op | None
        if not late:
            term = None if hidden is None else MatMul(Mul(r, hidden), candidate)
        elif hidden is None:
            term = None if bias is None else Mul(r, bias)
        else:
            term = Mul(r, MatMul(hidden, candidate, bias))
        new = g(d.clipped(_sum(d.projected(t, 2, 3), term)))
        kept = Mul(Sub(scalar(1, FLOAT), z), new)
        return (kept if hidden is None else Add(Mul(z, hidden), kept),)

    return step


def _lstm_step(d: Direction) -> Step:
    f, g, h = d.activations
    peepholes = d.peepholes
    coupled = d.node.integer("input_forget") != 0
    # Gates of one function are one product, as long as nothing but the state decides them.
    groups = ((0, 3),) if peepholes is None else ((0, 1), (1, 2), (2, 3))
    weights = {group: d.recurrent(*group) for group in (*groups, (3, 4))}

    def step(t: int, state: State) -> State:
        hidden, cell = state

        def gate(group: tuple[int, int], function: Callable[[Op], Op], seen: Op | None) -> Op:
            total = _sum(d.projected(t, *group), _product(hidden, weights[group]))
            if peepholes is not None and seen is not None and group[0] < 3:
                total = Add(total, Mul(seen, peepholes[group[0]]))
            return function(d.clipped(total))

        new = gate((3, 4), g, None)
        if peepholes is None:
            gates = gate((0, 3), f, None)
            i, o, forget = (d.part(gates, k, k + 1) for k in range(3))
        else:
            i, forget = gate((0, 1), f, cell), gate((2, 3), f, cell)
        if coupled:
            forget = Sub(scalar(1, FLOAT), i)
        following: Op = Mul(i, new)
        if cell is not None:
            following = Add(Mul(forget, cell), following)
        if peepholes is not None:
            o = gate((1, 2), f, following)
        return Mul(o, h(following)), following

    return step


def _product(state: Op | None, weights: Op) -> Op | None:
    return None if state is None else MatMul(state, weights)


def _sum(x: Op, term: Op | None) -> Op:
    return x if term is None else Add(x, term)
