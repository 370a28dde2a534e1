"""How a product is cut: tiles of blocks and of warps, stages of shared memory, chunks of copies.

A block computes `rows`×`columns` outputs.  Its warps share them out in `warp_rows`×`warp_columns`
tiles; where that leaves too few warps to hide latency, `split` warps have the same tile and each
takes its part of every stage's depth; their sums meet in shared memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qcompiler.backends.tvm.problem import Conv2d, Matmul, as_conv2d

MMA_DEPTH = 32
"""Codes of an operand's row that one `mma` reduces."""

CHUNK = 16
"""Bytes of a row that stay together in shared memory: what a lane gives `ldmatrix`."""

STATIC_SHARED = 48 << 10
"""Bytes of shared memory that every card gives without asking."""

_SHORTEST_SHIFTED = 8  # bytes of a run; shorter ones waste more products than gathering costs

# The model below was written for a card like A100 (108 multiprocessors); no card has measured it.
_MULTIPROCESSORS = 108
_MACS = 2048  # per cycle and multiprocessor, int8 tensor cores
_COPIED = 48  # bytes per cycle and multiprocessor that reach shared memory from L2
_STEP_LATENCY = 250  # cycles from a stage's barrier to the next, however little there is to do
_STEP_COST = 40  # cycles of a multiprocessor for barrier and addresses of a block's stage
_EPILOGUE = 8  # outputs per cycle and multiprocessor


