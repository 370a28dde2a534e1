"""The reduction of one tile on AMX: products of tiles of 16 rows of 64 bytes.

Intel SDM vol. 1, chapter 18: a tile register has rows of bytes as its thread's configuration says;
``tdpbusd c, a, b`` adds to c[i][j] the products of a[i][4·k…4·k+3] and b[k][4·j…4·j+3] for all k.
A row of a is a chunk of the reduction at one output pixel, read in place; a row of b is one group
of the packed weight.  The instructions name their registers, so nothing else may use them between
the two ends of `tiles`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.ir import PointerType, PrimType
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Expr

from .cost import TILE_BYTES
from .plan import Plan
from .reduction import pixel_distance, source_base, tap_loops
from .tile import Tile

_CPU = 1  # TVM's number of the device
_PALETTE = 1
_ROW_BYTES_AT, _ROWS_AT = 16, 48  # in the configuration


def tile_configuration(plan: Plan) -> Expr:
    """A buffer with what each thread's `tiles` are configured by."""
    config = T.alloc_buffer((TILE_BYTES // 4,), "int32", layout=None)
    for word, value in enumerate(_configuration(plan)):
        T.buffer_store(config, T.int32(value), [word])
    return config


@dataclass(frozen=True)
class Scratch:
    """Memory of one thread.

    Attributes:
        sums: int32 [pixels · lanes] per tile of channels.
        waiting: int32 [1]: the iteration whose sums these are, -1 if none.
        spare: Buffers for the epilogue.
    """

    sums: list[Expr]
    waiting: Expr
    spare: list[Expr]


@contextmanager
def tiles(plan: Plan, config: Expr, spare: tuple[str, ...], length: int) -> Iterator[Scratch]:
    """Configure this thread's registers, and give them back; memory for what is in between.

    The epilogue gets spare buffers of these dtypes and of this length.  Memory is asked for by hand
    because TVM would put it outside of the parallel launch, where all threads would share it.
    """
    size = plan.tile[0] * plan.tile[1] * plan.isa.lanes
    wanted = [("int32", size)] * plan.vectors + [("int32", 1)]
    wanted += [(dtype, length) for dtype in spare]
    memory = [T.bind(_allocate(dtype, elements)) for dtype, elements in wanted]
    _tile_op("ldtilecfg", T.address_of(config[0]))
    buffers = [
        T.decl_buffer((elements,), dtype, data=each, layout=None)
        for (dtype, elements), each in zip(wanted, memory, strict=True)
    ]
    sums, (waiting, *rest) = buffers[: plan.vectors], buffers[plan.vectors :]
    scratch = Scratch(sums, waiting, rest)
    T.buffer_store(scratch.waiting, T.int32(-1), [0])
    yield scratch
    _tile_op("tilerelease")
    for each in reversed(memory):
        T.evaluate(T.call_extern("int32", "TVMBackendFreeWorkspace", _CPU, 0, each))


def _allocate(dtype: str, elements: int) -> Expr:
    """Memory from the pool of the thread that asks."""
    pointer, nbytes = PointerType(PrimType(dtype)), elements * np.dtype(dtype).itemsize
    return tirx.call_extern(pointer, "TVMBackendAllocWorkspace", _CPU, 0, T.uint64(nbytes), 0, 8)


def accumulate_tiles(plan: Plan, tile: Tile, source: Expr, weight: Expr, bias: Expr) -> None:
    """Reduce a tile over taps and depth, in registers."""
    conv, lanes = plan.conv, plan.isa.lanes
    totals, rights, lefts = _registers(plan)
    distance = T.int64(conv.strides[1] * conv.x_shape[3])  # bytes between pixels
    for row in totals:
        for b, total in enumerate(row):
            same = T.address_of(bias[tile.panel, b * lanes])
            _tile_op("tileloadd64", total, same, T.int64(0))  # in each row
    dot = "tdpbusd" if conv.x_dtype == "uint8" else "tdpbssd"
    base = source_base(plan, tile)
    with tap_loops(plan, plan.padded_depth // plan.chunk) as (tap, offset, step):
        offset = T.bind(base + offset + step * plan.chunk)
        k = T.bind(tap * plan.steps + step * (plan.chunk // plan.isa.group))
        for a, (left, away) in enumerate(zip(lefts, _tile_places(plan), strict=True)):
            _tile_op("tileloadd64", left, T.address_of(source[offset + away]), distance)
            for b, right in enumerate(rights):
                if a == 0:
                    place = T.address_of(weight[tile.panel, k, b * TILE_BYTES])
                    _tile_op("tileloadd64", right, place, T.int64(plan.vectors * TILE_BYTES))
                _tile_op(dot, totals[a][b], left, right)


def store_sums(plan: Plan, sums: list[Expr]) -> None:
    """Bring what `accumulate_tiles` has reduced to memory."""
    lanes = plan.isa.lanes
    for a, row in enumerate(_registers(plan)[0]):
        for total, buffer in zip(row, sums, strict=True):
            place = T.address_of(buffer[a * plan.tile_rows * lanes])
            _tile_op("tilestored64", total, place, T.int64(4 * lanes))


def _registers(plan: Plan) -> tuple[list[list[int]], list[int], list[int]]:
    """Numbers of the accumulators, by pixels and channels, of the right and the left operands."""
    count, vectors = len(_tile_places(plan)), plan.vectors
    products = count * vectors
    totals = [list(range(a * vectors, (a + 1) * vectors)) for a in range(count)]
    rights = list(range(products, products + vectors))
    return totals, rights, list(range(products + vectors, products + vectors + count))


def _tile_places(plan: Plan) -> list[int]:
    """Elements of the source from the first pixel of the tile to that of each AMX tile."""
    rows, cols = plan.tile
    return [pixel_distance(plan, i, j) for i in range(rows) for j in range(0, cols, plan.tile_rows)]


def _configuration(plan: Plan) -> list[int]:
    """The 64 bytes that ``ldtilecfg`` reads, as int32 words."""
    totals, rights, lefts = _registers(plan)
    config = bytearray(TILE_BYTES)
    config[0] = _PALETTE

    def shape(register: int, rows: int, row_bytes: int) -> None:
        config[_ROWS_AT + register] = rows
        at = _ROW_BYTES_AT + 2 * register
        config[at : at + 2] = row_bytes.to_bytes(2, "little")

    for row in totals:
        for register in row:
            shape(register, plan.tile_rows, 4 * plan.isa.lanes)
    for register in rights:
        shape(register, plan.chunk // plan.isa.group, TILE_BYTES)
    for register in lefts:
        shape(register, plan.tile_rows, plan.chunk)
    words = range(0, TILE_BYTES, 4)
    return [int.from_bytes(config[i : i + 4], "little", signed=True) for i in words]


def _tile_op(name: str, *operands: Expr) -> None:
    """A tile instruction; plain numbers are registers."""
    values = [T.uint8(v) if isinstance(v, int) else v for v in operands]
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *values))
