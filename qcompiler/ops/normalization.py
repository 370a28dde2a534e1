"""Normalization by mean and deviation, in reals and in integers."""

from __future__ import annotations

import math

from qcompiler.graph import Op, op
from qcompiler.ops.arithmetic import (
    Add,
    Cast,
    Div,
    GreaterEqual,
    Maximum,
    Mul,
    Select,
    ShiftRight,
    Sub,
    scalar,
)
from qcompiler.ops.composite import Composite
from qcompiler.ops.integer import ReduceSum, expect_axes
from qcompiler.ops.real import ReduceMean
from qcompiler.ops.unary import Sqrt
from qcompiler.types import FLOAT, Quantization

FRACTION_BITS = 30
"""A normalized value of n elements is at most √n; codes are ±2^30 for ±√n."""

_LIMIT = 61
"""Sums of squares and ε stay below 2^61 together, and below 2^62 however d is rounded."""


@op
class Normalize(Composite):
    """(x − mean) / √(variance + epsilon) over axes; without `center`, x / √(mean square + epsilon).

    The core of LayerNorm (Ba et al. 2016), RMSNorm (Zhang & Sennrich 2019), GroupNorm, InstanceNorm
    and L2 normalization; factors and terms behind it are `Mul` and `Add`.

    Attributes:
        x: float32.
        axes: Axes that one mean is taken over.
        epsilon: Added to the variance, in squared units of x.
        center: Subtract the mean.
    """

    x: Op
    axes: tuple[int, ...]
    epsilon: float
    center: bool = True

    def body(self) -> Op:
        deviation = Sub(self.x, ReduceMean(self.x, self.axes)) if self.center else self.x
        variance = ReduceMean(Mul(deviation, deviation), self.axes)
        return Div(deviation, Sqrt(Add(variance, scalar(self.epsilon, FLOAT))))


@op
class IntegerNormalization(Composite):
    """What the integer forms of `Normalize` share; codes of scale √n·2^−30.

    Attributes:
        x: Integer codes of at most 16 bits; a common zero point cancels if `center`.
        axes: Axes that one mean is taken over; n elements, at most 2^20.
        epsilon: In squared units of the code's step.
        center: Subtract the mean.
    """

    x: Op
    axes: tuple[int, ...]
    epsilon: float
    center: bool = True

    @property
    def count(self) -> int:
        """n."""
        return math.prod(self.x.type.shape[a] for a in self.axes)

    @property
    def quantization(self) -> Quantization:
        """The fixed scale of the result."""
        return Quantization.per_tensor("int32", math.sqrt(self.count) * 2.0**-FRACTION_BITS)

    def moments(self) -> tuple[Op, Op]:
        """Deviations d = n·q − Σq (or q itself), and V = Σd² + ε in [1, 2^62), both int64.

        Both are scaled by a power of two (and its square) that only the type depends on: what the
        largest sum of squares and ε leave free makes small variances and ε exact.
        """
        expect_axes(self, self.axes, self.x.type)
        self.expect(self.x.type.is_integer, "integer codes", self.x.type)
        self.expect(self.x.type.magnitude() <= 1 << 16, "codes of at most 16 bits", self.x.type)
        self.expect(self.count <= 1 << 20, "at most 2^20 elements", self.count)
        n, wide = self.count, Cast(self.x, "int64")
        deviation: Op = wide
        factor = 1  # of the deviation; Σ(q − mean)² ≤ n·max|q|²
        if self.center:
            total = ReduceSum(wide, self.axes, "int64", n * self.x.type.magnitude())
            deviation = Sub(Mul(wide, scalar(n, "int64")), total)
            factor = n
        largest = n * (factor * self.x.type.magnitude()) ** 2
        # With an ε 2^60 times as large, results are 0.
        epsilon = min(self.epsilon * n * factor**2, largest * 2.0**60)
        lift = (_LIMIT - (largest + math.ceil(epsilon)).bit_length()) // 2
        if lift >= 0:
            deviation = Mul(deviation, scalar(1 << lift, "int64"))
        else:
            half = scalar(1 << -lift - 1, "int64")
            deviation = ShiftRight(Add(deviation, half), scalar(-lift, "int64"))
        squares = ReduceSum(Mul(deviation, deviation), self.axes, "int64", 1 << _LIMIT)
        variance: Op = Add(squares, scalar(math.floor(epsilon * 4.0**lift + 0.5), "int64"))
        return deviation, Maximum(variance, scalar(1, "int64"))


@op
class NormalizeInteger(IntegerNormalization):
    """`Normalize` of codes: int32 codes of scale √n·2^−30, within √n·2^−27 of the real value.

    With the largest code squared plus ε as m², deviations σ far below m add √n·m²/(σ²·2^61) for the
    rounding of ε, and where squares do not fit 61 bits √n·m/(σ·2^30.5) for that of d.

    y = d·√n / √V.  V is brought to [2^60, 2^62) by an even shift, found by comparisons; 1/√V
    follows by Newton's iteration r ← r·(3 − f·r²)/2 on 30 fraction bits (I-BERT, Kim et al. 2021,
    section 3.4.2, and I-ViT's `IntegerLayerNorm` iterate for the root instead).  Zero variance
    gives zeros.
    """

    def body(self) -> Op:
        deviation, variance = self.moments()
        mantissa, factor = normalized(variance)
        root = _inverse_root(mantissa)
        # |d|·2^e < 2^31 because d² ≤ V, and the root is at most 2^31.
        product = Add(Mul(Mul(deviation, factor), root), scalar(1 << 30, "int64"))
        return Cast(ShiftRight(product, scalar(31, "int64")), "int32")


def normalized(v: Op) -> tuple[Op, Op]:
    """v·4^e in [2^60, 2^62), and 2^e, for 1 ≤ v < 2^62."""
    factor: Op = scalar(1, "int64")
    for step in (32, 16, 8, 4, 2):
        small = GreaterEqual(scalar((1 << 62 - step) - 1, "int64"), v)
        v, factor = (
            Mul(x, Select(small, scalar(1 << bits, "int64"), scalar(1, "int64")))
            for x, bits in ((v, step), (factor, step // 2))
        )
    return v, factor


def _inverse_root(v: Op) -> Op:
    """2^30 / √f for f = v / 2^62 in [1/4, 1): 2^30…2^31, by Newton's iteration.

    The seed 2.2 − 1.2·f is within 11 % of the root; four iterations leave less than rounding does.
    """
    f = ShiftRight(v, scalar(31, "int64"))  # 2^31 · f
    seed = ShiftRight(Mul(f, scalar(round(1.2 * 2**30), "int64")), scalar(31, "int64"))
    r: Op = Sub(scalar(round(2.2 * 2**30), "int64"), seed)
    for _ in range(4):
        square = ShiftRight(Mul(r, r), scalar(30, "int64"))
        product = ShiftRight(Mul(square, f), scalar(31, "int64"))
        r = ShiftRight(Mul(r, Sub(scalar(3 << 30, "int64"), product)), scalar(31, "int64"))
    return r
