"""Random nodes of signal processing and detection."""

from __future__ import annotations

import numpy as np
from fuzz_draft import Draft, generates
from fuzz_runtime import RejectedError

UNDRAWN = frozenset({
    "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt",
    "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
    "SplitToSequence",  # values that are no tensors
    "Affine", "Crop", "ImageScaler", "ParametricSoftplus", "ScaledTanh",  # older than ONNX 1.0
    "DeformConv", "MaxUnpool", "AffineGrid", "com.microsoft.DynamicQuantizeLSTM",
})  # fmt: skip
"""Imported operators that no generator draws; the importers' own tests have them."""


@generates("Col2Im")
def columns(d: Draft, op: str) -> None:
    """Blocks put back to where they came from."""
    kernel, size = (d.integer(1, 2), d.integer(1, 3)), (d.integer(3, 5), d.integer(3, 5))
    blocks = int(np.prod([n - k + 1 for n, k in zip(size, kernel, strict=True)]))
    x = d.real(shape=(d.integer(1, 2), d.integer(1, 2) * int(np.prod(kernel)), blocks))
    d.emit(op, [x, d.const(size, np.int64), d.const(kernel, np.int64)])


@generates("DFT")
def fourier(d: Draft, op: str) -> None:
    """Of real signals, along one axis."""
    if d.opset < 17:
        raise RejectedError("draft: not in this opset")
    x = d.real(shape=(d.integer(1, 2), d.integer(2, 8), 1))
    flags = {"onesided": int(d.chance(0.4))}
    if d.opset < 20:
        d.emit(op, [x], axis=1, **flags)
    else:
        d.emit(op, [x, None, d.const(1, np.int64)], **flags)


@generates("STFT")
def short_fourier(d: Draft, op: str) -> None:
    """Of frames with a window."""
    length = d.integer(2, 6)
    x = d.real(shape=(d.integer(1, 2), length * 3, 1))
    window = d.floats((length,), known=True)
    d.emit(op, [x, d.const(d.integer(1, 3), np.int64), window, d.const(length, np.int64)])


@generates("RoiAlign", "MaxRoiPool")
def regions(d: Draft, op: str) -> None:
    """Of rectangles."""
    x = d.real(lambda v: 0 < v.first.size <= 512, rank=4)
    corners = d.rng.uniform(0, 2, (d.integer(1, 2), 2))
    boxes = np.concatenate([corners, corners + d.rng.uniform(1, 3, corners.shape)], 1)
    if op == "MaxRoiPool":
        rois = np.concatenate([np.zeros((len(boxes), 1)), boxes.round()], 1)
        d.emit(op, [x, d.const(rois, np.float32)], pooled_shape=[2, 2])
        return
    which = d.const(np.zeros(len(boxes)), np.int64)
    sizes = {"output_height": d.integer(1, 3), "output_width": d.integer(1, 3)}
    operands = [x, d.const(boxes, np.float32), which]
    d.emit(op, operands, mode=d.pick(("avg", "max")), sampling_ratio=d.integer(1, 2), **sizes)
