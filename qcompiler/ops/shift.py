"""I-ViT's nonlinear functions: shifts and additions where others take tables.

Equations and symbols are those of Li & Gu, "I-ViT: Integer-only Quantization for Efficient Vision
Transformer Inference", ICCV 2023.  Logits are first brought to the step 2^−16 by one dyadic
multiplication, so that the paper's I₀ = ⌊1/S⌉ is 2^16 whatever the scale: q and r, quotient and
remainder of a division by I₀, become a shift and a difference, and I₀ no rounding error (⌊1/0.3⌉
would be 3, which is 10 % off).
"""

from __future__ import annotations

import math

import numpy as np

from qcompiler import fixed_point
from qcompiler.graph import Constant, Op, op
from qcompiler.interval import Interval
from qcompiler.ops.arithmetic import (
    Add,
    Cast,
    Clip,
    FloorDiv,
    Maximum,
    Minimum,
    Mul,
    Select,
    ShiftRight,
    Sub,
    scalar,
)
from qcompiler.ops.composite import Composite
from qcompiler.ops.integer import ReduceSum
from qcompiler.ops.normalization import IntegerNormalization, normalized
from qcompiler.ops.reduction import ReduceMax
from qcompiler.ops.softmax import differences
from qcompiler.types import Quantization, Storage, TensorType

STEP_BITS = 16
"""I₀ = 2^16."""

LARGEST_SCALE = 128.0
"""Of logits: e^−128 is 0 like all that is below."""

DIVIDEND_BITS = 61
"""M of the paper's IntDiv: ⌊2^M / I₂⌋·I₁ >> (M − k)."""

LOG2_E = 1 + 1 / 2 - 1 / 16
"""1.4375 for log2(e), eq. 11; it rounds nothing, as 16 fraction bits leave room for the shifts."""

SIGMOID = 1 + 1 / 2 + 1 / 8 + 1 / 16
"""1.6875 for 1.702 in GELU(x) ≈ x·σ(1.702x), section 3.4."""

SIGMOID_BITS = 15
SATURATED = 8.0
"""σ(1.6875·8) rounds to 1 on 15 bits, and σ(−1.6875·8) to 0."""


def _at_step(codes: Op, scales: np.ndarray) -> Op:
    """int64 codes below 2^17, of scales that broadcast, as codes of the step 2^−16; half up."""
    ratios = np.minimum(scales, LARGEST_SCALE) * 2.0**STEP_BITS
    multipliers, shift = fixed_point.dyadic(ratios)
    return _rounded(Mul(codes, Constant(np.asarray(multipliers))), shift)


def _rounded(x: Op, bits: int) -> Op:
    return ShiftRight(Add(x, scalar(1 << bits - 1, "int64")), scalar(bits, "int64"))


def _shifted(x: Op, bits: int) -> Op:
    return ShiftRight(x, scalar(bits, "int64"))


def _shift_exp(x: Op, n: int) -> Op:
    """The paper's ShiftExp, eq. 11–13: 2^(16 + n)·exp(x·2^−16), for −2^40 < x ≤ 0.

    e^x ≈ 2^(x + (x>>1) − (x>>4)) = 2^−(q + r) ≈ (1 − r/2) >> q with whole q and 0 ≤ r < 1.

    Lemmas: the power is at most 0, because x>>1 ≤ x>>4; r is what q = ⌊…⌋ leaves over.
    """
    power = Sub(Add(x, _shifted(x, 1)), _shifted(x, 4), within=Interval(-(1 << 41), 0))
    magnitude = Sub(scalar(0, "int64"), power)
    whole = _shifted(magnitude, STEP_BITS)
    rest = Interval(1 - (1 << STEP_BITS), 0)
    negative_rest = Sub(Mul(whole, scalar(1 << STEP_BITS, "int64")), magnitude, within=rest)  # −r
    base = Add(_shifted(negative_rest, 1), scalar(1 << STEP_BITS, "int64"))
    shift = Minimum(whole, scalar(62, "int64"))
    return ShiftRight(Mul(base, scalar(1 << n, "int64")), shift)


def _masked_exponentials(node: Op, x: Op, axis: int, mask: Op | None, n: int) -> Op:
    """2^(16 + n)·exp(x − max); 0 where the mask is false."""
    node.expect(0 <= axis < x.type.rank, f"an axis of {x.type}", axis)
    node.expect(1 <= n <= 30, "n of 1…30", n)
    q = x.type.quantization
    fits = x.type.dtype in ("uint8", "int8") and q is not None and q.axis is None
    node.expect(fits, "8-bit codes with one scale", x.type)
    assert q is not None
    difference = Cast(differences(x, axis, mask), "int64")
    exponentials = _shift_exp(_at_step(difference, q.scales(x.type.rank)), n)
    return exponentials if mask is None else Select(mask, exponentials, scalar(0, "int64"))


