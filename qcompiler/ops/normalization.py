"""Normalization by mean and deviation, in reals and in integers."""

from __future__ import annotations

import math

from qcompiler.graph import Op, op
from qcompiler.interval import Interval
from qcompiler.ops.arithmetic import (
    Add,
    Cast,
    Div,
    GreaterEqual,
    Maximum,
    Minimum,
    Mul,
    Select,
    ShiftRight,
    Sub,
    scalar,
)
from qcompiler.ops.checks import expect_axes
from qcompiler.ops.composite import Composite
from qcompiler.ops.integer import INT32_MAX, ReduceSum
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

    @property
    def lift(self) -> int:
        """Bits that the largest sum of squares and ε leave free of 61, two for each bit of d.

        They make small variances and ε exact.  Where it is negative, d is rounded to a multiple of
        2^−lift, in which it is then counted.
        """
        return (_LIMIT - (self._largest + math.ceil(self._epsilon)).bit_length()) // 2

    @property
    def numbers(self) -> tuple[int, int, int]:
        """4^lift for Σd², ε in those units, and 2^lift for d; 1 and 1 where it is negative."""
        up = max(self.lift, 0)
        return 1 << 2 * up, math.floor(self._epsilon * 4.0**self.lift + 0.5), 1 << up

    @property
    def _factor(self) -> int:
        return self.count if self.center else 1  # of the deviation; Σ(q − mean)² ≤ n·max|q|²

    @property
    def _largest(self) -> int:
        return self.count * (self._factor * self.x.type.magnitude()) ** 2

    @property
    def _epsilon(self) -> float:
        # With an ε 2^60 times as large, results are 0.
        return min(self.epsilon * self.count * self._factor**2, self._largest * 2.0**60)

    def deviation(self) -> Op:
        """d = n·q − Σq (or q itself), an int32 where that fits, else an int64."""
        expect_axes(self, self.axes, self.x.type)
        self.expect(self.x.type.is_integer, "integer codes", self.x.type)
        self.expect(self.x.type.magnitude() <= 1 << 16, "codes of at most 16 bits", self.x.type)
        self.prove(self.count <= 1 << 20, "at most 2^20 elements", self.count)
        n, lift = self.count, self.lift
        dtype = "int32" if 2 * self._factor * self.x.type.magnitude() <= INT32_MAX else "int64"
        deviation: Op = Cast(self.x, dtype)
        if self.center:
            total = ReduceSum(deviation, self.axes, dtype)
            deviation = Sub(Mul(deviation, scalar(n, dtype)), total)
        if lift < 0:
            lifted = Add(Cast(deviation, "int64"), scalar(1 << -lift - 1, "int64"))
            deviation = Cast(ShiftRight(lifted, scalar(-lift, "int64")), dtype)
        return deviation

    def squares(self, deviation: Op) -> Op:
        """Σd² as int64.

        Lemma: 4^lift·Σd² ≤ 2^61, because Σ(q − mean)² ≤ Σq² ≤ n·max|q|², of which `lift` is chosen.
        """
        wide = Cast(deviation, "int64")
        largest = Interval(0, (1 << _LIMIT) // self.numbers[0])
        return ReduceSum(Mul(wide, wide), self.axes, "int64", within=largest)

    def variance(self, squares: Op, power: Op, epsilon: Op) -> Op:
        """V = 4^lift·(Σd² + ε), from the first two of `numbers`.

        Lemma: V is in [1, 2^62): `lift` leaves room for both terms.
        """
        total = Add(Mul(squares, power), epsilon, within=Interval(0, (1 << 62) - 1))
        return Maximum(total, scalar(1, "int64"))


@op
class NormalizeInteger(IntegerNormalization):
    """`Normalize` of codes: int32 codes of scale √n·2^−30, within √n·2^−27 of the real value.

    With the largest code squared plus ε as m², deviations σ far below m add √n·m²/(σ²·2^61) for the
    rounding of ε, and where squares do not fit 61 bits √n·m/(σ·2^30.5) for that of d.

    Lemma: d·2^lift·2^e is below 2^31, because d²·4^lift ≤ V and V·4^e < 2^62; so it is where 2^e is
    cut off at an int32, since d is 0 there.

    y = d·√n / √V.  V is brought to [2^60, 2^62) by an even shift, found by comparisons; 1/√V
    follows by Newton's iteration r ← r·(3 − f·r²)/2 on 30 fraction bits (I-BERT, Kim et al. 2021,
    section 3.4.2, and I-ViT's `IntegerLayerNorm` iterate for the root instead).  Zero variance
    gives zeros.
    """

    def body(self) -> Op:
        deviation = self.deviation()
        numbers = [scalar(x, "int64") for x in self.numbers]
        factor, root = self.factors(self.squares(deviation), *numbers)
        dtype, largest = deviation.type.dtype, Interval.symmetric(INT32_MAX)
        scaled = Mul(deviation, Cast(factor, dtype), within=largest)
        product = Mul(Cast(scaled, "int64"), Cast(root, "int64"))
        rounded = ShiftRight(Add(product, scalar(1 << 30, "int64")), scalar(31, "int64"))
        return Cast(rounded, "int32")

    def factors(self, squares: Op, power: Op, epsilon: Op, unit: Op) -> tuple[Op, Op]:
        """What d is multiplied by before rounding: 2^lift·2^e, an int64, and the root, an int32.

        Args:
            squares: Σd².
            power: The first of `numbers`.
            epsilon: The second.
            unit: The third.
        """
        mantissa, factor = normalized(self.variance(squares, power, epsilon))
        # |d|·2^lift·2^e < 2^31 because d² ≤ V; where the factor is larger, d is 0.
        factor = Minimum(Mul(factor, unit), scalar(INT32_MAX, "int64"))
        root = Minimum(_inverse_root(mantissa), scalar(INT32_MAX, "int64"))
        return factor, Cast(root, "int32")


def normalized(v: Op, bits: int = 62) -> tuple[Op, Op]:
    """v·4^e from 2^60, and below 2^62 for e > 0; and 2^e, for 1 ≤ v < 2^bits.

    Lemma: v stays below 2^bits, and is 2^(62 − step) or more behind every step: what was below had
    been multiplied by 2^step, from 2^(62 − 2·step).
    """
    factor: Op = scalar(1, "int64")
    for step in (32, 16, 8, 4, 2):
        small = GreaterEqual(scalar((1 << 62 - step) - 1, "int64"), v)
        up, half = (
            Select(small, scalar(1 << shift, "int64"), scalar(1, "int64"))
            for shift in (step, step // 2)
        )
        v = Mul(v, up, within=Interval(1 << 62 - step, (1 << bits) - 1))
        factor = Mul(factor, half)
    return v, factor


def _inverse_root(v: Op) -> Op:
    """2^30 / √f for f = v / 2^62 in [1/4, 1): 2^30…2^31, by Newton's iteration.

    The seed 2.2 − 1.2·f is within 15 % of the root; four iterations leave less than rounding does.

    Lemma: f·r² is 0.9…1.32, as it is of the seed; behind an iteration r is at most the root, which
    (3 − u²)·u/2 ≤ 1 of u = √f·r says, and rounding never reaches 2^31.
    """
    f = ShiftRight(v, scalar(31, "int64"))  # 2^31 · f
    seed = ShiftRight(Mul(f, scalar(round(1.2 * 2**30), "int64")), scalar(31, "int64"))
    r: Op = Sub(scalar(round(2.2 * 2**30), "int64"), seed)
    near_one = Interval(7 << 58, 11 << 58)  # 2^61·(7/8 … 11/8)
    for _ in range(4):
        square = ShiftRight(Mul(r, r), scalar(30, "int64"))
        product = ShiftRight(Mul(square, f, within=near_one), scalar(31, "int64"))
        r = Mul(r, Sub(scalar(3 << 30, "int64"), product), within=Interval(1 << 61, (1 << 62) - 1))
        r = ShiftRight(r, scalar(31, "int64"))
    return r
