"""Elementwise arithmetic on any dtype: the vocabulary of composite bodies.

Integer arithmetic wraps as in the machine; `interval` says where a result lies before it does.
Results carry no quantization: what codes mean is said by the composite that computes them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from qcompiler.graph import Constant, Op, op
from qcompiler.interval import Interval
from qcompiler.types import TensorType, broadcast, common_quantization


@op
class Elementwise(Op):
    """One result element from one element of each operand (numpy's broadcasting)."""

    elementwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        dtypes = {x.type.dtype for x in self.operands}
        self.expect(len(dtypes) == 1, "operands of one dtype", ", ".join(sorted(dtypes)))
        return TensorType(dtypes.pop(), broadcast(*(x.type for x in self.operands)))

    def scalar(self, t: Any, *operands: Any) -> Any:
        """One element as a TIR expression of the operands' elements."""
        raise NotImplementedError(f"{type(self).__name__}.scalar")

    def te(self, t: Any, *operands: Any) -> Any:
        return t.elementwise(self, operands)


@op
class Binary(Elementwise):
    """Two operands."""

    a: Op
    b: Op

    def infer(self) -> TensorType:
        expect_numbers(self, self.a.type)
        return super().infer()

    def onnx(self, o: Any, a: Any, b: Any) -> Any:
        operator = type(self).__name__
        return o.widened(self.a.type.dtype, (a, b), lambda a, b: o.op(operator, a, b))


@op
class Add(Binary):
    """a + b."""

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a + b

    def interval(self, a: Interval, b: Interval) -> Interval:
        return a + b

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return a + b


@op
class Sub(Binary):
    """a − b."""

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a - b

    def interval(self, a: Interval, b: Interval) -> Interval:
        return a - b

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return a - b


@op
class Mul(Binary):
    """a · b."""

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a * b

    def interval(self, a: Interval, b: Interval) -> Interval:
        return a * b

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return a * b


@op
class Div(Binary):
    """a / b of real numbers (integers: `FloorDiv`)."""

    def infer(self) -> TensorType:
        self.expect(self.a.type.is_float, "a float dividend", self.a.type)
        return super().infer()

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return a / b

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return a / b


@op
class FloorDiv(Binary):
    """floor(a / b) of integers with b > 0."""

    def infer(self) -> TensorType:
        self.expect(self.a.type.is_integer, "integers", self.a.type)
        return super().infer()

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a // b

    def interval(self, a: Interval, b: Interval) -> Interval:
        self.prove(b.low > 0, "divisors above 0", str(b))
        return a // b

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return t.floordiv(a, b)

    def onnx(self, o: Any, a: Any, b: Any) -> Any:
        wide = o.widened_dtype(self.type.dtype)

        def floored(a: Any, b: Any) -> Any:
            # ONNX integer Div truncates: one less where a remainder is left over and a is negative.
            quotient = o.op("Div", a, b)
            remainder = o.op("Sub", a, o.op("Mul", quotient, b))
            negative = o.op("Less", remainder, o.constant(np.zeros((), wide)))
            return o.op("Sub", quotient, o.op("Cast", negative, to=o.dtype(wide)))

        return o.widened(self.type.dtype, (a, b), floored)


@op
class ShiftRight(Binary):
    """floor(a / 2^b): the arithmetic shift of int64 values with |a| < 2^62 and 0 ≤ b ≤ 62."""

    def infer(self) -> TensorType:
        self.expect(self.a.type.dtype == "int64", "int64", self.a.type)
        return super().infer()

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a >> b

    def interval(self, a: Interval, b: Interval) -> Interval:
        self.prove(a.magnitude < 1 << 62, "values below 2^62", str(a))
        self.prove(b <= Interval(0, 62), "shifts of 0…62", str(b))
        return a >> b

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return a >> b

    def onnx(self, o: Any, a: Any, b: Any) -> Any:
        # ONNX shifts unsigned numbers only: move a to [0, 2^63), where both agree, and back.
        half = o.constant(np.array(1 << 62, np.int64))
        unsigned, signed = o.dtype("uint64"), o.dtype("int64")
        bits = o.op("Cast", b, to=unsigned)

        def shifted(value: Any) -> Any:
            wide = o.op("Cast", value, to=unsigned)
            return o.op("Cast", o.op("BitShift", wide, bits, direction="RIGHT"), to=signed)

        return o.op("Sub", shifted(o.op("Add", a, half)), shifted(half))


@op
class Extremum(Binary):
    """One of both operands; of codes of one quantization, a code of it."""

    moves: ClassVar[tuple[str, ...]] = ("a", "b")

    def infer(self) -> TensorType:
        shared = common_quantization(self.a.type, self.b.type)
        return dataclasses.replace(super().infer(), quantization=shared)


@op
class Minimum(Extremum):
    """min(a, b)."""

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.minimum(a, b)

    def interval(self, a: Interval, b: Interval) -> Interval:
        return Interval(min(a.low, b.low), min(a.high, b.high))

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return t.min(a, b)

    def onnx(self, o: Any, a: Any, b: Any) -> Any:
        return extreme(o, "Min", self.type.dtype, a, b)


@op
class Maximum(Extremum):
    """max(a, b)."""

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.maximum(a, b)

    def interval(self, a: Interval, b: Interval) -> Interval:
        return Interval(max(a.low, b.low), max(a.high, b.high))

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return t.max(a, b)

    def onnx(self, o: Any, a: Any, b: Any) -> Any:
        return extreme(o, "Max", self.type.dtype, a, b)


@op
class GreaterEqual(Binary):
    """a ≥ b as bool; false where either is NaN."""

    compares: ClassVar[tuple[str, ...]] = ("a", "b")

    def infer(self) -> TensorType:
        return dataclasses.replace(super().infer(), dtype="bool")

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a >= b

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return a >= b

    def onnx(self, o: Any, a: Any, b: Any) -> Any:
        dtype, wide = self.a.type.dtype, o.widened_dtype(self.a.type.dtype)
        if wide != dtype:
            a, b = (o.op("Cast", v, to=o.dtype(wide)) for v in (a, b))
        return o.op("GreaterOrEqual", a, b)


@op
class Equal(Binary):
    """a = b of numbers, as bool."""

    compares: ClassVar[tuple[str, ...]] = ("a", "b")

    def infer(self) -> TensorType:
        return dataclasses.replace(super().infer(), dtype="bool")

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a == b

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return a.equal(b)

    def onnx(self, o: Any, a: Any, b: Any) -> Any:
        dtype, wide = self.a.type.dtype, o.widened_dtype(self.a.type.dtype)
        if wide != dtype:
            a, b = (o.op("Cast", v, to=o.dtype(wide)) for v in (a, b))
        return o.op("Equal", a, b)


@op
class And(Elementwise):
    """Both of two bools."""

    a: Op
    b: Op

    def infer(self) -> TensorType:
        for x in self.operands:
            self.expect(x.type.dtype == "bool", "bool operands", x.type)
        return TensorType("bool", broadcast(*(x.type for x in self.operands)))

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a & b

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return t.all([a, b])

    def onnx(self, o: Any, a: Any, b: Any) -> Any:
        return o.op("And", a, b)


@op
class Not(Elementwise):
    """The opposite of a bool."""

    x: Op

    def infer(self) -> TensorType:
        self.expect(self.x.type.dtype == "bool", "a bool operand", self.x.type)
        return TensorType("bool", self.x.type.shape)

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return ~x

    def scalar(self, t: Any, x: Any) -> Any:
        return t.logical_not(x)

    def onnx(self, o: Any, x: Any) -> Any:
        return o.op("Not", x)


@op
class Select(Elementwise):
    """a where the condition holds, else b."""

    condition: Op
    a: Op
    b: Op

    moves: ClassVar[tuple[str, ...]] = ("a", "b")

    def infer(self) -> TensorType:
        self.expect(self.condition.type.dtype == "bool", "a bool condition", self.condition.type)
        self.expect(self.a.type.dtype == self.b.type.dtype, f"{self.a.type.dtype}", self.b.type)
        self.expect(self.a.type.dtype != "uint64", "at most 63 bits", self.a.type)
        shape = broadcast(*(x.type for x in self.operands))
        shared = common_quantization(self.a.type, self.b.type)
        return TensorType(self.a.type.dtype, shape, shared)

    def numpy(self, condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(condition, a, b)

    def scalar(self, t: Any, condition: Any, a: Any, b: Any) -> Any:
        return t.select(condition, a, b)

    def onnx(self, o: Any, condition: Any, a: Any, b: Any) -> Any:
        return o.widened(self.type.dtype, (a, b), lambda a, b: o.op("Where", condition, a, b))


@op
class Clip(Elementwise):
    """min(max(x, low), high); an absent bound does not bind."""

    x: Op
    low: float | None = None
    high: float | None = None

    def infer(self) -> TensorType:
        x = self.x.type
        expect_numbers(self, x)
        if x.is_integer:
            info = np.iinfo(x.dtype)
            for bound in (self.low, self.high):
                fits = bound is None or (bound == int(bound) and info.min <= bound <= info.max)
                self.expect(fits, f"{x.dtype} bounds", bound)
        return super().infer()

    def numpy(self, x: np.ndarray) -> np.ndarray:
        low, high = (None if v is None else np.asarray(v, x.dtype) for v in (self.low, self.high))
        return x if low is None and high is None else np.clip(x, low, high)

    def interval(self, x: Interval) -> Interval:
        """What is beyond the bounds saturates."""
        low = x.low if self.low is None else int(self.low)
        high = x.high if self.high is None else int(self.high)
        return Interval(*(min(max(v, low), high) for v in (x.low, x.high)))

    def scalar(self, t: Any, x: Any) -> Any:
        if self.low is not None:
            x = t.max(x, t.const(self.low, self.type.dtype))
        if self.high is not None:
            x = t.min(x, t.const(self.high, self.type.dtype))
        return x

    def onnx(self, o: Any, x: Any) -> Any:
        dtype = self.type.dtype
        low, high = (
            None if v is None else o.constant(np.asarray(v, dtype)) for v in (self.low, self.high)
        )
        if self.type.is_float or dtype in ("int8", "uint8", "int32") or low is high:
            return o.op("Clip", x, low, high)
        x = x if low is None else extreme(o, "Max", dtype, x, low)
        return x if high is None else extreme(o, "Min", dtype, x, high)


@op
class Cast(Elementwise):
    """x as another dtype, which must hold its values."""

    x: Op
    dtype: str

    def infer(self) -> TensorType:
        return TensorType(self.dtype, self.x.type.shape)

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x.astype(self.dtype)

    def interval(self, x: Interval | None) -> Interval | None:
        """Of integers; what has codes, cast to what it is, becomes integers of the model itself."""
        return x if self.dtype != self.x.type.dtype or self.x.type.quantization is None else None

    def scalar(self, t: Any, x: Any) -> Any:
        return t.cast(x, self.dtype)

    def onnx(self, o: Any, x: Any) -> Any:
        return o.op("Cast", x, to=o.dtype(self.dtype))


@op
class Floor(Elementwise):
    """The largest whole number ≤ x, as a float."""

    x: Op

    def infer(self) -> TensorType:
        self.expect(self.x.type.is_float, "a float operand", self.x.type)
        return super().infer()

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.floor(x)

    def scalar(self, t: Any, x: Any) -> Any:
        return t.floor(x)

    def onnx(self, o: Any, x: Any) -> Any:
        return o.op("Floor", x)


def expect_numbers(node: Op, type: TensorType) -> None:
    """Refuse bool, and uint64, of which ONNX Runtime knows little."""
    node.expect(type.dtype not in ("bool", "uint64"), "numbers of at most 63 bits", type)


def extreme(o: Any, operator: str, dtype: str, a: Any, b: Any) -> Any:
    """ONNX's Min or Max, on any numbers.

    ONNX Runtime 1.31's int64 Min, Max and Clip are wrong on x86 CPUs where values differ by 2^31
    to 2^32; its comparisons are right.
    """

    def compute(a: Any, b: Any) -> Any:
        if o.widened_dtype(dtype) != "int64":
            return o.op(operator, a, b)
        comparison = o.op("Less" if operator == "Min" else "Greater", a, b)
        return o.op("Where", comparison, a, b)

    return o.widened(dtype, (a, b), compute)


def scalar(value: float, dtype: str) -> Constant:
    """A rank-0 constant."""
    return Constant(np.asarray(value, dtype))
