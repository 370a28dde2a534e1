"""Windows that slide over two spatial axes: the geometry of convolution and pooling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompiler.errors import TypingError


@dataclass(frozen=True)
class Window:
    """A sliding window of (height, width).

    Attributes:
        kernel: Size of the window.
        strides: Steps between windows.
        pads: Rows and columns added at top, left, bottom and right.
        dilations: Distance between the taps of a window.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if min((*self.kernel, *self.strides, *self.dilations)) < 1 or min(self.pads) < 0:
            raise TypingError(f"window {self}: expected sizes ≥ 1 and pads ≥ 0")

    def output(self, height: int, width: int) -> tuple[int, int]:
        """How many windows fit in each direction.

        Raises:
            TypingError: not even one.
        """
        top, left, bottom, right = self.pads
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        padded = (height + top + bottom, width + left + right)
        if any(size < span for size, span in zip(padded, spans, strict=True)):
            raise TypingError(f"window {self}: expected at least {spans}, found {list(padded)}")
        rows, columns = (
            (size - span) // s + 1
            for size, span, s in zip(padded, spans, self.strides, strict=True)
        )
        return rows, columns

    @property
    def is_identity(self) -> bool:
        """Whether windows are the single elements."""
        return self == Window((1, 1))

    @property
    def overlaps(self) -> bool:
        """Whether pads are below the kernel size: ONNX Runtime pools no other windows."""
        return all(p < k for p, k in zip(self.pads, self.kernel * 2, strict=True))

    def counts(self, height: int, width: int) -> np.ndarray:
        """How many elements each window covers, without the padding: int64 [oh, ow]."""
        found = []
        for i, (size, count) in enumerate(
            zip((height, width), self.output(height, width), strict=True)
        ):
            starts = np.arange(count) * self.strides[i] - self.pads[i]
            places = starts[:, None] + np.arange(self.kernel[i]) * self.dilations[i]
            found.append(((places >= 0) & (places < size)).sum(1))
        return np.asarray(found[0][:, None] * found[1])

    def taps(self, x: np.ndarray, value: float) -> Iterator[tuple[int, int, np.ndarray]]:
        """For each tap (i, j) of the window, its element in every window.

        Args:
            x: [n, c, h, w].
            value: What the padding holds.

        Yields:
            i, j and a view [n, c, oh, ow].
        """
        rows, columns = self.output(*x.shape[2:])
        top, left, bottom, right = self.pads
        if any(self.pads):
            pads = ((0, 0), (0, 0), (top, bottom), (left, right))
            x = np.pad(x, pads, constant_values=np.asarray(value, x.dtype))
        (sh, sw), (dh, dw) = self.strides, self.dilations
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                yield i, j, x[:, :, i * dh :: sh, j * dw :: sw][:, :, :rows, :columns]

    def onnx(self) -> dict[str, list[int]]:
        """The attributes of ONNX's Conv and pooling operators."""
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "pads": list(self.pads),
            "dilations": list(self.dilations),
        }

    def onnx_taps(self, o: Any, x: Any, value: np.ndarray, sizes: tuple[int, ...]) -> list[Any]:
        """`taps` as ONNX slices, for windows that ONNX Runtime does not pool.

        Args:
            o: The emitter.
            x: [n, c, h, w].
            value: What the padding holds, in x's dtype.
            sizes: [oh, ow], as `output` gives them.
        """
        top, left, bottom, right = self.pads
        if any(self.pads):
            pads = o.constant(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
            x = o.op("Pad", x, pads, o.constant(value), mode="constant")
        axes, steps = (o.constant(np.array(v, np.int64)) for v in ((2, 3), self.strides))
        found = []
        for tap in np.ndindex(*self.kernel):
            starts = np.array(tap, np.int64) * self.dilations
            stops = starts + (np.array(sizes, np.int64) - 1) * self.strides + 1
            found.append(o.op("Slice", x, o.constant(starts), o.constant(stops), axes, steps))
        return found

    def __str__(self) -> str:
        text = "x".join(map(str, self.kernel))
        if self.strides != (1, 1):
            text += f"/{'x'.join(map(str, self.strides))}"
        if any(self.pads):
            text += f"+{','.join(map(str, self.pads))}"
        if self.dilations != (1, 1):
            text += f"*{'x'.join(map(str, self.dilations))}"
        return text


def convolve(
    x: np.ndarray, weight: np.ndarray, window: Window, groups: int, dtype: type[np.floating]
) -> np.ndarray:
    """The convolution of x [n, c, h, w] and weight [o, c/groups, kh, kw], summed in `dtype`.

    Exact for integers as long as every partial sum is below 2^53 (float64).
    """
    n, channels = x.shape[:2]
    rows, columns = window.output(*x.shape[2:])
    outputs, inner = weight.shape[:2]
    if groups == channels and inner == 1:
        return _depthwise(x, weight, window, dtype)
    taps = window.kernel[0] * window.kernel[1]
    columns_of = np.empty((n, groups, inner, taps, rows * columns), dtype)
    for i, j, tap in window.taps(x, 0):
        columns_of[:, :, :, i * window.kernel[1] + j] = tap.reshape(n, groups, inner, -1)
    left = weight.reshape(groups, outputs // groups, inner * taps).astype(dtype)
    right = columns_of.reshape(n, groups, inner * taps, rows * columns)
    return (left @ right).reshape(n, outputs, rows, columns)


def _depthwise(
    x: np.ndarray, weight: np.ndarray, window: Window, dtype: type[np.floating]
) -> np.ndarray:
    n, channels = x.shape[:2]
    multiple = weight.shape[0] // channels
    scaled = weight.reshape(channels, multiple, *weight.shape[2:]).astype(dtype)
    total = np.zeros((n, channels, multiple, *window.output(*x.shape[2:])), dtype)
    for i, j, tap in window.taps(x.astype(dtype), 0):
        total += tap[:, :, None] * scaled[None, :, :, i, j, None, None]
    return total.reshape(n, -1, *total.shape[3:])
