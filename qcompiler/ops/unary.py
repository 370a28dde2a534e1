"""Real functions of one variable, elementwise."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from qcompiler.graph import Op, op
from qcompiler.ops.arithmetic import Elementwise
from qcompiler.types import FLOAT, TensorType


@op
class Unary(Elementwise):
    """f(x) on float32; the class's name is that of the ONNX operator."""

    x: Op

    def infer(self) -> TensorType:
        self.expect(self.x.type.dtype == FLOAT, "a float32 operand", self.x.type)
        return TensorType(FLOAT, self.x.type.shape)

    def onnx(self, o: Any, x: Any) -> Any:
        return o.op(type(self).__name__, x)


@op
class Relu(Unary):
    """max(x, 0)."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, np.float32(0))

    def scalar(self, t: Any, x: Any) -> Any:
        return t.max(x, t.const(0, FLOAT))


@op
class LeakyRelu(Unary):
    """x where x ≥ 0, else alpha·x."""

    alpha: float = 0.01

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.where(x >= 0, x, x * np.float32(self.alpha))

    def scalar(self, t: Any, x: Any) -> Any:
        return t.select(x >= t.const(0, FLOAT), x, x * t.const(self.alpha, FLOAT))

    def onnx(self, o: Any, x: Any) -> Any:
        return o.op("LeakyRelu", x, alpha=self.alpha)


@op
class Elu(Unary):
    """x where x ≥ 0, else alpha·(eˣ − 1)."""

    alpha: float = 1.0

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.where(x >= 0, x, np.float32(self.alpha) * np.expm1(np.minimum(x, 0)))

    def scalar(self, t: Any, x: Any) -> Any:
        below = t.const(self.alpha, FLOAT) * (t.intrinsic("exp", x) - t.const(1, FLOAT))
        return t.select(x >= t.const(0, FLOAT), x, below)

    def onnx(self, o: Any, x: Any) -> Any:
        return o.op("Elu", x, alpha=self.alpha)


@op
class HardSigmoid(Unary):
    """min(max(alpha·x + beta, 0), 1)."""

    alpha: float = 0.2
    beta: float = 0.5

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.clip(np.float32(self.alpha) * x + np.float32(self.beta), 0, 1).astype(FLOAT)

    def scalar(self, t: Any, x: Any) -> Any:
        line = x * t.const(self.alpha, FLOAT) + t.const(self.beta, FLOAT)
        return t.min(t.max(line, t.const(0, FLOAT)), t.const(1, FLOAT))

    def onnx(self, o: Any, x: Any) -> Any:
        return o.op("HardSigmoid", x, alpha=self.alpha, beta=self.beta)


@op
class HardSwish(Unary):
    """x·min(max(x/6 + 1/2, 0), 1)."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x * np.clip(x / np.float32(6) + np.float32(0.5), 0, 1).astype(FLOAT)

    def scalar(self, t: Any, x: Any) -> Any:
        line = x / t.const(6, FLOAT) + t.const(0.5, FLOAT)
        return x * t.min(t.max(line, t.const(0, FLOAT)), t.const(1, FLOAT))


@op
class Sigmoid(Unary):
    """1 / (1 + e⁻ˣ)."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return special.expit(x)

    def scalar(self, t: Any, x: Any) -> Any:
        one = t.const(1, FLOAT)
        return one / (one + t.intrinsic("exp", t.const(0, FLOAT) - x))


@op
class Tanh(Unary):
    """Hyperbolic tangent."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.tanh(x)

    def scalar(self, t: Any, x: Any) -> Any:
        return t.intrinsic("tanh", x)


@op
class Erf(Unary):
    """Error function."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return special.erf(x)

    def scalar(self, t: Any, x: Any) -> Any:
        return t.intrinsic("erf", x)


@op
class Exp(Unary):
    """eˣ."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.exp(x)

    def scalar(self, t: Any, x: Any) -> Any:
        return t.intrinsic("exp", x)


@op
class Log(Unary):
    """Natural logarithm."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(x)

    def scalar(self, t: Any, x: Any) -> Any:
        return t.intrinsic("log", x)


@op
class Sqrt(Unary):
    """Square root."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.sqrt(x)

    def scalar(self, t: Any, x: Any) -> Any:
        return t.intrinsic("sqrt", x)


@op
class Abs(Unary):
    """|x|."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.abs(x)

    def scalar(self, t: Any, x: Any) -> Any:
        return t.max(x, t.const(0, FLOAT) - x)
