"""How depthwise convolutions are cut, and their weights in the order of `depthwise`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompiler.backends.tvm.problem import Conv2d

from .isa import Isa

SIGN_BIT = 128


@dataclass(frozen=True)
class Strips:
    """How a depthwise convolution is cut.

    Attributes:
        conv: The convolution.
        isa: The instruction set.
        registers: Interleaved registers per column.
        rows: Output rows of a task.
    """

    conv: Conv2d
    isa: Isa
    registers: int
    rows: int

    @property
    def panels(self) -> int:
        """Vectors of channels; the last one ends with the last channel."""
        return -(-self.conv.out_channels // self.isa.lanes)

    @property
    def flips_sign(self) -> bool:
        """Whether codes are read as uint8 plus 128 or int8 minus 128, because the dot wants it."""
        return not self.isa.widened and self.conv.x_dtype != self.isa.takes

    def tap(self, row: int, register: int, lane: int) -> int | None:
        """The row of the filter that a row of a register meets for an output row, if any."""
        tap = register * self.isa.group + lane - row * self.conv.strides[0]
        return tap if 0 <= tap < self.conv.kernel[0] else None

    def meets(self, row: int, register: int) -> bool:
        """Whether an output row needs a register."""
        return any(self.tap(row, register, i) is not None for i in range(self.isa.group))


def strips(conv: Conv2d, isa: Isa) -> Strips | None:
    """The plan, or None for what is not depthwise, dilated, too narrow, or has no dot."""
    fits = (
        conv.depthwise
        and conv.dilations == (1, 1)
        and isa.group > 1
        and isa.pixels == 1
        and conv.out_channels >= isa.lanes
    )
    if not fits:
        return None
    rows_read, stride = conv.kernel[0], conv.strides[0]
    registers = -(-rows_read // isa.group)
    rows = (registers * isa.group - rows_read) // stride + 1
    return Strips(conv, isa, registers, min(rows, conv.out_shape[1]))


def pack_depthwise(
    plan: Strips, weight: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weight int8 [o, 1, kh, kw] and bias int32 [o] in the order in which the kernel reads them."""
    isa, (_, kw) = plan.isa, plan.conv.kernel
    shape = (plan.panels, kw, plan.rows, plan.registers, isa.lanes, isa.group)
    packed = np.zeros(shape, "int16" if isa.widened else "int8")
    last = plan.conv.out_channels - isa.lanes
    channels = np.minimum(np.arange(plan.panels) * isa.lanes, last)[:, None] + np.arange(isa.lanes)
    for row, register, lane in np.ndindex(plan.rows, plan.registers, isa.group):
        tap = plan.tap(row, register, lane)
        if tap is not None:
            taps = weight[channels, 0, tap]  # panel, lane, kw
            packed[:, :, row, register, :, lane] = taps.transpose(0, 2, 1)
    biases = bias.astype(np.int64)
    if plan.flips_sign:
        moved = -SIGN_BIT if plan.isa.takes == "uint8" else SIGN_BIT
        biases = biases + moved * weight.astype(np.int64).sum((1, 2, 3))
    return packed.reshape(*shape[:4], -1), biases.astype(np.int32)[channels]