@dataclass(frozen=True)
class Tile:
    """What one block does.

    Attributes:
        rows: Of the output.
        columns: Of the output.
        warp_rows: Rows of a warp's tile, a multiple of 16.
        warp_columns: Columns of a warp's tile, a multiple of 16.
        split: Warps that share one tile's depth.
        depth: Bytes of a row in one stage: 32, 64 or 128, a multiple of 32·split.
        stages: Stages of shared memory; one is computed on while the others are filled.
    """

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    split: int
    depth: int
    stages: int

    @property
    def warps(self) -> int:
        """Warps of a block."""
        tiles = (self.rows // self.warp_rows) * (self.columns // self.warp_columns)
        return tiles * self.split

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def steps(self) -> int:
        """`mma` steps of a stage for each of the `split` warps."""
        return self.depth // (MMA_DEPTH * self.split)

    @property
    def stage_bytes(self) -> int:
        """Shared memory of a stage: rows of the left operand, then packed columns of the right."""
        return (self.rows + self.columns) * self.depth

    @property
    def sum_columns(self) -> int:
        """Row length of the int32 sums in shared memory: 8 mod 32, which avoids conflicts."""
        return -(-(self.columns - 8) // 32) * 32 + 8

    @property
    def passes(self) -> int:
        """Rounds in which the sums go through shared memory, as many as it takes to fit."""
        fragments = self.warp_rows // 16
        for passes in range(1, fragments + 1):
            if fragments % passes == 0 and self.sum_bytes(passes) <= STATIC_SHARED:
                return passes
        raise AssertionError(f"{self} does not fit shared memory")

    def sum_bytes(self, passes: int) -> int:
        """Shared memory of the sums of one pass."""
        return self.split * (self.rows // passes) * self.sum_columns * 4

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        return max(self.stages * self.stage_bytes, self.sum_bytes(self.passes))


TILES = (
    Tile(128, 128, 64, 32, 1, 64, 3),
    Tile(128, 64, 64, 32, 1, 64, 4),
    Tile(64, 128, 32, 64, 1, 64, 4),
    Tile(64, 64, 32, 32, 1, 64, 4),
    Tile(64, 32, 32, 32, 2, 128, 4),
    Tile(32, 64, 32, 32, 2, 128, 4),
    Tile(32, 32, 32, 32, 4, 128, 4),
    Tile(32, 32, 16, 16, 1, 64, 4),
    Tile(16, 32, 16, 32, 4, 128, 4),
    Tile(16, 16, 16, 16, 4, 128, 4),
    Tile(128, 64, 64, 32, 1, 32, 4),
    Tile(128, 32, 32, 32, 1, 32, 4),
    Tile(64, 32, 16, 32, 1, 32, 4),
)
"""The tiles to choose from."""


@dataclass(frozen=True)
class Plan:
    """One kernel.

    Attributes:
        conv: The convolution, as NHWC; a matrix product is one with a window of 1×1.
        rows: Outputs without the channels: the rows of the matrix product.
        depth: Terms of each sum, those that fill runs up included.
        run: Terms that follow each other in memory: a row of the window, or one tap's channels.
        filled: The run, or the whole chunks that it is filled up to where it is not aligned; what
            is read beyond it meets zero weights.
        vector: Bytes of one copy, 16, 8 or 4; 1 where there is no alignment.
        tile: How it is cut.
    """

    conv: Conv2d
    rows: int
    depth: int
    run: int
    filled: int
    vector: int
    tile: Tile

    @property
    def shifted(self) -> bool:
        """Whether chunks are read as aligned words and shifted, rather than byte by byte."""
        return self.vector == 1 and self.filled % CHUNK == 0

    @property
    def columns(self) -> int:
        """Output channels."""
        return self.conv.out_channels

    @property
    def depth_tiles(self) -> int:
        """Stages that the depth takes."""
        return -(-self.depth // self.tile.depth)

    @property
    def row_tiles(self) -> int:
        """Blocks along the rows."""
        return -(-self.rows // self.tile.rows)

    @property
    def column_tiles(self) -> int:
        """Blocks along the columns."""
        return -(-self.columns // self.tile.columns)

    @property
    def packed_shape(self) -> tuple[int, int, int]:
        """Of the packed weight: 16 columns, 32 terms, the 512 bytes of both."""
        steps = self.depth_tiles * self.tile.depth // MMA_DEPTH
        return -(-self.columns // 16), steps, 16 * MMA_DEPTH


def make_plan(problem: Conv2d | Matmul, tile: Tile | None = None) -> Plan:
    """Cut a problem; the same arguments give the same plan.

    Args:
        problem: Without groups.
        tile: What the model would choose from `TILES` otherwise.

    Raises:
        ShapeError: A tensor has more elements than an int32 index reaches.
    """
    conv = as_conv2d(problem)
    _, _, width, channels = conv.x_shape
    (kh, kw), (_, sw) = conv.kernel, conv.strides
    rows, taps = math.prod(conv.out_shape[:3]), kh * kw
    run, vector = channels, _vector(channels)
    if not (conv.pads[1] or conv.pads[3]) and conv.dilations[1] == 1:
        window = math.gcd(kw * channels, sw * channels, width * channels)
        if _vector(window) >= vector:
            run, taps, vector = kw * channels, kh, _vector(window)
    filled = run
    if vector == 1 and run >= _SHORTEST_SHIFTED:
        filled = -(-run // CHUNK) * CHUNK
    depth = taps * filled
    if tile is None:
        tile = min(TILES, key=lambda t: cycles(t, rows, conv.out_channels, depth))
    return Plan(conv, rows, depth, run, filled, vector, tile)


def _vector(size: int) -> int:
    """The largest copy that a run of bytes and its start allow."""
    common = math.gcd(size, CHUNK)
    return common if common >= 4 else 1


def cycles(tile: Tile, rows: int, columns: int, depth: int) -> float:
    """Estimated time of a product: what the busiest multiprocessor does, or waits for."""
    blocks = -(-rows // tile.rows) * -(-columns // tile.columns)
    own = -(-blocks // _MULTIPROCESSORS)
    together = min(own, (100 << 10) // tile.shared_bytes, 1024 // tile.threads)
    products = tile.rows * tile.columns * tile.depth / _MACS
    copies = tile.stage_bytes / _COPIED
    stage = max(together * (max(products, copies) + _STEP_COST), _STEP_LATENCY)
    stages = -(-depth // tile.depth) + tile.stages - 1
    outputs = tile.rows * tile.columns * (1 + tile.split) / 2 / _EPILOGUE
    return -(-own // together) * (stages * stage + together * outputs)
