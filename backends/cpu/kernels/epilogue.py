"""The elementwise end of a tile: from int32 sums to stored outputs."""

from dataclasses import dataclass

from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Epilogue, Expr, Scalar, TableEnd, Vector

from .isa import Isa
from .lookup import BYTES
from .plan import Plan
from .requantize import load_vector
from .shuffle import look_up, looked_up_together
from .tile import Tile, out_place

_TABLE_BITS = 8
_TABLE = 1 << _TABLE_BITS
_MOST_TABLES = 8
END_BYTES = 960
"""Of each spare buffer: what TVM keeps on the stack, and a multiple of a permute."""


def spare_dtypes(plan: Plan, epilogue: Epilogue, operands: list[Expr]) -> tuple[str, ...]:
    """Of the buffers that `store_tile` needs: codes, what the table has for them, kinds."""
    if _final_table(plan, epilogue, operands) is None:
        return ()
    return "uint8", epilogue.dtype, "uint8"


@dataclass(frozen=True)
class _End:
    """The epilogue of one tile."""

    plan: Plan
    tile: Tile
    sums: list[Expr]
    epilogue: Epilogue
    operands: list[Expr]
    out: Expr

    @property
    def width(self) -> int:
        """Channels that one vectorised loop stores."""
        return min(self.plan.sum_lanes, self.plan.panel_lanes)

    def place(self, pixel: Expr) -> tuple[Expr, ...]:
        """Output index of a pixel of the tile, without the channel."""
        cols = self.plan.tile[1]
        row, col = T.bind(self.tile.row + pixel // cols), T.bind(self.tile.col + pixel % cols)
        return out_place(self.plan, self.out, self.tile.image, row, col)

    def first_channel(self, vector: int) -> Expr:
        """Of a vector of sums."""
        past = vector * self.plan.sum_lanes
        return T.bind(self.tile.group * self.plan.group_outputs + self.tile.channel + past)

    def on_element(
        self, form: Scalar, vector: int, pixel: Expr, place: tuple[Expr, ...], lane: Expr
    ) -> Expr:
        """A form of the epilogue, at an output index."""
        total = self.sums[vector][pixel * self.plan.sum_lanes + lane]
        return form(total, self.operands, place)

    def on_vector(self, form: Vector, vector: int, pixel: Expr, place: tuple[Expr, ...]) -> Expr:
        """A form of the epilogue, of the channels from an output index on."""
        span = T.Ramp(pixel * self.plan.sum_lanes, 1, self.width)
        return form(self.sums[vector][span], self.operands, place, self.width)


def store_tile(
    plan: Plan,
    tile: Tile,
    sums: list[Expr],
    epilogue: Epilogue,
    operands: list[Expr],
    out: Expr,
    spare: list[Expr] | None = None,
) -> None:
    """Send a tile's sums through the epilogue, one vectorised loop over channels per pixel.

    An epilogue that ends in a look-up is cut before it where the ISA looks up vectors: loads at
    sixteen unrelated addresses would take longer than everything else.

    Args:
        plan: The kernel's loops.
        tile: Where the tile lies.
        sums: int32 [pixels · lanes] per vector of channels.
        epilogue: What is stored for each sum.
        operands: Its buffers.
        out: The result.
        spare: Buffers of `END_BYTES` elements of `spare_dtypes`, if not on the stack.
    """
    end = _End(plan, tile, sums, epilogue, operands, out)
    table = _final_table(plan, epilogue, operands)
    if epilogue.table is None or table is None:
        _store_values(end)
    else:
        _store_found(end, epilogue.table, table, spare)


def _store_values(end: _End) -> None:
    with T.serial(end.plan.tile[0] * end.plan.tile[1]) as pixel:
        place = end.place(pixel)
        for vector in range(len(end.sums)):
            first = end.first_channel(vector)
            if end.epilogue.vector is not None and end.width % 4 == 0:
                codes = end.on_vector(end.epilogue.vector, vector, pixel, (*place, first))
                T.buffer_store(end.out, codes, [*place, T.Ramp(first, 1, end.width)])
                continue
            with T.vectorized(end.width) as lane:
                index = (*place, first + lane)
                value = end.on_element(end.epilogue.value, vector, pixel, index, lane)
                T.buffer_store(end.out, value, list(index))


def _store_found(end: _End, looked_up: TableEnd, table: Expr, spare: list[Expr] | None) -> None:
    """What the table has for each value's code: all codes first, then 64 look-ups at once.

    Codes that were just stored would stall a load that is wider than their stores.
    """
    pixels, vectors, width = end.plan.tile[0] * end.plan.tile[1], len(end.sums), end.width
    bytes_ = vectors * width
    parts = -(-pixels * bytes_ // END_BYTES)
    count = -(-pixels // parts)
    size = -(-count * bytes_ // BYTES) * BYTES
    tables = int(table.shape[0]) // _TABLE
    if spare is None:
        dtypes = ("uint8", end.epilogue.dtype, "uint8")
        spare = [T.alloc_buffer((size,), dtype, layout=None) for dtype in dtypes]
    codes, found, every_kind = spare
    kinds = every_kind if tables > 1 else None
    with T.serial(parts) as part:
        start = T.bind(T.min(part * count, pixels - count))
        with T.serial(count) as pixel:
            place = end.place(start + pixel)
            for vector in range(vectors):
                at = pixel * bytes_ + vector * width
                _store_codes(end, looked_up, vector, start + pixel, place, codes, kinds, at)
        isa, dtype = end.plan.isa, end.epilogue.dtype
        with T.serial(size // BYTES) as i:
            span = T.Ramp(i * BYTES, 1, BYTES)
            kind = None if kinds is None else kinds[span]
            T.buffer_store(found, _looked_up(isa, table, codes[span], kind, dtype), [span])
        with T.serial(count) as pixel:
            place = end.place(start + pixel)
            for vector in range(vectors):
                first = end.first_channel(vector)
                with T.vectorized(width) as lane:
                    code = found[pixel * bytes_ + vector * width + lane]
                    T.buffer_store(end.out, code, [*place, first + lane])


def _store_codes(
    end: _End,
    table: TableEnd,
    vector: int,
    pixel: Expr,
    place: tuple[Expr, ...],
    codes: Expr,
    kinds: Expr | None,
    at: Expr,
) -> None:
    """The codes of one pixel, from ``codes[at]`` on, and the kind of table of each channel."""
    first, rows = end.first_channel(vector), table.rows
    known = kinds is None or rows is not None
    if table.codes is not None and known and end.width % 4 == 0:
        span = T.Ramp(at, 1, end.width)
        values = end.on_vector(table.codes, vector, pixel, (*place, first))
        T.buffer_store(codes, values, [span])
        if kinds is not None and rows is not None:
            row = load_vector(end.operands[rows], (*place, first), "int32", end.width)
            kind = row >> T.broadcast(T.int32(_TABLE_BITS), end.width)
            T.buffer_store(kinds, T.cast(kind, f"uint8x{end.width}"), [span])
        return
    with T.vectorized(end.width) as lane:
        found = end.on_element(table.index, vector, pixel, (*place, first + lane), lane)
        T.buffer_store(codes, T.cast(found, "uint8"), [at + lane])
    if kinds is not None:
        with T.vectorized(end.width) as lane:
            found = end.on_element(table.index, vector, pixel, (*place, first + lane), lane)
            T.buffer_store(kinds, T.cast(found >> _TABLE_BITS, "uint8"), [at + lane])


def _final_table(plan: Plan, epilogue: Epilogue, operands: list[Expr]) -> Expr | None:
    """The byte table that the values are elements of, if the ISA can look 64 up at once.

    Where channels have tables of their own, one behind the other, these are few.
    """
    if epilogue.table is None or not looked_up_together(plan.isa):
        return None
    shape, dtype = epilogue.operands[epilogue.table.operand]
    few = shape in [(_TABLE * i,) for i in range(1, _MOST_TABLES + 1)]
    return operands[epilogue.table.operand] if few and dtype in ("uint8", "int8") else None


def _looked_up(isa: Isa, table: Expr, codes: Expr, kinds: Expr | None, dtype: str) -> Expr:
    """A vector of entries: at each code, of the table that the lane's kind names."""
    first = T.bind(codes)
    found = look_up(isa, table, first, dtype)
    if kinds is None:
        return found
    kind = T.bind(kinds)
    for i in range(1, int(table.shape[0]) // _TABLE):
        other = look_up(isa, table, first, dtype, i * _TABLE)
        found = T.Select(kind == T.broadcast(T.uint8(i), BYTES), other, found)
    return found
