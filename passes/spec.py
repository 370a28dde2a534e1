"""How integers compute each op of the real language: one table, read by two passes.

`InsertQdq` puts codes where the table wants them and leaves unrounded what it lets an op absorb;
`Integerize` makes integers of exactly that.  In the quantized language the operands that are codes
are `Dequantize`s; an op looks the same to the table in both languages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from qcompiler.fixed_point import affine_quantization
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    AveragePool,
    Cast,
    Clip,
    Codes,
    Conv,
    Dequantize,
    Div,
    FakeQuantize,
    Map,
    MatMul,
    Mul,
    Normalize,
    Pad,
    Quantize,
    ReduceMean,
    Relu,
    Softmax,
    Sub,
)
from qcompiler.ops.integer import INT32_MAX
from qcompiler.passes.linear import is_known
from qcompiler.passes.needs import (
    Demand,
    Need,
    Wants,
    always,
    annotated,
    averaged,
    channels,
    like_result,
    looked_up,
    moved,
    multiplied,
    weighted,
)
from qcompiler.types import Quantization


class Form(Enum):
    """What the result of an op is before anything rounds it to codes."""

    SUM = auto()
    """A linear combination of accumulators."""
    CLAMP = auto()
    """One between bounds."""
    FUNCTION = auto()
    """A function of codes: a table of them."""
    SCALED = auto()
    """A function times numbers, which its table takes along."""
    SHIFTED = auto()
    """A function, perhaps times numbers, plus numbers: nothing more goes into the table."""
    SOFTMAX = auto()
    """Weights that a product with values need not divide by their sum."""
    QUOTIENT = auto()
    """Of two values."""
    CODES = auto()
    """Elements of the operands' codes, or what their order says."""


TABLES = frozenset({Form.FUNCTION, Form.SCALED, Form.SHIFTED})
CHANNELED = frozenset({Form.SUM, Form.SCALED, Form.SHIFTED})
"""What may be rounded to codes with a scale per channel for the table behind it."""
NARROW, WIDE, PRECISE = map(always, (Need.NARROW, Need.WIDE, Need.PRECISE))


@dataclass(frozen=True)
class Reads:
    """Which codes an op can compute with.

    Attributes:
        bits: At most.
        suits: What else they must be; signed codes without a zero point always do.
        channels: Whether scales may differ along an axis.
    """

    bits: int = 32
    suits: Callable[[Quantization], bool] = lambda q: True
    channels: bool = False

    def admits(self, q: Quantization) -> bool:
        """Whether codes of this meaning are among them."""
        fits = q.bounds.bits <= self.bits and (self.channels or q.axis is None)
        return fits and self.suits(q)

    def nearest(self, q: Quantization) -> Quantization:
        """The meaning of codes among them, of at most 16 bits, for all reals of other codes."""
        scales, zeros = np.array(q.scale), np.array(q.zero_point)
        low, high = (scales * (bound - zeros) for bound in (q.bounds.low, q.bounds.high))
        return affine_quantization(float(low.min()), float(high.max()), f"int{min(self.bits, 16)}")


ANY = Reads(channels=True)


@dataclass(frozen=True)
class Spec:
    """How integers compute an op.

    Constants are second operands (`Canonicalize`).

    Attributes:
        form: What the result is if it absorbs nothing.
        wants: How wide it wants an operand to be.
        reads: Which codes operands may be.
        absorbs: The form of an operand that need not be rounded → what the result is then.
        products: How many products it sums up: of two, one is rounded first.
        factor: Which codes the second operand has to be, if it is not like the first.
    """

    form: Form
    wants: Wants
    reads: Reads = Reads()
    absorbs: Mapping[Form, Form] = field(default_factory=dict)
    products: int = 0
    factor: Reads | None = None

    @property
    def sums(self) -> bool:
        """Whether operands are terms, which may be wider for others' sake."""
        return self.absorbs.get(Form.SUM) is Form.SUM


