"""The two ends of the integer world: real numbers to codes and back.

A model that is quantized already says what codes a value is kept in: by `FakeQuantize` where it
goes on with the real number, by `Codes` where it goes on with the integers.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import numpy as np

from qcompiler.graph import Constant, Op, op
from qcompiler.ops.arithmetic import (
    Add,
    Cast,
    Floor,
    GreaterEqual,
    Mul,
    Select,
    Sub,
    scalar,
)
from qcompiler.ops.composite import Composite
from qcompiler.types import FLOAT, Quantization, TensorType


@op
class Quantize(Composite):
    """Codes of real numbers: clamp(floor(x·(1/s) + 1/2) + z), in float32 without FMA.

    One defined rounding (Jacob et al. 2018, eq. 1, rounding half up), so that the entry of a model
    agrees on every backend too.  NaN becomes the smallest code.

    Attributes:
        x: float32.
        quantization: Meaning of the codes; per tensor or per channel.
    """

    x: Op
    quantization: Quantization

    elementwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        self.expect(self.x.type.dtype == FLOAT, "a float32 operand", self.x.type)
        return TensorType(self.quantization.bounds.dtype, self.x.type.shape, self.quantization)

    def body(self) -> Op:
        rank, q = self.x.type.rank, self.quantization
        inverse = Constant(np.asarray(1.0 / q.scales(rank), np.float32))
        zero_point = Constant(np.asarray(q.zero_points(rank), np.float32))
        low, high = (scalar(v, FLOAT) for v in _float_bounds(q))
        code: Op = Add(Floor(Add(Mul(self.x, inverse), scalar(0.5, FLOAT))), zero_point)
        code = Select(GreaterEqual(code, low), code, low)  # false for NaN: it becomes low
        code = Select(GreaterEqual(high, code), code, high)
        return Cast(code, q.bounds.dtype)


@op
class Dequantize(Composite):
    """Real numbers of codes: float32(q − z)·s (Jacob et al. 2018, eq. 1).

    Attributes:
        x: Codes whose type says what they mean.
    """

    x: Op

    elementwise: ClassVar[bool] = True

    def infer(self) -> TensorType:
        has_scale = self.x.type.quantization is not None
        self.expect(has_scale, "codes that have a quantization", self.x.type)
        return TensorType(FLOAT, self.x.type.shape)

    def body(self) -> Op:
        q, rank = self.x.type.quantization, self.x.type.rank
        assert q is not None
        fits = q.bounds.bits < 32 or (q.bounds.signed and not any(q.zero_point))
        wide = "int32" if fits else "int64"  # so that q − z does not overflow
        code: Op = Cast(self.x, wide)
        if any(q.zero_point):
            code = Sub(code, Constant(np.asarray(q.zero_points(rank), wide)))
        return Mul(Cast(code, FLOAT), Constant(np.asarray(q.scales(rank), np.float32)))


@op
class FakeQuantize(Composite):
    """A real number that is to be kept in these codes: dequantize(quantize(x)).

    As in training that simulates quantization (Jacob et al. 2018, eq. 12).  `InsertQdq` takes the
    quantization as it is; until then nothing has codes.

    Attributes:
        x: float32.
        quantization: Meaning of the codes; per tensor or per channel.
    """

    x: Op
    quantization: Quantization

    elementwise: ClassVar[bool] = True

    def body(self) -> Op:
        return Dequantize(Quantize(self.x, self.quantization))

    def infer(self) -> TensorType:
        return self.expansion.type


@op
class Codes(Composite):
    """The codes of real numbers as plain integers, whose meaning is the user's business.

    Attributes:
        x: float32.
        meaning: What the codes mean; the type of the result does not say it.
    """

    x: Op
    meaning: Quantization

    elementwise: ClassVar[bool] = True

    def body(self) -> Op:
        return Cast(Quantize(self.x, self.meaning), self.meaning.bounds.dtype)

    @cached_property
    def real(self) -> FakeQuantize:
        """What the codes stand for: one value, however often it is asked for."""
        return FakeQuantize(self.x, self.meaning, name=self.name, sources=self.sources)


def _float_bounds(q: Quantization) -> tuple[float, float]:
    """The storage's bounds, moved inwards to the nearest float32 that a code can have."""
    low, high = float(q.bounds.low), float(q.bounds.high)
    if float(np.float32(high)) > high:  # as float64: numpy would compare in float32
        high = float(np.nextafter(np.float32(high), np.float32(0)))
    return low, high
