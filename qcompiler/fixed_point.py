"""Rounding, scales and dyadic multipliers: the only place where they are decided.

Notation as in Jacob et al. 2018 ("Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference"): real = s·(q − z).  Rounding is half up, floor(v + 1/2),
everywhere; a product by a real ratio becomes (x·m + 2^(k−1)) >> k (dyadic, HAWQ-V3, Yao et al.
2021, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from qcompiler.types import Quantization, Storage

MULTIPLIER_BITS = 31
"""Mantissa of a multiplier: an int32, so that its product with an int32 fits an int64."""

MAX_SHIFT = 62
PART = 1 << 20
"""Elements that are rounded at once."""

LARGEST_SUM = 2.0**62 - 2.0**42
"""Of products with multipliers; the rest is for the rounding of each multiplier by up to 1/2."""


def round_half_up(values: np.ndarray | float) -> np.ndarray:
    """floor(v + 1/2) as int64, for |v| < 2^63."""
    return _half_up(values).astype(np.int64)


def _half_up(values: np.ndarray | float) -> np.ndarray:
    values = np.asarray(values, np.float64)
    below = np.floor(values)
    with np.errstate(invalid="ignore"):  # infinities stay what they are
        return below + (values - below >= 0.5)  # v + 1/2 would round: 0.49999999999999994 to 1


def dyadic(
    ratios: np.ndarray | float, bits: int = MULTIPLIER_BITS, largest: float = 0.0
) -> tuple[np.ndarray, int]:
    """Integers m and one shift k with ratios ≈ m / 2^k, the largest |m| filling `bits` − 1 bits.

    Args:
        ratios: Real factors of either sign, any shape; zeros stay exactly zero.
        bits: Width of the signed multiplier, at most 32.
        largest: Bound of what k is also to leave room for: largest·2^k < 2^62.

    Returns:
        m as int64 of the shape of `ratios`, and 1 ≤ k ≤ 62.  The absolute error of every ratio is
        at most 2^(−k−1); the relative error of the largest is at most 2^(1−bits), if it is at
        least 2^(bits−64) and `largest` leaves room.

    Raises:
        ValueError: a ratio is not finite, or a ratio or `largest` too large for any shift ≥ 1.

    >>> multiplier, shift = dyadic(0.75)
    >>> int(multiplier), shift
    (805306368, 30)
    """
    ratios = np.asarray(ratios, np.float64)
    if not np.isfinite(ratios).all():
        raise ValueError(f"expected finite ratios, found {ratios}")
    top = float(np.abs(ratios).max(initial=0.0))
    if largest > LARGEST_SUM / 2:
        raise ValueError(f"sums of {largest:g} are too large")
    if top == 0.0:
        return np.zeros(ratios.shape, np.int64), 1
    limit = (1 << bits - 1) - 1
    shift = min(bits - 1 - int(np.frexp(top)[1]), MAX_SHIFT)
    while largest > np.ldexp(LARGEST_SUM, -shift):
        shift -= 1
    multipliers = round_half_up(np.ldexp(ratios, shift))
    if np.abs(multipliers).max(initial=0) > limit:  # the largest rounded up to a power of two
        shift -= 1
        multipliers = round_half_up(np.ldexp(ratios, shift))
    if shift < 1:
        raise ValueError(f"a ratio of {top:g} is too large for {bits}-bit multipliers")
    return multipliers, shift


def excess(ratio: float, largest: float) -> int:
    """An e ≥ 0 such that `dyadic` can hold ratio / 2^e and leave room for largest / 2^e.

    The least for the ratio; for `largest` at most one more.
    """
    top = ratio * (1 + 2.0**-MULTIPLIER_BITS)  # just below a power of two, rounded up to it
    return max(0, int(np.frexp(top)[1]) - MULTIPLIER_BITS + 2, int(np.frexp(largest)[1]) - 60)


def quantize(values: np.ndarray, quantization: Quantization) -> np.ndarray:
    """Codes of real values (float64 arithmetic): clamp(round(v / s) + z).

    Args:
        values: Real numbers; infinities saturate.
        quantization: Meaning of the codes.
    """
    values = np.asarray(values)
    scales, zero_points = quantization.scales(values.ndim), quantization.zero_points(values.ndim)
    result = np.empty(values.shape, quantization.bounds.dtype)
    for part in _parts(values.shape):
        s, z = (v if np.ndim(v) == 0 or len(v) == 1 else v[part] for v in (scales, zero_points))
        result[part] = _quantized(values[part], s, z, quantization.bounds)
    return result


def _quantized(
    values: np.ndarray, scales: np.ndarray, zero_points: np.ndarray, bounds: Storage
) -> np.ndarray:
    with np.errstate(over="ignore"):  # to an infinity, which saturates
        steps = np.asarray(values, np.float64) / scales
    codes = _half_up(steps) + zero_points
    return np.asarray(np.clip(codes, bounds.low, bounds.high).astype(bounds.dtype))


def _parts(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Rows of an array, few at a time: float64 copies of a large weight would fill the memory."""
    if not shape:
        yield ()
        return
    rows = max(1, PART // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield (slice(start, start + rows),)


def dequantize(codes: np.ndarray, quantization: Quantization) -> np.ndarray:
    """Real values (float64) of codes."""
    rank = np.ndim(codes)
    return (codes.astype(np.int64) - quantization.zero_points(rank)) * quantization.scales(rank)


def affine_quantization(low: float, high: float, storage: str) -> Quantization:
    """The quantization whose codes cover [low, high] and represent 0 exactly (Jacob et al., §2.1).

    Unsigned storage is asymmetric, signed storage symmetric (zero point 0).

    Args:
        low: Smallest real value to represent; clipped to ≤ 0.
        high: Largest real value to represent; clipped to ≥ 0.
        storage: Name of the storage, such as "uint8" or "int16".
    """
    bounds = Storage(storage)
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if bounds.signed:
        return Quantization.per_tensor(storage, _scale(max(-low, high) / bounds.high))
    scale = _scale((high - low) / bounds.high)
    return Quantization.per_tensor(
        storage, scale, min(int(round_half_up(-low / scale)), bounds.high)
    )


def weight_quantization(weight: np.ndarray, storage: str, axis: int) -> Quantization:
    """Symmetric per-channel quantization of a weight by its largest magnitude per channel.

    The most negative code is left unused, so that |code| ≤ high on both sides.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.maximum(weight.max(others, initial=0.0), -weight.min(others, initial=0.0))
    scales = np.array([_scale(v / Storage(storage).high) for v in np.atleast_1d(largest)])
    return Quantization.per_channel(storage, scales, axis)


SMALLEST_SCALE = float(np.finfo(np.float32).tiny) * 2**24
"""Keeps 1/s and s·code normal in float32.  Also the scale of what is zero in all samples: beside it
everything else keeps its precision, however small, in sums and per channel."""


def _scale(value: float) -> float:
    return float(np.float32(max(value, SMALLEST_SCALE)))
