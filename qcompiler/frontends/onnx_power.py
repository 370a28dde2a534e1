"""Importer of powers: as products and roots where the exponent allows it."""

from __future__ import annotations

from collections.abc import Callable

from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_quotient import integer_power
from qcompiler.graph import Constant, Op
from qcompiler.ops import Cast, Clip, Div, Exp, Expand, Log, Maximum, Mul, Pow, Sqrt, scalar
from qcompiler.types import FLOAT, broadcast

_POWERS: dict[float, Callable[[Op], Op]] = {
    -1.0: lambda x: Div(scalar(1, FLOAT), x),
    -0.5: lambda x: Div(scalar(1, FLOAT), Sqrt(x)),
    0.5: Sqrt,
    1.0: lambda x: x,
    2.0: lambda x: Mul(x, x),
    3.0: lambda x: Mul(Mul(x, x), x),
    4.0: lambda x: Mul(square := Mul(x, x), square),
}
_LARGEST = 64  # exponent of integers that becomes products


@importer("Pow")
def power(node: Node) -> Op:
    """x^y in the type of x."""
    x, y = node.x, node.operand(1)
    exponent = _shared(y)
    if x.type.is_integer:
        return _of_integers(node, x, y, exponent)
    if exponent is None:
        if y.type.dtype != FLOAT:
            y = Cast(y, FLOAT)
        return Exp(Mul(Log(x), y)) if _positive(x) else Pow(x, y)
    known = _POWERS.get(exponent)
    result = Pow(x, scalar(exponent, FLOAT)) if known is None else known(x)
    shape = broadcast(x.type, y.type)
    return result if result.type.shape == shape else Expand(result, shape)


def _shared(y: Op) -> float | None:
    """The exponent of all elements, if it is known and the same."""
    if not isinstance(y, Constant) or not y.array.size:
        return None
    first = y.array.reshape(-1)[0]
    return float(first) if (y.array == first).all() else None


def _of_integers(node: Node, x: Op, y: Op, exponent: float | None) -> Op:
    if exponent is not None and exponent in range(_LARGEST + 1):
        result = integer_power(x, int(exponent))
        shape = broadcast(x.type, y.type)
        return result if result.type.shape == shape else Expand(result, shape)
    # Whole numbers up to 2^53 are exact.
    return Cast(Pow(Cast(x, "float64"), Cast(y, "float64")), x.type.dtype)


def _positive(x: Op) -> bool:
    """Whether every element is above 0, whatever the inputs: there x^y = exp(y·log x)."""
    match x:
        case Constant(array=array):
            return bool((array > 0).all())
        case Clip(_, low):
            return low is not None and low > 0
        case Maximum(a, b):
            return _positive(a) or _positive(b)
    return False
