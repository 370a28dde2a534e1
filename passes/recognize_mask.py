"""RecognizeMask: very negative terms in front of a softmax become its mask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from qcompiler.graph import Constant, Op, Rule, fold, toposort
from qcompiler.invariants import real
from qcompiler.ops import (
    Add,
    And,
    Cast,
    Div,
    Equal,
    Expand,
    Movement,
    Mul,
    Not,
    Reshape,
    Select,
    Slice,
    Softmax,
    Sub,
    Transpose,
    scalar,
)
from qcompiler.passes.base import Preserves, RewritePass
from qcompiler.types import FLOAT

FAR = 1e4
"""What lies this far below all the rest masks even a whole row."""

RESOLVED = 2.0**17
"""A term that lies this far away still leaves float32 six bits of fraction for the scores."""

Split = tuple[Op, "Op | None"]
"""A value without its very negative terms, and where it has none; None: nowhere."""


@dataclass(frozen=True)
class RecognizeMask(RewritePass):
    """Turn what makes softmax zero by being very negative into the softmax's mask.

    softmax(x + m) with m = −∞, −10⁴ or, in Swin (Liu et al. 2021), −100 where a position must not
    be seen (Vaswani et al. 2017, section 3.2.3): such a term would waste the codes of x, and no
    8-bit code is negative enough.  A constant that holds position biases as well keeps them.
    Masks that come from inputs, as (1 − mask)·(−10⁴) or as a choice, hold 0 and 1.  Guards against
    NaN behind a softmax go: a row without any position is all zeros here.

    Attributes:
        distance: How far below the largest term of its row a term counts as −∞; e^−50 is 2·10⁻²².

    Before::

        graph(%x: float32[1x4], %mask: bool[1x4]) {
          %select: float32[1x4] = select(%mask, 0.0, -10000.0)
          %add: float32[1x4] = add(%x, %select)
          %softmax: float32[1x4] = softmax(%add, axis=1)
          return y=%softmax
        }

    After::

        graph(%x: float32[1x4], %mask: bool[1x4]) {
          %softmax: float32[1x4] = softmax(%x, %mask, axis=1)
          return y=%softmax
        }
    """

    distance: float = 50.0

    requires = (real,)
    ensures = (real,)
    preserves: ClassVar[Preserves] = "reals"

    def rules(self) -> tuple[Rule, ...]:
        """Masks, whether added or subtracted, and the guards behind them."""
        distance = self.distance
        return (partial(to_sum, distance=distance), partial(to_mask, distance=distance), drop_guard)


def to_sum(node: Op, distance: float) -> Op | None:
    """x − (very large where not m) → x + (very negative where not m)."""
    match node:
        case Sub(x, term) if node.type.is_float and _of_bool(term, distance) is not None:
            return Add(x, Mul(term, scalar(-1, FLOAT)))
    return None


def to_mask(node: Op, distance: float) -> Op | None:
    """softmax(x + very negative where not m) → softmax(x, m)."""
    if not isinstance(node, Softmax):
        return None
    scores, factor = _scaled(node.x)
    value, kept = _split(scores, node.axis - node.type.rank, distance / factor)
    if kept is None:
        return None
    if scores is not node.x:
        value = Mul(value, scalar(factor, FLOAT))
    mask = node.mask if _is_true(kept) else _both(node.mask, kept)
    return Softmax(_expanded(value, node.type.shape), node.axis, mask)


def _scaled(node: Op) -> tuple[Op, float]:
    """What a positive constant multiplies behind its mask, as in CodeGen, and the constant."""
    match node:
        case Mul(x, Constant(array=c)) if c.size == 1 and c.item() > 0:
            return x, c.item()
        case Div(x, Constant(array=c)) if c.size == 1 and c.item() > 0:
            return x, 1 / c.item()
    return node, 1.0


def drop_guard(node: Op) -> Op | None:
    """where(isnan(softmax), 0, softmax) → softmax."""
    match node:
        case Select(Not(Equal(a, b)), Constant(array=zero), Softmax() as result) if (
            a is result and b is result and not zero.any()
        ):
            return result
    return None


def _split(root: Op, axis: int, distance: float) -> Split:
    """The split of a sum of choices; `axis`, from the end, is that of the softmax."""
    region: dict[Op, None] = {}
    leaves: dict[Op, Split] = {}
    constants: dict[Constant, None] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        if node in region or node in leaves or node in constants:
            continue
        if (found := _of_bool(node, distance)) is not None:
            leaves[node] = found
        elif isinstance(node, Constant):
            constants[node] = None
        elif isinstance(node, (Add, Select)) or (axis == -1 and _keeps_last_axis(node)):
            region[node] = None
            stack.extend(node.operands[1:] if isinstance(node, Select) else node.operands)
        else:
            leaves[node] = (node, None)
    choices = [x for node in region if isinstance(node, Select) for x in node.operands[1:]]
    borders: dict[Op, object] = {**leaves, **dict.fromkeys(constants)}
    chosen = set(toposort(choices, borders))
    for c in constants:
        leaves[c] = _leaf(c, axis, distance, whole=c not in chosen)
    conditions = {node.operands[0]: None for node in region if isinstance(node, Select)}
    env: dict[Op, Split] = {**{c: (c, None) for c in conditions}, **leaves}
    return fold([root], env, partial(_visit, distance=distance))[root]


def _keeps_last_axis(node: Op) -> bool:
    if not isinstance(node, (Reshape, Transpose, Expand)) or not node.type.rank:
        return False
    if isinstance(node, Transpose) and node.permutation[-1] != node.type.rank - 1:
        return False
    return bool(node.x.type.rank) and node.x.type.shape[-1] == node.type.shape[-1]


def _visit(node: Op, operands: list[Split], distance: float) -> Split:
    match node:
        case Add():
            (a, kept), (b, other) = operands
            if kept is None and other is None:
                return node, None
            return _sum(a, b), _both(kept, other)
        case Select(condition, low, b) if _is_low(low, distance):
            value, kept = operands[2]
            condition = _not(condition)
            return _where(condition, b, value), _both(_condition(condition), kept)
        case Select(condition, a, low) if _is_low(low, distance):
            value, kept = operands[1]
            return _where(condition, a, value), _both(_condition(condition), kept)
        case Select(condition):
            (a, kept), (b, other) = operands[1:]
            if kept is None and other is None:
                return node, None
            return Select(condition, a, b), _either(condition, kept, other)
        case Movement(x):
            ((value, kept),) = operands
            if kept is None:
                return node, None
            return _moved(node, x, value), _moved(node, x, kept)
    raise AssertionError(node)


def _leaf(node: Constant, axis: int, distance: float, whole: bool) -> Split:
    """A constant split at what lies far below the largest element of its row, or of all.

    Softmax does not see what is alike for a row.  Where `whole` rows of it are added, and not
    chosen element by element, a row of −10⁴ therefore masks nothing, and goes.
    """
    if not node.type.is_float or not node.type.size:
        return node, None
    array, rows = node.array, node.array
    if array.ndim >= -axis:
        rows = array.max(axis, keepdims=True)
        with np.errstate(invalid="ignore"):
            shift = array.max() - rows
        near = (shift > distance) & (shift <= RESOLVED)
        if whole and near.any():
            array = array + np.where(near, shift, np.float32(0))
            rows = array.max(axis, keepdims=True)
    low = (array < np.maximum(rows - distance, array.max() - FAR)) | np.isneginf(array)
    if array is node.array and not low.any():
        return node, None
    kept = ~low
    for i in range(kept.ndim):  # masks are mostly alike for all heads
        first = kept.take([0], i)
        kept = first if (kept == first).all() else kept
    return Constant(np.where(low, np.float32(0), array)), Constant(kept)


def _is_low(node: Op, distance: float) -> bool:
    return isinstance(node, Constant) and bool((node.array < -distance).all())


def _of_bool(node: Op, distance: float) -> Split | None:
    """A function of one bool of which one value is far lower."""
    if (found := _two_values(node)) is None:
        return None
    condition, off, on = found
    if math.isnan(off) or math.isnan(on) or abs(on - off) <= distance:
        return None
    return scalar(max(off, on), FLOAT), condition if off < on else _not(condition)


def _two_values(node: Op) -> tuple[Op, float, float] | None:
    """A float function of one bool, or of an integer that is 0 or 1: the bool and both values."""
    steps: list[Op] = []
    while True:
        match node:
            case Add(x, Constant(array=c)) | Mul(x, Constant(array=c)) if c.size == 1:
                steps.append(node)
                node = x
            case Cast(x) | Reshape(x) | Transpose(x) | Expand(x) | Slice(x):
                steps.append(node)
                node = x
            case _:
                break
    if node.type.is_float or not any(step.type.is_float for step in steps):
        return None
    condition = node if node.type.dtype == "bool" else _not(Equal(node, scalar(0, node.type.dtype)))
    values = np.array([False, True]).astype(node.type.dtype)
    for step in reversed(steps):
        match step:
            case Add(_, Constant(array=c)) | Mul(_, Constant(array=c)):
                values = step.numpy(values, c.reshape(()))
            case Cast():
                values = step.numpy(values)
            case Movement():
                condition = step.with_operands((condition,))
    off, on = (float(v) for v in values)
    return condition, off, on


def _condition(condition: Op) -> Op:
    """f(b) = c for a function f of a bool → b, or not b."""
    inner = condition.x if isinstance(condition, Not) else condition
    match inner:
        case Equal(v, Constant(array=c)) if c.size == 1 and (found := _two_values(v)):
            base, off, on = found
            if (off == c) == (on == c):
                return condition
            holds = base if on == c else _not(base)
            return holds if inner is condition else _not(holds)
    return condition


def _where(condition: Op, x: Op, value: Op) -> Op:
    """What x is where the condition holds: a constant if it says so, else `value`."""
    match condition:
        case Equal(v, Constant(array=c)) if v is x and c.size == 1:
            return Constant(c.reshape(()))
    return value


def _not(condition: Op) -> Op:
    return condition.x if isinstance(condition, Not) else Not(condition)


def _sum(a: Op, b: Op) -> Op:
    """a + b; whoever uses it expands what a dropped zero would have."""
    for x, other in ((a, b), (b, a)):
        if isinstance(x, Constant) and not x.array.any():
            return other
    return Add(a, b)


def _is_true(condition: Op) -> bool:
    return isinstance(condition, Constant) and bool(condition.array.all())


def _both(a: Op | None, b: Op | None) -> Op | None:
    if a is None or (b is not None and _is_true(a)):
        return b
    if b is None or _is_true(b):
        return a
    if isinstance(a, Constant) and isinstance(b, Constant):
        return Constant(a.array & b.array)
    return And(a, b)


def _either(condition: Op, kept: Op | None, other: Op | None) -> Op:
    """`kept` where the condition holds, else `other`."""
    first, second = _both(condition, kept), _both(_not(condition), other)
    assert first is not None
    assert second is not None
    return Not(And(_not(first), _not(second)))


def _moved(move: Op, x: Op, value: Op) -> Op:
    """The value moved as x is, whose shape it broadcasts to."""
    result = move.with_operands((_expanded(value, x.type.shape),))
    match result.operands:
        case (Constant(array=array),):
            return Constant(result.numpy(array))
    return result


def _expanded(x: Op, shape: tuple[int, ...]) -> Op:
    if x.type.shape == shape:
        return x
    if isinstance(x, Constant):
        return Constant(np.ascontiguousarray(np.broadcast_to(x.array, shape)))
    return Expand(x, shape)
