"""How wide the ops of the real language want their operands: the needs that `spec.py` refers to."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from qcompiler.graph import Op
from qcompiler.ops import Codes, FakeQuantize, Map, MaxPool, ReduceMean
from qcompiler.ops.integer import INT32_MAX

STEEP = 1 / 16
"""The part of a function's range that half a step of its operand's codes may be worth."""


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


@dataclass(frozen=True)
class Demand:
    """What decides how wide an op wants an operand.

    Attributes:
        x: The operand.
        result: What is needed of the op's own result.
        steep: Whether 8 bits are too few for the operand of a function.
        wide: Whether products, tables and maxima are to read 16 bits of this operand.
    """

    x: Op
    result: Collection[Need]
    steep: Callable[[Map], bool]
    wide: bool = False


Wants = Callable[[Any, Demand], Collection[Need]]


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


def always(need: Need) -> Wants:
    """The same whatever the result is for."""
    return lambda node, demand: {need}


def like_result(node: Op, demand: Demand) -> Collection[Need]:
    """As wide as the result: what clamps, adds a constant or changes all alike."""
    return demand.result


def weighted(node: Op, demand: Demand) -> Collection[Need]:
    """Products with weights, as the configuration says."""
    return {Need.WIDE if demand.wide else Need.NARROW}


def channels(node: Op, demand: Demand) -> Collection[Need]:
    """Factors of channels, which may differ in range in front of them."""
    return {max(need, Need.WIDE) for need in demand.result}


def multiplied(node: Op, demand: Demand) -> Collection[Need]:
    """Products of values, element by element."""
    precise = Need.PRECISE if Need.PRECISE in demand.result else Need.WIDE
    return {min(precise, max(demand.result, default=Need.NARROW))}


def averaged(node: ReduceMean, demand: Demand) -> Collection[Need]:
    """Means, of 16 bits where their sum fits 32."""
    fits = node.count << 15 <= INT32_MAX
    return {Need.PRECISE if Need.PRECISE in demand.result and fits else Need.NARROW}


def looked_up(node: Map, demand: Demand) -> Collection[Need]:
    """Functions, by tables."""
    if Need.PRECISE in demand.result:
        return {Need.PRECISE}
    if demand.wide:
        return {Need.WIDE}
    return {Need.PRECISE if demand.steep(node) else Need.NARROW}


def annotated(node: FakeQuantize | Codes, demand: Demand) -> Collection[Need]:
    """Codes that the model says, with bits to spare for their rounding."""
    q = node.quantization if isinstance(node, FakeQuantize) else node.meaning
    return {Need.WIDE if q.bounds.bits <= 8 else Need.EXACT}


def moved(node: Op, demand: Demand) -> Collection[Need]:
    """Elements as they are in the result; what is compared, at one scale."""
    if isinstance(node, MaxPool):
        return weighted(node, demand)
    if any(demand.x is y for y in node.fields(node.moves)):
        return demand.result
    return {Need.WIDE if any(demand.x is y for y in node.fields(node.compares)) else Need.EXACT}
