"""How a convolution is cut: memory strides, register tiles, panels of output channels.

A kernel visits tiles of ``tile`` output pixels by ``channels·vectors`` output channels (a *panel*)
and keeps all of a tile's accumulators in registers.  Where the extent is no multiple of the tile,
the last tile is moved back to end at the border and computes some outputs twice: no tail code, no
masks, no access out of bounds.
"""

import math
from dataclasses import dataclass, replace

from qcompiler.backends.tvm.problem import Conv2d, Matmul, as_conv2d

from .cost import TILE_BYTES, Cut, cut_matrix, cut_vectors
from .isa import Isa


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
        depth: Contiguous elements reduced at each tap, before padding to ``chunk``.
        chunk: Elements of them that one step takes: ``isa.group``; on AMX, bytes of a tile's row.
        tile: Output rows and columns of a tile.
        vectors: Accumulators per output pixel of a tile (i8mm: per pair; AMX: tiles side by side).
        tile_rows: Output pixels of one AMX tile; 0 elsewhere.
        panel_lanes: Output channels that a panel stores, ``channels·vectors`` or fewer.
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
    chunk: int
    tile: tuple[int, int]
    vectors: int
    tile_rows: int
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
    def matrix(self) -> bool:
        """Whether the kernel multiplies AMX tiles."""
        return self.tile_rows > 0

    @property
    def padded_depth(self) -> int:
        """``depth`` up to a multiple of ``chunk``; zero weights meet what is read beyond."""
        return _ceil(self.depth, self.chunk) * self.chunk

    @property
    def steps(self) -> int:
        """Groups that are reduced at each tap."""
        return self.padded_depth // (1 if self.conv.depthwise else self.isa.group)

    @property
    def tap_count(self) -> int:
        """Product of the extents of the tap loops."""
        return math.prod(extent for extent, _ in self.taps)

    @property
    def panel_width(self) -> int:
        """Output channels that a panel computes; those beyond ``panel_lanes`` go nowhere."""
        return self.panel_lanes if self.conv.depthwise else self.isa.channels * self.vectors

    @property
    def sum_lanes(self) -> int:
        """Output channels whose sums lie side by side when the reduction is done."""
        lanes = self.isa.lanes if self.isa.pixels == 1 else self.panel_width
        return min(lanes, self.panel_width)

    def panel_starts(self) -> list[int]:
        """First output channel of each panel, counted in its group."""
        last = self.group_outputs - self.panel_lanes
        return [min(p * self.panel_lanes, last) for p in range(self.panels)]


def make_plan(problem: Conv2d | Matmul, isa: Isa, cut: Cut | None = None) -> Plan:
    """Cut a problem for an instruction set; the same arguments give the same plan.

    Args:
        problem: The convolution or product.
        isa: The instruction set.
        cut: One of `cuts`; by default the first.

    Raises:
        ShapeError: A tensor has more elements than an int32 index reaches.
    """
    conv = as_conv2d(problem)
    _, h, w, c = conv.x_shape
    _, oh, ow, outputs = conv.out_shape
    (kh, kw), (dh, dw), (sh, sw) = conv.kernel, conv.dilations, conv.strides
    depth, chunk = _depth(conv, isa)
    widened = isa.widened and not conv.depthwise
    if not conv.depthwise:
        outputs //= conv.groups
    copied = any(conv.pads) or depth % chunk != 0 or widened
    rows, cols = h, w
    if copied:
        rows, cols = (oh - 1) * sh + (kh - 1) * dh + 1, (ow - 1) * sw + (kw - 1) * dw + 1
    taps: tuple[tuple[int, int], ...] = ((kh, dh * cols * c), (kw, dw * c))
    if _run_of_taps(conv):
        taps = taps[:1]
    cut = cut or cuts(problem, isa)[0]
    width = isa.lanes if conv.depthwise else isa.channels
    lanes = min(outputs, width * cut.vectors)
    return Plan(
        conv=conv,
        isa=isa,
        copied=copied,
        source_dtype="int16" if widened else conv.x_dtype,
        source_rows=rows,
        source_cols=cols,
        taps=taps,
        depth=depth,
        chunk=chunk,
        tile=cut.tile,
        vectors=cut.vectors,
        tile_rows=cut.tile_rows,
        panel_lanes=lanes,
        panels=_ceil(outputs, lanes),
        cycles=cut.cycles * conv.x_shape[0] * (1 if conv.depthwise else conv.groups),
    )


def cuts(problem: Conv2d | Matmul, isa: Isa) -> list[Cut]:
    """Every way to cut the problem, in the order of the estimated time."""
    conv = as_conv2d(problem)
    depth, chunk = _depth(conv, isa)
    _, *pixels, outputs = conv.out_shape
    steps = math.prod(conv.kernel) * _ceil(depth, chunk)
    if _run_of_taps(conv):
        steps = conv.kernel[0] * _ceil(depth, chunk)
    size = (pixels[0], pixels[1])
    if conv.depthwise:
        return cut_vectors(size, outputs, steps, replace(isa, pixels=1), most_vectors=1)
    if isa.matrix:
        return cut_matrix(size, outputs // conv.groups, steps, isa)
    return cut_vectors(size, outputs // conv.groups, steps, isa, most_vectors=4)


def _run_of_taps(conv: Conv2d) -> bool:
    """Whether the taps of a row and their channels are contiguous in memory."""
    return conv.groups == 1 and conv.dilations[1] == 1


def _depth(conv: Conv2d, isa: Isa) -> tuple[int, int]:
    """Elements reduced at each tap, and how many of them one step takes."""
    if conv.depthwise:
        return 1, 1
    channels = conv.x_shape[3]
    depth = channels * conv.kernel[1] if _run_of_taps(conv) else channels // conv.groups
    return depth, _tile_bytes(depth) if isa.matrix else isa.group


def _tile_bytes(depth: int) -> int:
    """Bytes of each row of an AMX tile, so that as few tiles as possible cover the depth evenly."""
    return _ceil(_ceil(depth, _ceil(depth, TILE_BYTES)), 4) * 4
