"""How large the tiles of a kernel are: all choices, ordered by a small model of the machine."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from .isa import Isa

_DOTS_PER_CYCLE = 2
_LOADS_PER_CYCLE = 2
_DOT_LATENCY = 4
_EPILOGUE_CYCLES = 8
_MOST_PIXELS = 15  # TVM keeps buffers below 1024 bytes on the stack: 15 pixels of 16 int32

TILE_ROWS = 16
"""Rows of an AMX tile."""
TILE_BYTES = 64
"""Bytes of each row."""
_TILES = 8  # registers
_TILE_START_CYCLES = 80  # first loads, the latency of the last product, stores

Pixels = tuple[int, int]
"""Output rows and columns."""


@dataclass(frozen=True)
class Cut:
    """A choice of tile.

    Attributes:
        tile: Output rows and columns of a tile.
        vectors: Accumulators per output pixel; on a matrix unit, AMX tiles side by side.
        tile_rows: Output pixels of one AMX tile; 0 elsewhere.
        cycles: Estimated time of one image and group on one core.
    """

    tile: Pixels
    vectors: int
    tile_rows: int
    cycles: float


def cut_vectors(pixels: Pixels, outputs: int, steps: int, isa: Isa, most_vectors: int) -> list[Cut]:
    """Tiles whose accumulators, weights and one operand fit the vector registers, quickest first.

    Args:
        pixels: Of the output.
        outputs: Output channels of one group.
        steps: Dot instructions that each accumulator takes.
        isa: The instruction set.
        most_vectors: Upper limit of `Cut.vectors`.
    """

    def cut(tile: Pixels, vectors: int) -> Cut:
        operands = math.ceil(math.prod(tile) / isa.pixels)
        dots = operands * vectors / _DOTS_PER_CYCLE
        loads = (operands * isa.pixels + vectors) / _LOADS_PER_CYCLE
        step = max(dots, loads, _DOT_LATENCY)
        cycles = steps * step + operands * vectors * _EPILOGUE_CYCLES
        panels = math.ceil(outputs / (isa.channels * vectors))
        return Cut(tile, vectors, 0, _count(pixels, tile) * panels * cycles)

    cuts = [cut(tile, v) for tile, v in _register_tiles(pixels, outputs, isa, most_vectors)]
    return sorted(cuts, key=_quickness)


def cut_matrix(pixels: Pixels, outputs: int, steps: int, isa: Isa) -> list[Cut]:
    """Tiles for AMX, quickest first: a·b accumulators, each of one operand of a rows and one of b.

    A product of tiles takes a cycle per row of its left operand, a load of a tile half a cycle per
    row (Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter on AMX: 16 and 8
    cycles for full tiles).

    Args:
        pixels: Of the output.
        outputs: Output channels of one group.
        steps: Products of tiles that each accumulator takes.
        isa: The instruction set.
    """

    def cut(tile: Pixels, rows: int, vectors: int) -> Cut:
        count = math.prod(tile) // rows
        products = count * rows * vectors
        loads = (count * rows + vectors * TILE_ROWS) / _LOADS_PER_CYCLE
        epilogue = math.prod(tile) * vectors * _EPILOGUE_CYCLES
        cycles = steps * max(products, loads) + _TILE_START_CYCLES + epilogue
        panels = math.ceil(outputs / (isa.lanes * vectors))
        return Cut(tile, vectors, rows, _count(pixels, tile) * panels * cycles)

    cuts = [cut(*choice) for choice in _matrix_tiles(pixels, outputs, isa)]
    return sorted(cuts, key=_quickness)


def _quickness(cut: Cut) -> tuple[float, int]:
    return cut.cycles, -math.prod(cut.tile)


def _count(pixels: Pixels, tile: Pixels) -> int:
    return math.ceil(pixels[0] / tile[0]) * math.ceil(pixels[1] / tile[1])


def _register_tiles(
    pixels: Pixels, outputs: int, isa: Isa, most_vectors: int
) -> Iterator[tuple[Pixels, int]]:
    """Tiles and vectors whose accumulators, weights and one operand fit the registers."""
    for vectors in range(1, most_vectors + 1):
        if vectors > 1 and isa.channels * vectors > outputs and isa.pixels == 1:
            return
        limit = min((isa.registers - vectors - 1) // vectors * isa.pixels, _MOST_PIXELS)
        for rows in range(1, min(pixels[0], limit) + 1):
            if rows > 1 and rows * pixels[1] > limit:
                break
            widest = min(limit // rows, pixels[1])
            yield (rows, math.ceil(pixels[1] / math.ceil(pixels[1] / widest))), vectors


def _matrix_tiles(pixels: Pixels, outputs: int, isa: Isa) -> Iterator[tuple[Pixels, int, int]]:
    """Tiles, pixels of each AMX tile and vectors whose operands and accumulators fit 8 tiles.

    AMX tiles lie side by side in one output row or, where a row fits in one of them, below each
    other: their rows have a constant distance in memory.
    """
    height, width = pixels
    for count in (1, 2, 3):
        for vectors in (1, 2, 3):
            if count * vectors + count + vectors > _TILES:
                continue
            if vectors > 1 and isa.lanes * vectors > outputs:
                continue
            across = math.ceil(width / (TILE_ROWS * count))
            rows = math.ceil(width / (across * count))
            if rows * count <= width:
                yield (1, rows * count), rows, vectors
            if 1 < count <= height and width <= TILE_ROWS:
                yield (count, width), width, vectors
