"""The elementwise end of a tile: from int32 sums to stored outputs."""

from tvm.ir.expr import TensorLoad
from tvm.tirx.script import builder as T  # noqa: N812

from .plan import Plan
from .problem import Epilogue, Expr
from .tile import Tile, out_place

_BYTES = 64  # of one vector of the byte permute
_TABLE = 256


def store_tile(
    plan: Plan, tile: Tile, sums: list[Expr], epilogue: Epilogue, operands: list[Expr], out: Expr
) -> None:
    """Send a tile's sums through the epilogue, one vectorised loop over channels per pixel.

    An epilogue that ends in a look-up is cut before it where the ISA permutes bytes: loads at
    sixteen unrelated addresses would take longer than everything else.
    """
    lanes = min(plan.panel_width, plan.isa.lanes)
    width = min(lanes, plan.panel_lanes)
    pixels, vectors = plan.tile[0] * plan.tile[1], len(sums)
    size = -(-pixels * vectors * width // _BYTES) * _BYTES
    codes = T.alloc_buffer((size,), "uint8", layout=None) if plan.isa.permutes else None
    table = None
    with T.serial(pixels) as pixel:
        place = _place(plan, tile, out, pixel)
        for vector, total in enumerate(sums):
            first = _first_channel(plan, tile, vector * lanes)
            with T.vectorized(width) as lane:
                index = (*place, first + lane)
                value = epilogue.value(total[pixel * lanes + lane], operands, index)
                table = _final_table(plan, epilogue, operands, value)
                if table is None:
                    T.buffer_store(out, value, list(index))
                else:
                    code = T.cast(value.indices[0], "uint8")
                    T.buffer_store(codes, code, [(pixel * vectors + vector) * width + lane])
    if table is None:
        return
    found = T.alloc_buffer((size,), epilogue.dtype, layout=None)
    _permute(table, codes, found, size, epilogue.dtype)
    with T.serial(pixels) as pixel:
        place = _place(plan, tile, out, pixel)
        for vector in range(vectors):
            first = _first_channel(plan, tile, vector * lanes)
            with T.vectorized(width) as lane:
                value = found[(pixel * vectors + vector) * width + lane]
                T.buffer_store(out, value, [*place, first + lane])


def _place(plan: Plan, tile: Tile, out: Expr, pixel: Expr) -> tuple[Expr, ...]:
    cols = plan.tile[1]
    row, col = T.bind(tile.row + pixel // cols), T.bind(tile.col + pixel % cols)
    return out_place(plan, out, tile.image, row, col)


def _first_channel(plan: Plan, tile: Tile, past: int) -> Expr:
    return T.bind(tile.group * plan.group_outputs + tile.channel + past)


def _final_table(plan: Plan, epilogue: Epilogue, operands: list[Expr], value: Expr) -> Expr | None:
    """The 256-byte table that ``value`` is an element of, if the ISA can look 64 up at once."""
    if not plan.isa.permutes or not isinstance(value, TensorLoad):
        return None
    for operand, (shape, dtype) in zip(operands, epilogue.operands, strict=True):
        if value.source.same_as(operand) and shape == (_TABLE,) and dtype in ("uint8", "int8"):
            return operand
    return None


def _permute(table: Expr, codes: Expr, found: Expr, size: int, dtype: str) -> None:
    """found[i] = table[codes[i]], with the table in four registers.

    ``vpermi2b`` looks up 128 entries by the low seven bits of each code; its top bit chooses
    between two such halves (Intel SDM vol. 2, AVX512_VBMI).
    """
    kind = f"{dtype}x{_BYTES}"
    quarters = [T.bind(table[T.Ramp(i, 1, _BYTES)]) for i in range(0, _TABLE, _BYTES)]
    with T.serial(size // _BYTES) as i:
        span = T.Ramp(i * _BYTES, 1, _BYTES)
        code = T.bind(T.reinterpret(kind, codes[span]))
        low, high = (
            T.call_llvm_pure_intrin(kind, "llvm.x86.avx512.vpermi2var.qi.512", first, code, second)
            for first, second in (quarters[:2], quarters[2:])
        )
        upper = T.reinterpret(f"int8x{_BYTES}", codes[span]) < T.broadcast(T.int8(0), _BYTES)
        T.buffer_store(found, T.Select(upper, high, low), [span])
