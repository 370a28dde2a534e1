"""Composites of the integer language: dyadic requantization, tables and quotients."""

from __future__ import annotations

from functools import cached_property, reduce
from typing import ClassVar

import numpy as np

from qcompiler.graph import Constant, Op, op
from qcompiler.ops.arithmetic import (
    Add,
    Cast,
    Clip,
    FloorDiv,
    GreaterEqual,
    Maximum,
    Mul,
    Select,
    ShiftRight,
    Sub,
    scalar,
)
from qcompiler.ops.composite import Composite
from qcompiler.ops.integer import Lookup
from qcompiler.types import Quantization, TensorType


@op
class Requantize(Composite):
    """clamp((Σ x_i·m_i + offset) >> shift): one rounding for any affine combination of codes.

    The dyadic requantization of HAWQ-V3 (Yao et al. 2021, section 3) and I-ViT (Li & Gu 2023,
    eq. 5), for one operand or, as in a residual sum, several.  `offset` holds the rounding half
    2^(shift−1), the zero points of both sides, and whatever real constant is added.

    Attributes:
        inputs: Integer operands, of any width up to 32 bits, that broadcast together.
        multipliers: One int32 constant per operand, broadcastable to the result.
        offset: int64 constant, broadcastable to the result.
        shift: 1…62.
        quantization: Meaning of the result.
        low: Smallest code of the result, where an activation clamps above the storage's.
        high: Largest code, likewise.
    """

    inputs: tuple[Op, ...]
    multipliers: tuple[Op, ...]
    offset: Op
    shift: int
    quantization: Quantization
    low: int | None = None
    high: int | None = None

    elementwise: ClassVar[bool] = True

    def body(self) -> Op:
        terms: list[Op] = [
            Mul(Cast(x, "int64"), Cast(m, "int64"))
            for x, m in zip(self.inputs, self.multipliers, strict=True)
        ]
        total: Op = reduce(Add, terms)
        total = ShiftRight(Add(total, self.offset), self.amount)
        return Cast(Clip(total, *self.limits), self.quantization.bounds.dtype)

    @cached_property
    def amount(self) -> Constant:
        """`shift` as an operand of the body."""
        return scalar(self.shift, "int64")

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest code of the result."""
        bounds = self.quantization.bounds
        low = bounds.low if self.low is None else self.low
        return low, bounds.high if self.high is None else self.high

    def infer(self) -> TensorType:
        self.expect(1 <= self.shift <= 62, "a shift of 1…62", self.shift)
        self.expect(all(x.type.is_integer for x in self.inputs), "integer operands", self.inputs)
        self.expect(self.offset.type.dtype == "int64", "an int64 offset", self.offset.type)
        for m in self.multipliers:
            self.expect(m.type.dtype == "int32", "int32 multipliers", m.type)
        return super().infer()


@op
class Table(Composite):
    """values[code]: any function of a code of 8 or 16 bits, to within half a step of the result.

    Channels whose scales differ have tables of their own, one behind the other.

    Attributes:
        x: Codes of 8 or 16 bits.
        values: The result for every code, that of the smallest code of x's dtype first, 2^8 or 2^16
            of them; or several such tables.  Codes of `quantization`, or anything else without.
        quantization: Meaning of the result, where it has one.
        rows: int32, broadcastable to x: where the table of each element starts, a multiple of the
            table's size.  None where there is one table.
    """

    x: Op
    values: Op
    quantization: Quantization | None = None
    rows: Op | None = None

    elementwise: ClassVar[bool] = True

    def body(self) -> Op:
        x, values, q = self.x.type, self.values.type, self.quantization
        self.expect(x.is_integer and table_size(x.dtype) <= 1 << 16, "8 or 16 bits", x)
        self.expect(values.is_integer, "a table of integers", values)
        dtype, one = values.dtype if q is None else q.bounds.dtype, table_size(x.dtype)
        fits = (values.dtype, values.rank) == (dtype, 1) and values.size % one == 0 < values.size
        self.expect(fits, f"{dtype}[{one}] or a multiple", values)
        if self.rows is None:
            self.expect(values.size == one, f"one table of {one}", values)
        else:
            self.expect(self.rows.type.dtype == "int32", "int32 rows", self.rows.type)
        return Lookup(self.index, self.values)

    @cached_property
    def index(self) -> Op:
        """Where in `values` each element is found, int32."""
        index: Op = Cast(self.x, "int32")
        if low := int(np.iinfo(self.x.type.dtype).min):
            index = Sub(index, scalar(low, "int32"))
        return index if self.rows is None else Add(index, self.rows)


def table_size(dtype: str) -> int:
    """How many entries a table for integers of that dtype has."""
    return 1 << 8 * np.dtype(dtype).itemsize


@op
class Divide(Composite):
    """clamp(round(r·(a − z_a) / (b − z_b)) + z): the quotient of two values, rounded once.

    An integer division of 64 bits, floor((2·a·m + b·2^k) / (b·2^(k + 1))) for r = m / 2^k and
    b > 0, so that no range of b is too wide.  A divisor of 0 counts as one step.

    Attributes:
        a: Codes of at most 16 bits.
        b: Likewise, broadcastable with a.
        multiplier: m, an int32 constant of rank 0, positive and below 2^29.
        shift: k, 0…42.
        quantization: Meaning of the result, per tensor.
    """

    a: Op
    b: Op
    multiplier: Op
    shift: int
    quantization: Quantization

    elementwise: ClassVar[bool] = True

    def body(self) -> Op:
        q = self.quantization
        self.expect(0 <= self.shift <= 42, "a shift of 0…42", self.shift)
        m = self.multiplier.type
        self.expect((m.dtype, m.shape) == ("int32", ()), "a multiplier int32[]", m)
        self.expect(q.axis is None, "one scale", q)
        a, b = (self._code(x) for x in (self.a, self.b))
        negative = GreaterEqual(scalar(-1, "int64"), b)
        zero = scalar(0, "int64")
        a = Select(negative, Sub(zero, a), a)
        b = Maximum(Select(negative, Sub(zero, b), b), scalar(1, "int64"))
        twice = Mul(Mul(a, Cast(self.multiplier, "int64")), scalar(2, "int64"))
        unit = Mul(b, scalar(1 << self.shift, "int64"))
        quotient: Op = FloorDiv(Add(twice, unit), Mul(unit, scalar(2, "int64")))
        if q.zero_point[0]:
            quotient = Add(quotient, scalar(q.zero_point[0], "int64"))
        return Cast(Clip(quotient, q.bounds.low, q.bounds.high), q.bounds.dtype)

    def _code(self, x: Op) -> Op:
        meaning = x.type.quantization
        self.expect(meaning is not None and meaning.axis is None, "codes of one scale", x.type)
        assert meaning is not None
        self.expect(meaning.bounds.bits <= 16, "at most 16 bits", x.type)
        code: Op = Cast(x, "int64")
        if meaning.zero_point[0]:
            code = Sub(code, scalar(meaning.zero_point[0], "int64"))
        return code
