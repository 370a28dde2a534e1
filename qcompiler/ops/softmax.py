"""Softmax in integers: exponentials by table, and division by their sum where it is exact."""

from __future__ import annotations

from typing import ClassVar

from qcompiler.graph import Op, op
from qcompiler.interval import Interval
from qcompiler.ops.arithmetic import (
    Add,
    Cast,
    FloorDiv,
    Maximum,
    Mul,
    Select,
    ShiftRight,
    Sub,
    scalar,
)
from qcompiler.ops.composite import Composite
from qcompiler.ops.integer import Lookup
from qcompiler.ops.reduction import ReduceMax
from qcompiler.types import TensorType

RECIPROCAL_BITS = 46
AVERAGE_BITS = 23
"""Fraction bits of a weighted average: 8-bit codes fill 30 bits of the int32."""


@op
class Exponentials(Composite):
    """exp(x − max) along an axis, by a table of the differences of 8-bit codes.

    Unnormalised: whoever sums products of them divides by their sum afterwards, which loses
    nothing, where normalised 8-bit probabilities of long rows would underflow.

    Attributes:
        x: 8-bit codes.
        values: 256 codes of exp(−(255 − i)·s), i = difference + 255: uint8, or wider.
        axis: The axis of one distribution.
        mask: bool, broadcastable to x; false gives exactly 0, and does not count for the maximum.
            None keeps everything.
    """

    x: Op
    values: Op
    axis: int
    mask: Op | None = None

    def body(self) -> Op:
        self.expect(self.x.type.dtype in ("uint8", "int8"), "8-bit codes", self.x.type)
        fits = self.values.type.shape == (256,) and self.values.type.is_integer
        self.expect(fits, "a table of 256 integers", self.values.type)
        difference = differences(self.x, self.axis, self.mask)
        index: Op = Add(difference, scalar(255, "int32"))
        if self.mask is None:
            return Lookup(index, self.values)
        index = Maximum(index, scalar(0, "int32"))  # masked codes may lie below the table
        zero = scalar(0, self.values.type.dtype)
        return Select(self.mask, Lookup(index, self.values), zero)

    def infer(self) -> TensorType:
        self.expect(0 <= self.axis < self.x.type.rank, f"an axis of {self.x.type}", self.axis)
        result = super().infer()
        self.expect(result.shape == self.x.type.shape, f"a mask that fits {self.x.type}", result)
        return result


def differences(x: Op, axis: int, mask: Op | None) -> Op:
    """x − max x along an axis, as int32, where the maximum is that of the elements kept.

    Lemma: none is above 0, because the maximum is that of the same values.
    """
    code: Op = Cast(x, "int32")
    if mask is not None:
        code = Select(mask, code, scalar(-128, "int32"))
    return Sub(code, ReduceMax(code, (axis,)), within=Interval(-383, 0))


@op
class Reciprocal(Composite):
    """round(2^46 / total) as int64; of a total of 0, as of 1.

    Attributes:
        total: int32, not negative.
    """

    total: Op

    elementwise: ClassVar[bool] = True

    def body(self) -> Op:
        self.expect(self.total.type.dtype == "int32", "an int32 total", self.total.type)
        total = Maximum(Cast(self.total, "int64"), scalar(1, "int64"))
        half = ShiftRight(total, scalar(1, "int64"))
        return FloorDiv(Add(scalar(1 << RECIPROCAL_BITS, "int64"), half), total)


@op
class Average(Composite):
    """Σ e_i·v_i / Σ e_i as int32 with 23 fraction bits, from both sums.

    Lemma: weighted·reciprocal is at most 2^53 + 2^37, because |weighted| ≤ 128·total, and the
    reciprocal is at most (2^46 + total / 2) / total; a total of 0 has a weighted sum of 0.

    Attributes:
        weighted: int32, Σ e_i·v_i with |v_i| ≤ 128, so at most 128 times the total.
        reciprocal: int64, the total's `Reciprocal`, broadcastable to `weighted`.
    """

    weighted: Op
    reciprocal: Op

    elementwise: ClassVar[bool] = True

    def body(self) -> Op:
        self.expect(self.weighted.type.dtype == "int32", "int32 sums", self.weighted.type)
        self.expect(self.reciprocal.type.dtype == "int64", "int64", self.reciprocal.type)
        largest = Interval.symmetric((1 << RECIPROCAL_BITS + 7) + (1 << 37))
        product = Mul(Cast(self.weighted, "int64"), self.reciprocal, within=largest)
        drop = RECIPROCAL_BITS - AVERAGE_BITS
        rounded = ShiftRight(Add(product, scalar(1 << drop - 1, "int64")), scalar(drop, "int64"))
        return Cast(rounded, "int32")
