"""Importers of signal processing: Fourier transforms as products with constant matrices."""

from __future__ import annotations

import numpy as np

from qcompiler.frontends.onnx_conv import convolved
from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_windows import Axis
from qcompiler.graph import Constant, Op
from qcompiler.ops import MatMul, Mul, Reshape, Transpose
from qcompiler.types import FLOAT

_LARGEST_MATRIX = 1 << 24  # elements


@importer("DFT", since=17)
def dft_by_attribute(node: Node) -> Op:
    """The discrete Fourier transform along an axis that an attribute names."""
    return _dft(node, node.integer("axis", 1))


@importer("DFT", since=20)
def dft(node: Node) -> Op:
    """The discrete Fourier transform along an axis that an operand names."""
    axis = node.known_scalar(2, "axis")
    return _dft(node, -2 if axis is None else int(axis))


def _dft(node: Node, axis: int) -> Op:
    x, rank = node.x, node.x.type.rank
    parts = x.type.shape[-1] if rank else 0
    if rank < 2 or parts not in (1, 2):
        raise node.broken(f"expected real or complex numbers [..., 1 or 2], found {x.type}")
    axis = node.axis(axis, rank)
    if axis == rank - 1:
        raise node.broken("axis: expected an axis other than that of real and imaginary parts")
    size = x.type.shape[axis]
    inverse, onesided = bool(node.integer("inverse")), bool(node.integer("onesided"))
    default = 2 * (size - 1) if inverse and onesided else size
    given = node.known_scalar(1, "dft_length")
    length = default if given is None else int(given)
    if size < 1 or not length >= 1 or length * size * parts > _LARGEST_MATRIX:
        raise node.broken(f"dft_length: expected a length that fits in memory, found {length}")
    matrix = _matrix(size, length, parts, inverse=inverse, onesided=onesided)
    kept = tuple(i for i in range(rank - 1) if i != axis)
    order = (*kept, axis, rank - 1)
    rows = x if order == tuple(range(rank)) else Transpose(x, order)
    outer = tuple(x.type.shape[i] for i in kept)
    results, of_each = matrix.shape[2:]
    y = MatMul(
        Reshape(rows, (*outer, size * parts)) if outer else Reshape(rows, (1, size * parts)),
        Constant(np.ascontiguousarray(matrix.reshape(size * parts, -1), FLOAT)),
    )
    result = Reshape(y, (*outer, results, of_each))
    back = tuple(order.index(i) for i in range(rank))
    return result if back == tuple(range(rank)) else Transpose(result, back)


def _matrix(size: int, length: int, parts: int, *, inverse: bool, onesided: bool) -> np.ndarray:
    """What each part of each number adds to each part of each result: [size, parts, m, 2 or 1].

    Numbers beyond `length` are left out.
    """
    units = np.zeros((size * parts, size), complex)
    units[np.arange(size * parts), np.arange(size * parts) // parts] = (
        [1, 1j] * size if parts == 2 else [1] * size
    )
    if inverse and onesided:
        spread = np.fft.irfft(units, length)[..., None]
    else:
        spectra = np.fft.ifft(units, length) if inverse else np.fft.fft(units, length)
        if onesided:
            spectra = spectra[:, : length // 2 + 1]
        spread = np.stack([spectra.real, spectra.imag], -1)
    return spread.reshape(size, parts, *spread.shape[1:])


@importer("STFT", since=17)
def stft(node: Node) -> Op:
    """The transform of each windowed frame of a signal: a convolution with cosines and sines."""
    x, window = node.x, node.optional(2)
    if x.type.rank == 2:
        x = Reshape(x, (*x.type.shape, 1))
    if x.type.rank != 3 or x.type.shape[2] not in (1, 2):
        raise node.broken(f"expected a signal [n, length, 1 or 2], found {x.type}")
    n, samples, parts = x.type.shape
    step, given = node.known_scalar(1, "frame_step"), node.known_scalar(3, "frame_length")
    if window is not None and window.type.rank != 1:
        raise node.broken(f"expected a window of rank 1, found {window.type}")
    default = samples if window is None else window.type.size
    length = default if given is None else int(given)
    if step is None or step < 1 or not 1 <= length <= samples:
        raise node.broken(f"expected frames within {samples} samples, found {length} by {step}")
    if window is not None and window.type.size != length:
        raise node.broken(f"expected a window of {length} samples, found {window.type}")
    onesided = bool(node.integer("onesided", 1))
    if length * length * parts > _LARGEST_MATRIX:
        raise node.unsupported(f"frames of {length} samples")
    matrix = _matrix(length, length, parts, inverse=False, onesided=onesided)
    results = matrix.shape[2]
    kernel = matrix.transpose(2, 3, 1, 0).reshape(2 * results, parts, length)
    weight: Op = Constant(np.ascontiguousarray(kernel, FLOAT))
    signal = Transpose(x, (0, 2, 1))
    if window is not None:
        weight = simplified(Mul(weight, window))
    axes = [Axis(length, int(step))]
    y = convolved(node, signal, weight, None, axes, 1)
    frames = y.type.shape[2]
    return Transpose(Reshape(y, (n, results, 2, frames)), (0, 3, 1, 2))