@op
class ShiftExponentials(Composite):
    """255·exp(x − max) along an axis, in shifts: the uint8 form of `Exponentials` for I-ViT.

    Unnormalised: products of them are divided by their sum afterwards.  Within 12 codes of
    255·exp(s·(q − max q)): 0.044 from 1 − r/2 for 2^−r and 1.4375 for log2(e), and half a code.

    Attributes:
        x: 8-bit codes with one scale.
        axis: The axis of one distribution.
        mask: bool, broadcastable to x; false gives exactly 0, and does not count for the maximum.
            None keeps everything.
        n: Bits that fractions are shifted up before they are shifted down, N in the paper.
    """

    x: Op
    axis: int
    mask: Op | None = None
    n: int = 15

    def body(self) -> Op:
        exponentials = _masked_exponentials(self, self.x, self.axis, self.mask, self.n)
        scaled = Mul(exponentials, scalar(255, "int64"))
        return Cast(_rounded(scaled, STEP_BITS + self.n), "uint8")

    def infer(self) -> TensorType:
        result = super().infer()
        self.expect(result.shape == self.x.type.shape, f"a mask that fits {self.x.type}", result)
        return result


@op
class Shiftmax(Composite):
    """Softmax by shifts and one division per row (I-ViT, eq. 8–15).

    exp(x − max) with 16 + n bits, ⌊2^61 / Σ⌋, and a product that is rounded to the storage.  Each
    probability is within 0.03 of softmax (exponentials are up to 6.2 % too large, further below
    the maximum up to 10 % where they still count), and half a step.  A row sums to 1 within half a
    step for each of its elements, and 2^−15; one that is masked throughout is all 0.  The paper
    has 8 bits, with which rows of more than about 100 elements underflow: 16 are the default.

    Lemma: an exponential times ⌊2^61 / Σ⌋ is at most 2^61, being one of the terms of Σ.

    Attributes:
        x: 8-bit codes with one scale.
        axis: The axis of one distribution, at most 2^(30 − n) elements.
        mask: bool, broadcastable to x; false gives exactly 0, and does not count for the maximum.
            None keeps everything.
        storage: Of the result, 8 or 16 bits: steps of 2^−bits, or 2^(1−bits) if signed, and 1
            becomes the largest code.
        n: As in `ShiftExponentials`.
    """

    x: Op
    axis: int
    mask: Op | None = None
    storage: str = "uint16"
    n: int = 15

    @property
    def quantization(self) -> Quantization:
        """The fixed scale of the result."""
        return Quantization.per_tensor(self.storage, 2.0**-self._bits)

    @property
    def _bits(self) -> int:
        storage = Storage(self.storage)
        return storage.bits - storage.signed

    def body(self) -> Op:
        bounds = Storage(self.storage)
        self.expect(bounds.bits in (8, 16), "a storage of 8 or 16 bits", self.storage)
        exponentials = _masked_exponentials(self, self.x, self.axis, self.mask, self.n)
        count = self.x.type.shape[self.axis]
        longest = 1 << 30 - self.n
        self.prove(count <= longest, f"rows of at most {longest} with n = {self.n}", count)
        total = ReduceSum(exponentials, (self.axis,), "int64")
        factor = FloorDiv(scalar(1 << DIVIDEND_BITS, "int64"), Maximum(total, scalar(1, "int64")))
        normalised = Mul(exponentials, factor, within=Interval(0, 1 << DIVIDEND_BITS))
        codes = _rounded(normalised, DIVIDEND_BITS - self._bits)
        return Cast(Clip(codes, 0, bounds.high), bounds.dtype)

    def infer(self) -> TensorType:
        result = super().infer()
        self.expect(result.shape == self.x.type.shape, f"a mask that fits {self.x.type}", result)
        return result


