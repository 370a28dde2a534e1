"""Integers as strings of bits: with additions, one op is enough for all of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcompiler.graph import op
from qcompiler.interval import Interval
from qcompiler.ops.arithmetic import Binary
from qcompiler.types import TensorType


@op
class BitwiseAnd(Binary):
    """The bits that both integers have, of two's complement."""

    def infer(self) -> TensorType:
        self.expect(self.a.type.is_integer, "integers", self.a.type)
        return super().infer()

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a & b

    def interval(self, a: Interval, b: Interval) -> Interval | None:
        return Interval(0, min(a.high, b.high)) if min(a.low, b.low) >= 0 else self.type.limits

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return a & b

    def onnx(self, o: Any, a: Any, b: Any) -> Any:
        return o.op("BitwiseAnd", a, b)
