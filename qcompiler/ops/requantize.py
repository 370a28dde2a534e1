"""Composites of the integer language: dyadic requantization and 256-entry tables."""

from __future__ import annotations

from functools import reduce

from qcompiler.graph import Constant, Op, op
from qcompiler.ops.arithmetic import Add, Cast, Clip, Mul, ShiftRight, Sub, scalar
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

    def body(self) -> Op:
        bounds = self.quantization.bounds
        terms: list[Op] = [
            Mul(Cast(x, "int64"), Cast(m, "int64"))
            for x, m in zip(self.inputs, self.multipliers, strict=True)
        ]
        total: Op = reduce(Add, terms)
        total = ShiftRight(Add(total, self.offset), scalar(self.shift, "int64"))
        low = bounds.low if self.low is None else self.low
        high = bounds.high if self.high is None else self.high
        return Cast(Clip(total, low, high), bounds.dtype)

    def infer(self) -> TensorType:
        self.expect(1 <= self.shift <= 62, "a shift of 1…62", self.shift)
        self.expect(all(x.type.is_integer for x in self.inputs), "integer operands", self.inputs)
        self.expect(self.offset.type.dtype == "int64", "an int64 offset", self.offset.type)
        bound = _magnitude(self.offset)
        for x, m in zip(self.inputs, self.multipliers, strict=True):
            self.expect(m.type.dtype == "int32", "int32 multipliers", m.type)
            bound += x.type.magnitude() * _magnitude(m)
        self.expect(bound < 1 << 62, "products within 62 bits", f"sums up to {bound}")
        return super().infer()


@op
class Table(Composite):
    """values[code]: any function of an 8-bit code, to within half a step of the result.

    Channels whose scales differ have tables of their own, one behind the other.

    Attributes:
        x: 8-bit codes.
        values: 256 codes of the result, that of the smallest code of x's dtype first; or several
            such tables.
        quantization: Meaning of the result.
        rows: int32, broadcastable to x: where the table of each element starts, a multiple of 256.
            None where there is one table.
    """

    x: Op
    values: Op
    quantization: Quantization
    rows: Op | None = None

    def body(self) -> Op:
        self.expect(self.x.type.dtype in ("uint8", "int8"), "8-bit codes", self.x.type)
        dtype, size = self.quantization.bounds.dtype, self.values.type.size
        fits = self.values.type == TensorType(dtype, (size,)) and size % 256 == 0 and size > 0
        self.expect(fits, f"{dtype}[256] or a multiple", self.values.type)
        index: Op = Cast(self.x, "int32")
        if self.x.type.dtype == "int8":
            index = Sub(index, scalar(-128, "int32"))
        if self.rows is None:
            self.expect(size == 256, "one table of 256", self.values.type)
            return Lookup(index, self.values)
        self.expect(self.rows.type.dtype == "int32", "int32 rows", self.rows.type)
        if isinstance(self.rows, Constant):
            inside = self.rows.array.min() >= 0 and self.rows.array.max() <= size - 256
            self.expect(bool(inside), f"rows within 0…{size - 256}", self.rows.array.max())
        return Lookup(Add(index, self.rows), self.values)


def _magnitude(node: Op) -> int:
    if isinstance(node, Constant):
        return max(-int(node.array.min(initial=0)), int(node.array.max(initial=0)))
    return node.type.magnitude()