@op
class ShiftGELU(Composite):
    """x·σ(1.702x) by shifts and one division per element (I-ViT, section 3.4).

    σ = e / (e + e₀) with e = exp(p − max p), e₀ = exp(−max p) and p = 1.6875x, the maximum being
    that of a row.  With too small an n, e₀ underflows and σ(−9.5) becomes 1/2; here n follows from
    the largest value that the codes can mean, and beyond ±8, where σ is 0 or 1 on its 15 bits, x
    saturates inside σ: so every scale works.  The maximum counts from 0 upwards, or else −max p
    would be positive.  Within 0.012 of x·σ(1.702x) and 0.03 of GELU, and 2^−15·|x|.

    Lemmas: p − max p is at most 0; e₀ is at least 2^15, as n says; e·⌊2^61 / (e + e₀)⌋ is
    at most 2^61.

    Attributes:
        x: 8-bit codes; scales may differ along an axis.
        axis: The axis of a row.
        n: As in `ShiftExponentials`; None for the least that keeps every code right.
    """

    x: Op
    axis: int
    n: int | None = None

    @property
    def meaning(self) -> Quantization:
        """Of the operand's codes."""
        q = self.x.type.quantization
        fits = self.x.type.dtype in ("uint8", "int8") and q is not None
        self.expect(fits, "8-bit codes that have a quantization", self.x.type)
        assert q is not None
        return q

    @property
    def quantization(self) -> Quantization:
        """s·2^−15, for 8-bit codes times a 15-bit sigmoid."""
        scales = np.array(self.meaning.scale) * 2.0**-SIGMOID_BITS
        zeros = (0,) * len(scales)
        return Quantization("int32", tuple(map(float, scales)), zeros, self.meaning.axis)

    @property
    def least_n(self) -> int:
        """What gives e₀, the exponential of −1.6875·max, 15 bits for every code."""
        q = self.meaning
        room = q.bounds.high - np.array(q.zero_point)
        largest = min(float((room * np.array(q.scale)).max()), SATURATED)
        return max(1, math.ceil(largest * SIGMOID * LOG2_E))

    def body(self) -> Op:
        q, rank = self.meaning, self.x.type.rank
        self.expect(0 <= self.axis < rank, f"an axis of {self.x.type}", self.axis)
        n = self.least_n if self.n is None else self.n
        self.expect(
            self.least_n <= n <= 28,
            f"n of {self.least_n}…28, or exponentials of the largest code underflow",
            n,
        )
        zero_point = Constant(np.asarray(q.zero_points(rank), np.int32))
        value = Sub(Cast(self.x, "int32"), zero_point)
        argument = _sigmoid_argument(Cast(value, "int64"), q.scales(rank))
        highest = ReduceMax(Cast(argument, "int32"), (self.axis,))
        top = Cast(Maximum(highest, scalar(0, "int32")), "int64")
        difference = Sub(argument, top, within=Interval(-(1 << 40), 0))
        exponential = _shift_exp(difference, n)
        other = _shift_exp(Sub(scalar(0, "int64"), top), n)
        both = Add(exponential, other, within=Interval(1 << 15, 2 << STEP_BITS + n))
        factor = FloorDiv(scalar(1 << DIVIDEND_BITS, "int64"), both)
        ratio = Mul(exponential, factor, within=Interval(0, 1 << DIVIDEND_BITS))
        sigmoid = _rounded(ratio, DIVIDEND_BITS - SIGMOID_BITS)
        return Mul(value, Cast(sigmoid, "int32"))


def _sigmoid_argument(value: Op, scales: np.ndarray) -> Op:
    """1.702·x as x + (x>>1) + (x>>3) + (x>>4) at the step 2^−16, saturated."""
    limit = int(SATURATED) << STEP_BITS
    x = Clip(_at_step(value, scales), -limit, limit)
    return Add(Add(x, _shifted(x, 1)), Add(_shifted(x, 3), _shifted(x, 4)))


@op
class IntegerLayerNorm(IntegerNormalization):
    """I-ViT's I-LayerNorm: `Normalize` of codes by the iterative integer root (eq. 16).

    y = d·√n / I with I ≈ √V from ten steps I ← (I + ⌊V / I⌋) >> 1, as in the paper, and the
    paper's seed 2^⌊bits(V)/2⌋, from which five steps converge (from a fixed 2^16, small variances
    do not).  I is ⌊√V⌋ or one above: for codes up to m with the deviation σ, that is a
    relative error of at most m / (σ·2^29.5), or 2^−14 / σ for int16.  Zero variance gives zeros.

    Lemma: |d|·2^lift·⌊2^61 / I⌋ ≤ 2^61, because |d|·2^lift is a whole number and at most √V, so at
    most ⌊√V⌋ ≤ I.
    """

    def body(self) -> Op:
        deviation = self.deviation()
        power, epsilon, unit = (scalar(x, "int64") for x in self.numbers)
        root = _integer_root(self.variance(self.squares(deviation), power, epsilon))
        factor = FloorDiv(scalar(1 << DIVIDEND_BITS, "int64"), root)
        lifted = Mul(Cast(deviation, "int64"), unit)
        ratio = Mul(lifted, factor, within=Interval.symmetric(1 << DIVIDEND_BITS))
        return Cast(_rounded(ratio, DIVIDEND_BITS - 30), "int32")


def _integer_root(v: Op) -> Op:
    """⌊√v⌋ or ⌊√v⌋ + 1, never less, for 1 ≤ v < 2^62.

    Lemma: every I is in [1, 2^32): (I + ⌊v / I⌋) >> 1 is ⌊√v⌋ or more, and the seed is between
    √v / 2 and √v·2^½, from where no step leads above 1.25·√v.
    """
    # 2v·4^e in [2^60, 2^62) has v in [2^(2k−1), 2^(2k+1)) for k = 30 − e.
    _, factor = normalized(Mul(v, scalar(2, "int64")), 63)
    inside = Interval(1, (1 << 32) - 1)
    root: Op = FloorDiv(scalar(1 << 30, "int64"), factor, within=inside)
    for _ in range(10):
        root = Add(root, FloorDiv(v, root))
        root = ShiftRight(root, scalar(1, "int64"), within=inside)
    return root
