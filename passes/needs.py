"""What each op of the real language needs of its operands to be computed with integers.

`InsertQdq` puts codes where they are needed; `Integerize` then finds what it expects.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import IntEnum

import numpy as np

from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    AveragePool,
    Cast,
    Clip,
    Codes,
    Conv,
    Div,
    FakeQuantize,
    Map,
    MatMul,
    MaxPool,
    Mul,
    Normalize,
    Pad,
    ReduceMean,
    Relu,
    Softmax,
    Sub,
)
from qcompiler.ops.integer import INT32_MAX


class Need(IntEnum):
    """How wide a user wants its operand."""

    NARROW = 0
    """Codes of at most 8 bits: operands of products, tables and pools."""
    WIDE = 1
    """16 bits: terms of a residual sum."""
    PRECISE = 2
    """16 bits, and so for all that the value is computed from: what others are divided by."""
    EXACT = 3
    """Outputs of the model, and operands of ops that stay in float."""


PRODUCTS = (Conv, MatMul)
STEEP = 1 / 16
"""The part of a function's range that half a step of its operand's codes may be worth."""


def needs(
    user: Op, x: Op, result: Collection[Need], steep: Callable[[Map], bool], wide: bool = False
) -> Collection[Need]:
    """What a user needs of an operand.

    Args:
        user: The op.
        x: One of its operands.
        result: What is needed of the op's own result.
        steep: Whether 8 bits are too few for the operand of a function.
        wide: Whether products, tables and maxima are to read 16 bits of this operand.
    """
    match user:
        case _ if not x.type.is_float:
            return set()
        case Conv(_, Constant()) | MatMul(_, Constant()) | MaxPool() if wide:
            return {Need.WIDE}
        case Map() if wide and Need.PRECISE not in result:
            return {Need.WIDE}
        case Conv() | MatMul() | AveragePool() | MaxPool() | Softmax():
            return {Need.NARROW}
        case Map():
            return {Need.PRECISE if Need.PRECISE in result or steep(user) else Need.NARROW}
        case FakeQuantize(quantization=q) | Codes(meaning=q):
            return {Need.WIDE if q.bounds.bits <= 8 else Need.EXACT}
        case Normalize():
            return {Need.WIDE}
        case Mul(_, Constant(array=c)) if c.size > 1:
            return {max(need, Need.WIDE) for need in result}  # channels that differ in range
        case Add(_, Constant()) | Mul(_, Constant()) | Relu() | Clip():
            return result
        case Add() | Sub():
            return {Need.WIDE}
        case Mul():
            precise = Need.PRECISE if Need.PRECISE in result else Need.WIDE
            return {min(precise, max(result, default=Need.NARROW))}
        case Div():
            return {Need.PRECISE}
        case ReduceMean():
            fits = user.count << 15 <= INT32_MAX
            return {Need.PRECISE if Need.PRECISE in result and fits else Need.NARROW}
    if any(x is y for y in user.fields(user.moves)):
        return result
    if any(x is y for y in user.fields(user.compares)):
        return {Need.WIDE}
    return {Need.EXACT}


def takes_any_width(user: Op) -> bool:
    """Whether operands that are wider for others' sake will do as well: terms of a sum."""
    match user:
        case Add() | Sub() | Mul(_, Constant()):
            return True
    return False


def is_linear(x: Op) -> bool:
    """Whether the real result is a linear combination of accumulators.

    It need not be rounded before a clamp, a factor or a term behind it.
    """
    match x:
        case Conv() | MatMul() | AveragePool() | ReduceMean() | Normalize() | Add() | Sub() | Mul():
            return True
        case Cast():
            return not x.x.type.is_float
    return False


def joined(node: Op) -> tuple[Op, ...]:
    """Operands that an op wants at the scale of its result: those that it mixes, and constants.

    So it is with an element that a Pad adds, which its operand's range need not hold; an infinite
    one saturates.
    """
    if isinstance(node, Pad):
        return (node.x,) if node.value and np.isfinite(node.value) else ()
    moved = tuple(x for x in node.fields(node.moves) if x.type.is_float)
    return moved if len(moved) > 1 or any(isinstance(x, Constant) for x in moved) else ()


def is_steep(function: Map, low: float, high: float) -> bool:
    """Whether half a step of 8-bit codes for low…high is worth much of the function's range.

    So it is with 1/x near 0 and with sin(x) over many periods, and with nothing that networks use
    as an activation.
    """
    places = np.linspace(low, high, 511)  # codes, and what lies half-way between them
    values = function.at(places.astype(function.x.type.dtype))
    if values.dtype.kind != "f":
        return True
    values = values[np.isfinite(values)].astype(np.float64)
    spread = float(np.ptp(values)) if values.size else 0.0
    return bool(np.abs(np.diff(values)).max(initial=0.0) > STEEP * spread)
