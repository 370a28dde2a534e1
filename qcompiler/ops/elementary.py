"""Trigonometric and hyperbolic functions, powers and remainders of real numbers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompiler.graph import op
from qcompiler.ops.arithmetic import Binary
from qcompiler.ops.unary import Unary
from qcompiler.types import TensorType


@op
class Elementary(Unary):
    """A function that numpy, C and ONNX all have; NaN outside its domain.

    Attributes:
        function: numpy's name of it.
    """

    function: ClassVar[str]

    def numpy(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(getattr(np, self.function)(x))

    def scalar(self, t: Any, x: Any) -> Any:
        return t.intrinsic(self.kind(), x)


@op
class Sin(Elementary):
    """Sine of radians."""

    function: ClassVar[str] = "sin"


@op
class Cos(Elementary):
    """Cosine of radians."""

    function: ClassVar[str] = "cos"


@op
class Tan(Elementary):
    """Tangent of radians."""

    function: ClassVar[str] = "tan"


@op
class Asin(Elementary):
    """Inverse sine, for |x| ≤ 1."""

    function: ClassVar[str] = "arcsin"


@op
class Acos(Elementary):
    """Inverse cosine, for |x| ≤ 1."""

    function: ClassVar[str] = "arccos"


@op
class Atan(Elementary):
    """Inverse tangent."""

    function: ClassVar[str] = "arctan"


@op
class Sinh(Elementary):
    """Hyperbolic sine."""

    function: ClassVar[str] = "sinh"


@op
class Cosh(Elementary):
    """Hyperbolic cosine."""

    function: ClassVar[str] = "cosh"


@op
class Asinh(Elementary):
    """Inverse hyperbolic sine."""

    function: ClassVar[str] = "arcsinh"


@op
class Acosh(Elementary):
    """Inverse hyperbolic cosine, for x ≥ 1."""

    function: ClassVar[str] = "arccosh"


@op
class Atanh(Elementary):
    """Inverse hyperbolic tangent, for |x| < 1."""

    function: ClassVar[str] = "arctanh"


@op
class Round(Unary):
    """The nearest whole number, of two the even one."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.rint(x)

    def scalar(self, t: Any, x: Any) -> Any:
        return t.intrinsic("nearbyint", x)


@op
class RealBinary(Binary):
    """A function of two real numbers."""

    def infer(self) -> TensorType:
        self.expect(self.a.type.is_float, "floats", self.a.type)
        return super().infer()


@op
class Pow(RealBinary):
    """a^b; NaN for a negative a with a b that is not whole."""

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(np.power(a, b))

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return t.pow(a, b)


@op
class Remainder(RealBinary):
    """a − b·trunc(a / b) without rounding, with the sign of a (C's fmod)."""

    def numpy(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(np.fmod(a, b))

    def scalar(self, t: Any, a: Any, b: Any) -> Any:
        return t.fmod(a, b)

    def onnx(self, o: Any, a: Any, b: Any) -> Any:
        return o.op("Mod", a, b, fmod=1)
