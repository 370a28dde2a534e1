"""How a convolution is cut: memory strides, register tiles, panels of output channels.

A kernel visits tiles of ``tile`` output pixels by ``lanes·vectors`` output channels (a *panel*) and
keeps all of a tile's accumulators in registers.  Where the extent is no multiple of the tile, the
last tile is moved back to end at the border and computes some outputs twice: no tail code, no
masks, no access out of bounds.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from qcompiler.errors import ShapeError

from .isa import Isa
from .problem import Conv2d, Matmul, as_conv2d

_DOTS_PER_CYCLE = 2
_LOADS_PER_CYCLE = 2
_DOT_LATENCY = 4
_EPILOGUE_CYCLES = 8
_MOST_ELEMENTS = 2**31 - 1
_MOST_PIXELS = 15  # TVM keeps buffers below 1024 bytes on the stack: 15 pixels of 16 int32


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class Plan:
    """The loops of one kernel.  Strides and depths count elements of the source.

    The source is the input itself, or a copy with borders (and int16 where the ISA wants it).

    Attributes:
        conv: The convolution, products in the form of `as_conv2d`.
        isa: The instruction set.
        copied: Whether the source is a copy.
        source_dtype: Element type of the source.
        source_rows: Rows of one source image.
        source_cols: Pixels of one source row.
        taps: Extent and stride of the outer reduction loops.
        depth: Contiguous elements reduced at each tap, before padding to ``isa.group``.
        tile: Output rows and columns of a register tile.
        vectors: Accumulator vectors per output pixel of a tile.
        panel_lanes: Output channels that a panel stores, ``lanes·vectors`` or fewer.
        panels: Panels per group (depthwise: altogether).
        cycles: Estimated time on one core.
    """

    conv: Conv2d
    isa: Isa
    copied: bool
    source_dtype: str
    source_rows: int
    source_cols: int
    taps: tuple[tuple[int, int], ...]
    depth: int
    tile: tuple[int, int]
    vectors: int
    panel_lanes: int
    panels: int
    cycles: float

    @property
    def groups(self) -> int:
        """Groups that panels are counted in: all channels are one group if depthwise."""
        return 1 if self.conv.depthwise else self.conv.groups

    @property
    def group_outputs(self) -> int:
        """Output channels of one group."""
        return self.conv.out_channels // self.groups

    @property
    def steps(self) -> int:
        """Dot instructions that one accumulator takes at each tap."""
        return _ceil(self.depth, self.isa.group)

    @property
    def tap_count(self) -> int:
        """Product of the extents of the tap loops."""
        return math.prod(extent for extent, _ in self.taps)

    @property
    def panel_width(self) -> int:
        """Output channels that a panel computes; those beyond ``panel_lanes`` go nowhere."""
        return self.panel_lanes if self.conv.depthwise else self.isa.lanes * self.vectors

    def panel_starts(self) -> list[int]:
        """First output channel of each panel, counted in its group."""
        last = self.group_outputs - self.panel_lanes
        return [min(p * self.panel_lanes, last) for p in range(self.panels)]


def make_plan(problem: Conv2d | Matmul, isa: Isa) -> Plan:
    """Cut a problem for an instruction set; the same arguments give the same plan.

    Raises:
        ShapeError: A tensor has more elements than an int32 index reaches.
    """
    conv = as_conv2d(problem)
    for shape in (problem.x_shape, problem.out_shape):
        if math.prod(shape) > _MOST_ELEMENTS:
            raise ShapeError(
                f"a tensor {list(shape)} of {math.prod(shape)} elements, but CPU kernels index "
                f"at most {_MOST_ELEMENTS}: choose a smaller batch"
            )
    _, h, w, c = conv.x_shape
    _, oh, ow, outputs = conv.out_shape
    (kh, kw), (dh, dw), (sh, sw) = conv.kernel, conv.dilations, conv.strides
    run_of_taps = conv.groups == 1 and dw == 1  # kw and c are then contiguous in memory
    if conv.depthwise:
        depth, ragged, widened = 1, False, False
    else:
        depth = c * kw if run_of_taps else c // conv.groups
        ragged, widened = depth % isa.group != 0, isa.widened
        outputs //= conv.groups
    copied = any(conv.pads) or ragged or widened
    rows, cols = h, w
    if copied:
        rows, cols = (oh - 1) * sh + (kh - 1) * dh + 1, (ow - 1) * sw + (kw - 1) * dw + 1
    taps: tuple[tuple[int, int], ...] = ((kh, dh * cols * c), (kw, dw * c))
    if run_of_taps:
        taps = taps[:1]
    steps = math.prod(extent for extent, _ in taps) * _ceil(depth, isa.group)
    tile, vectors, cycles = _choose_tile((oh, ow), outputs, steps, isa, 1 if conv.depthwise else 4)
    lanes = min(outputs, isa.lanes * vectors)
    return Plan(
        conv=conv,
        isa=isa,
        copied=copied,
        source_dtype="int16" if widened else conv.x_dtype,
        source_rows=rows,
        source_cols=cols,
        taps=taps,
        depth=depth,
        tile=tile,
        vectors=vectors,
        panel_lanes=lanes,
        panels=_ceil(outputs, lanes),
        cycles=cycles * conv.x_shape[0] * (1 if conv.depthwise else conv.groups),
    )


def _choose_tile(
    pixels: tuple[int, int], outputs: int, steps: int, isa: Isa, most_vectors: int
) -> tuple[tuple[int, int], int, float]:
    """Tile rows and columns, vectors and estimated cycles per image of the quickest tile."""

    def cycles(choice: tuple[int, int, int]) -> float:
        rows, cols, vectors = choice
        tile = rows * cols
        dots = tile * vectors / _DOTS_PER_CYCLE
        loads = (tile + vectors) / _LOADS_PER_CYCLE
        tiles = _ceil(pixels[0], rows) * _ceil(pixels[1], cols)
        panels = _ceil(outputs, isa.lanes * vectors)
        step = max(dots, loads, _DOT_LATENCY)
        return tiles * panels * (steps * step + tile * vectors * _EPILOGUE_CYCLES)

    choices = _tiles(pixels, outputs, isa, most_vectors)
    best = min(choices, key=lambda choice: (cycles(choice), -choice[0] * choice[1]))
    return best[:2], best[2], cycles(best)


def _tiles(
    pixels: tuple[int, int], outputs: int, isa: Isa, most_vectors: int
) -> Iterator[tuple[int, int, int]]:
    """Rows, columns and vectors whose accumulators, weights and one operand fit the registers."""
    for vectors in range(1, most_vectors + 1):
        if vectors > 1 and isa.lanes * vectors > outputs:
            return
        limit = min((isa.registers - vectors - 1) // vectors, _MOST_PIXELS)
        for rows in range(1, min(pixels[0], limit) + 1):
            if rows > 1 and rows * pixels[1] > limit:
                break
            widest = min(limit // rows, pixels[1])
            yield rows, _ceil(pixels[1], _ceil(pixels[1], widest)), vectors
