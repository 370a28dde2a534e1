"""How far one tensor is from another, summed up while samples stream by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from qcompiler.types import Quantization, TensorType


@dataclass(frozen=True)
class Deviation:
    """The deviation of a value from its float reference, over all samples.

    Attributes:
        sqnr: Signal to quantization noise, 10·log10(Σ r² / Σ (r − v)²), in dB; inf where both are
            equal, −inf where only the reference is 0 everywhere.
        cosine: Σ r·v / √(Σ r² · Σ v²): 1 where the directions agree, and where both are 0.
        max_abs: The largest |r − v|, in units of the value.
        saturation: Share of codes at an end of their storage, 0…1; an end that stands for real 0,
            as behind a ReLU, is not counted.  None for a value that is no codes.
        agreement: Share of rows of class scores whose largest element is the same, 0…1; None for
            a value that is no class scores.
    """

    sqnr: float
    cosine: float
    max_abs: float
    saturation: float | None = None
    agreement: float | None = None


class DeviationSums:
    """The sums that a `Deviation` needs: of one size, whatever the number of samples."""

    def __init__(self, quantization: Quantization | None = None, *, scores: bool = False) -> None:
        """Start empty.

        Args:
            quantization: Meaning of the codes that `update` will get; None for real numbers.
            scores: Also count on how many rows both have the same largest element.
        """
        self._quantization = quantization
        self._scores = scores
        self._signal = self._found = self._noise = self._product = self._largest = 0.0
        self._elements = self._ends = self._rows = self._agreeing = 0

    def update(self, reference: np.ndarray, found: np.ndarray) -> None:
        """Take one more pair of arrays of one shape into account.

        Args:
            reference: Real numbers.
            found: Real numbers, or codes if a quantization was given.
        """
        right = np.asarray(reference, np.float64)
        value = self._reals(found)
        if self._scores:
            rows = len(right)
            chosen = [v.reshape(rows, -1).argmax(1) for v in (right, value)]
            self._rows += rows
            self._agreeing += int((chosen[0] == chosen[1]).sum())
        right, value = right.reshape(-1), value.reshape(-1)
        noise = right - value
        self._signal += _product(right, right)
        self._found += _product(value, value)
        self._noise += _product(noise, noise)
        self._product += _product(right, value)
        self._largest = float(np.maximum(self._largest, np.abs(noise).max(initial=0.0)))
        self._elements += right.size

    def _reals(self, found: np.ndarray) -> np.ndarray:
        """Real numbers of codes, in float64: real = s·(q − z) (Jacob et al. 2018, eq. 1)."""
        q = self._quantization
        if q is None:
            return np.asarray(found, np.float64)
        zero_points = q.zero_points(found.ndim)
        for end in (q.bounds.low, q.bounds.high):
            self._ends += int(((found == end) & (zero_points != end)).sum())
        return (found.astype(np.float64) - zero_points) * q.scales(found.ndim)

    def result(self) -> Deviation:
        """The deviation over everything so far."""
        norms = math.sqrt(self._signal) * math.sqrt(self._found)
        if norms:
            cosine = min(1.0, self._product / norms)
        else:
            cosine = float(self._signal == self._found)
        return Deviation(
            decibels(self._signal, self._noise),
            cosine,
            self._largest,
            self._ends / max(self._elements, 1) if self._quantization is not None else None,
            self._agreeing / max(self._rows, 1) if self._scores else None,
        )


def _product(a: np.ndarray, b: np.ndarray) -> float:
    """Σ a·b; `a @ b` would wake BLAS's threads while ONNX Runtime's still spin: 50 times slower."""
    return float(np.einsum("i,i->", a, b))


def decibels(signal: float, noise: float) -> float:
    """10·log10(signal / noise) of two powers; inf without noise, NaN where one is NaN."""
    if noise == 0:
        return math.inf
    if signal == 0:
        return -math.inf
    return 10 * math.log10(signal / noise)


def looks_like_scores(type: TensorType) -> bool:
    """Whether rows of at least two real numbers, as classifiers return: [N, C] or [N, C, 1, 1]."""
    shape = list(type.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()
    return type.is_float and len(shape) == 2 and shape[1] >= 2
