"""Values that exist during the import alone.

Sequences are lists whose values are known, and are taken apart.  Integers of which only the real
value is used are that value:
DynamicQuantizeLinear takes its scale from the very values that it gets.  Whatever the scale is, it
comes out again behind the product, so it may as well be 1, and the zero point 0: then the codes are
the real values, the product is one of real values, and calibration finds a scale for them.
"""

from __future__ import annotations

import math

import numpy as np

from qcompiler.errors import UnsupportedError
from qcompiler.graph import Op, op
from qcompiler.ops import Add, Cast, Codes, Composite, Floor, scalar
from qcompiler.types import FLOAT, Quantization, TensorType

EXACT = 1 << 24
"""Whole numbers up to here are exact in float32."""


@op
class DynamicCodes(Op):
    """Codes of x with a scale that is chosen at run time."""

    x: Op

    def infer(self) -> TensorType:
        """As many uint8 as x has elements."""
        return TensorType("uint8", self.x.type.shape)


@op
class DynamicZeroPoint(Op):
    """The zero point of dynamic codes of x."""

    x: Op

    def infer(self) -> TensorType:
        """One uint8."""
        return TensorType("uint8", ())


@op
class Accumulator(Composite):
    """The int32 that a product of integers gives.

    Attributes:
        x: The same as a real number.
        bound: No |x| is larger; infinite where x is no whole number.
    """

    x: Op
    bound: float = math.inf

    def body(self) -> Op:
        """The nearest whole number."""
        return Cast(Floor(Add(self.x, scalar(0.5, FLOAT))), "int32")


@op
class TensorSequence(Op):
    """Several values in order.

    Attributes:
        values: Of any types.
    """

    values: tuple[Op, ...]

    def infer(self) -> TensorType:
        """No tensor; of all types the least useful."""
        return TensorType("bool", ())

    def numpy(self, *operands: np.ndarray) -> np.ndarray:
        """Refused.

        Raises:
            UnsupportedError: always, since a tensor was wanted.
        """
        raise UnsupportedError("a sequence instead of a tensor")


def settled(node: Op) -> Op | None:
    """What an accumulator is that others use as integers: the codes of a number, by steps of 1."""
    if not isinstance(node, Accumulator):
        return None
    return Codes(node.x, Quantization.per_tensor("int32", 1.0))


def unresolved(node: Op) -> str | None:
    """Why an op cannot stay in a graph; None where it can."""
    if isinstance(node, (DynamicCodes, DynamicZeroPoint)):
        return "DynamicQuantizeLinear in front of anything but products"
    if isinstance(node, TensorSequence):
        return "sequences that the model returns"
    if isinstance(node, Accumulator) and node.bound > EXACT:
        return "integer products whose results stay integers"
    return None
