"""Integer forms of softmax, GELU and normalization, as the configuration chooses them."""

from __future__ import annotations

import functools

import numpy as np
from scipy import special

from qcompiler import fixed_point
from qcompiler.config import QuantizationConfig
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Average,
    Cast,
    Dequantize,
    Equal,
    Exponentials,
    Floor,
    GreaterEqual,
    IntegerLayerNorm,
    Map,
    Normalize,
    NormalizeInteger,
    Reciprocal,
    ReduceSum,
    Round,
    ShiftExponentials,
    ShiftGELU,
    Shiftmax,
    Softmax,
)
from qcompiler.ops.softmax import AVERAGE_BITS

ADALOG_STEPS = 37
"""AdaLog's bases are 2^(q/37) for whole q."""


def weights(softmax: Softmax, x: Op, config: QuantizationConfig) -> Op:
    """uint8 codes of exp(x − max) of codes x, in front of a product with values."""
    config = config.rule(softmax)
    if config.softmax == "shift":
        return ShiftExponentials(x, softmax.axis, softmax.mask)
    return _exponentials(softmax, x, "uint8", config)


def probabilities(softmax: Softmax, x: Op, config: QuantizationConfig) -> tuple[Op, float]:
    """Codes of the normalised softmax of codes x and their scale."""
    config = config.rule(softmax)
    if config.softmax == "shift":
        node = Shiftmax(x, softmax.axis, softmax.mask)
        return node, node.quantization.scale[0]
    found = _exponentials(softmax, x, "int16", config)
    reciprocal = Reciprocal(ReduceSum(found, (softmax.axis,)))
    return Average(Cast(found, "int32"), reciprocal), 2.0**-AVERAGE_BITS


def normal(node: Normalize, x: Op, config: QuantizationConfig) -> tuple[Op, float]:
    """Codes of the normalized codes x and their scale."""
    q = x.type.quantization
    assert q is not None
    cls = IntegerLayerNorm if config.rule(node).normalization == "i-vit" else NormalizeInteger
    found = cls(x, node.axes, node.epsilon / q.scale[0] ** 2, node.center)
    return found, found.quantization.scale[0]


def shift_gelu(node: Op, config: QuantizationConfig) -> ShiftGELU | None:
    """ShiftGELU of 8-bit codes, where the op is a GELU and the configuration wants it so."""
    match node:
        case Map(Dequantize(x)) if (
            config.rule(node).gelu == "shift"
            and x.type.dtype in ("uint8", "int8")
            and x.type.rank > 0
            and _is_gelu(node)
        ):
            return ShiftGELU(x, x.type.rank - 1)
    return None


def _is_gelu(function: Map) -> bool:
    """Whether the function is GELU in any of its forms, of which x·σ(1.702x) is 0.0204 off."""
    x = np.linspace(-8, 8, 161, dtype=np.float32)
    return bool(np.abs(function.at(x) - x * special.ndtr(x)).max() <= 0.021)


def _exponentials(softmax: Softmax, x: Op, dtype: str, config: QuantizationConfig) -> Exponentials:
    """exp(s·(q − max q)) by table; the largest code stands for 1."""
    assert x.type.quantization is not None
    reals = np.exp(x.type.quantization.scale[0] * (np.arange(256) - 255))
    if config.softmax == "log2":
        reals = log_quantized(reals, config.softmax_bits, config.softmax_base)
    values = fixed_point.round_half_up(reals * np.iinfo(dtype).max).astype(dtype)
    return Exponentials(x, Constant(values), softmax.axis, softmax.mask)


def log_quantized(values: np.ndarray, bits: int, base: float | str) -> np.ndarray:
    """Values of 0…1 as the nearest of base^−j by its exponent, 0 ≤ j < 2^bits − 1, or else 0.

    Log2 quantization of attention (FQ-ViT, Lin et al. 2022, section 3.3: base 2; RepQ-ViT, Li et
    al. 2023, section 3.3: √2) on the exponentials in front of the sum, so that rows of quantized
    weights sum to exactly what divides them.  j is what a storage of that many bits would hold; its
    last code is 0, since rows have many tiny elements.  "adaptive" takes AdaLog's bases 2^(q/37)
    (Wu et al. 2024) and of these the one with the least square error of probabilities, for logits
    that are distributed normally and fill the range of their codes with ±4 deviations.  AdaLog's
    two tables, T2[j] >> T1[j], become one in the table that the result goes into.

    Args:
        values: exp(s·(i − 255)) for the 256 differences i − 255 of codes.
        bits: Of a code.
        base: Above 1; "sqrt2" or "adaptive".
    """
    if base == "sqrt2":
        base = 2.0**0.5
    if not isinstance(base, str):
        return _powers(values, bits, base)
    bases = 2.0 ** (np.arange(1, 2 * ADALOG_STEPS + 1) / ADALOG_STEPS)
    candidates = [_powers(values, bits, float(b)) for b in bases]
    return min(candidates, key=functools.partial(_row_error, values))


def _powers(values: np.ndarray, bits: int, base: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        exponents = np.floor(-np.log(values) / np.log(base) + 0.5)
    return np.where(exponents < (1 << bits) - 1, base**-exponents, 0.0)


def _row_error(exact: np.ndarray, found: np.ndarray) -> float:
    """Mean square error of the probabilities in a row of about 200 normal logits."""
    deviation = 256 / 8  # codes; the largest of 200 is 2.8 deviations above the mean
    z = (np.arange(256) - 255) / deviation + 2.8
    likelihood = np.exp(-0.5 * z**2)
    a, b = (v / (likelihood @ v) for v in (exact, found))
    return float(likelihood @ np.square(a - b))


def representatives(function: Map, reals: np.ndarray, step: float) -> np.ndarray:
    """What codes may stand for, moved by at most half a step to where the function jumps.

    A code of 2.9997 stands for 3 as well, which is what floor(x), x = 3 and x ≥ 3 have to be asked
    about: inputs that hold whole numbers are then computed without an error.  What x ≥ 0.31 says of
    the code itself is right for most of what the code stands for.

    Args:
        function: Of one variable.
        reals: The real values of the codes.
        step: Between two codes.
    """
    places: list[np.ndarray] = []
    for node in function.region.ops:
        match node:
            case Floor() | Round() | Cast():
                places.append(np.rint(reals))
            case (
                Equal(x, Constant(array=c))
                | GreaterEqual(x, Constant(array=c))
                | GreaterEqual(Constant(array=c), x)
            ) if x in function.region.inputs and c.size == 1:
                bound = float(c.reshape(-1)[0])
                if isinstance(node, Equal) or bound.is_integer():
                    places.append(np.full(reals.shape, bound))
    for place in places:
        reals = np.where(np.abs(place - reals) <= step / 2, place, reals)
    return reals