def spec(node: Op) -> Spec | None:
    """The table; None for what no integers compute, or computes nothing real."""
    if not any(x.type.is_float for x in (node, *node.operands)):
        return None
    match node:
        case Conv(_, w, bias) | MatMul(_, w, bias) if _is_weight(w) and is_known(bias):
            weight = Reads(8, channels=True)
            return Spec(Form.SUM, weighted, Reads(16, _halves), products=1, factor=weight)
        case MatMul(a, b, bias) if is_known(bias):
            attends = isinstance(a, Softmax) and a.axis == a.type.rank - 1 and bias is None
            absorbs = {Form.SOFTMAX: Form.SUM} if attends else {}
            last = b.type.rank - 1
            factor = Reads(8, lambda q: q.bounds.signed and q.axis in (None, last), channels=True)
            return Spec(Form.SUM, NARROW, Reads(8), absorbs, 1, factor)
        case AveragePool():
            return Spec(Form.SUM, NARROW, Reads(8))
        case ReduceMean(count=count):
            most = INT32_MAX // count
            reads = Reads(most.bit_length(), lambda q: max(-q.bounds.low, q.bounds.high) <= most)
            return Spec(Form.SUM, averaged, reads)
        case Normalize(center=center):
            reads = Reads(16, lambda q: center or not any(q.zero_point))
            return Spec(Form.SUM, WIDE, reads)
        case Cast(x) if not x.type.is_float and x.type.dtype not in ("uint32", "uint64"):
            return Spec(Form.SUM, like_result)
        case Add(x, Constant()):
            absorbs = {Form.SUM: Form.SUM}
            if node.type.shape == x.type.shape:
                absorbs |= {Form.FUNCTION: Form.SHIFTED, Form.SCALED: Form.SHIFTED}
            return Spec(Form.SUM, like_result, ANY, absorbs)
        case Mul(x, Constant() as c):
            absorbs = {Form.SUM: Form.SUM}
            if node.type.shape == x.type.shape:
                absorbs |= {Form.FUNCTION: Form.SCALED}
            wants = like_result if c.is_scalar else channels
            return Spec(Form.SUM, wants, ANY, absorbs)
        case Add() | Sub():
            return Spec(Form.SUM, WIDE, ANY, {Form.SUM: Form.SUM})
        case Mul() if not any(isinstance(x, Constant) for x in node.operands):
            return Spec(Form.SUM, multiplied, Reads(16, _squares))
        case Relu() | Clip():
            absorbs = {Form.SUM: Form.CLAMP, Form.CLAMP: Form.CLAMP}
            return Spec(Form.CLAMP, like_result, ANY, absorbs)
        case Map():
            return Spec(Form.FUNCTION, looked_up, Reads(16, channels=node.type.is_float))
        case Softmax():
            return Spec(Form.SOFTMAX, NARROW, Reads(8))
        case Div() if not any(isinstance(x, Constant) for x in node.operands):
            return Spec(Form.QUOTIENT, PRECISE, Reads(16))
        case FakeQuantize() | Codes():
            return Spec(Form.CODES, annotated, ANY)
    if node.moves or node.compares:
        return Spec(Form.CODES, moved)
    return None


def wanted(user: Op, demand: Demand) -> Collection[Need]:
    """How wide an op wants an operand."""
    if not demand.x.type.is_float:
        return set()
    found = spec(user)
    return {Need.EXACT} if found is None else found.wants(user, demand)


def reading(user: Op, x: Op) -> Reads | None:
    """Which codes an operand of an op may be; None where the op stays in float."""
    if (found := spec(user)) is None:
        return None
    return found.factor if found.factor and x is user.operands[1] else found.reads


def absorbing(user: Op, x: Op, form: Form | None) -> Form | None:
    """What the result of an op is if an operand of a form is not rounded; None where it has to."""
    found = spec(user)
    if found is None or form is None or (found.factor and x is user.operands[1]):
        return None
    return found.absorbs.get(form)


def form_of(value: Op) -> Form | None:
    """What a value of the quantized language is; None if integers cannot compute it from codes."""
    form = None if (found := spec(value)) is None else found.form
    for x in value.operands if form else ():
        if isinstance(x, Dequantize):
            q, reads = x.x.type.quantization, reading(value, x)
            if q is None or reads is None or not reads.admits(q):
                return None
        elif isinstance(x, Constant):
            if found and found.products and x in value.operands[:2]:
                return None  # its weight has no codes: the user skips it
        elif x.type.is_float:
            form = absorbing(value, x, form_of(x))
    return form


def joined(node: Op) -> tuple[Op, ...]:
    """Operands that an op wants at the scale of its result: those that it mixes, and constants.

    So it is with an element that a Pad adds, which its operand's range need not hold; an infinite
    one saturates.
    """
    if isinstance(node, Pad):
        return (node.x,) if node.value and np.isfinite(node.value) else ()
    moved = tuple(x for x in node.fields(node.moves) if x.type.is_float)
    return moved if len(moved) > 1 or any(isinstance(x, Constant) for x in moved) else ()


def _is_weight(x: Op) -> bool:
    """Whether an operand is known, in the quantized language behind its codes."""
    if isinstance(x, Dequantize):
        x = x.x.x if isinstance(x.x, Quantize) else x.x
    return isinstance(x, Constant)


def _halves(q: Quantization) -> bool:
    """16 bits are read as two times 8, the upper ones signed."""
    return q.bounds.bits <= 8 or (q.bounds.signed and not any(q.zero_point))


def _squares(q: Quantization) -> bool:
    """Whether the product of two such codes fits 32 bits."""
    return max(q.bounds.high - q.zero_point[0], q.zero_point[0] - q.bounds.low) ** 2 <= INT32_MAX
