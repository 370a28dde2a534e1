"""Tiles of products of two values: rows that are broadcast, columns that were packed."""

from dataclasses import dataclass

from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Expr

from .isa import Isa

SIGN_BIT = -128  # of an 8-bit code, as an int8
_SIGN_BITS = -0x7F7F7F80  # 0x80808080 as int32


@dataclass(frozen=True)
class Tile:
    """A tile of accumulators in registers.

    Attributes:
        isa: Whose dot instruction is used; it takes one row at a time (`Isa.pixels` is 1).
        rows: Rows.
        vectors: Vectors of `isa.lanes` columns.
        steps: Dot instructions per accumulator, of `isa.group` elements each.
        flips: Whether the rows' codes have the other signedness than the instruction takes: their
            sign bits are flipped, and `start` makes up for it.
    """

    isa: Isa
    rows: int
    vectors: int
    steps: int
    flips: bool = False

    def sums(self, row: Expr, column: Expr, start: Expr | None, into: Expr) -> None:
        """Emit the reduction.

        Args:
            row: `row(r, step)` gives the elements of a row for one step, a vector of `isa.group`.
            column: `column(step, vector)` gives the packed columns, a vector.
            start: `start(vector)` gives what the accumulators begin with; None for 0.
            into: `into(r, vector, total)` stores a finished accumulator.
        """
        lanes = self.isa.lanes
        span = [T.Ramp(0, 1, lanes)]
        accumulators = [
            [T.alloc_buffer((lanes,), "int32", layout=None) for _ in range(self.vectors)]
            for _ in range(self.rows)
        ]
        for accumulator in accumulators:
            for vector, total in enumerate(accumulator):
                first = T.broadcast(T.int32(0), lanes) if start is None else start(vector)
                T.buffer_store(total, first, span)
        with T.serial(self.steps) as step:
            for r, accumulator in enumerate(accumulators):
                for vector, total in enumerate(accumulator):
                    value = multiply_add(
                        self.isa, total[span[0]], row(r, step), column(step, vector), self.flips
                    )
                    T.buffer_store(total, value, span)
        for r, accumulator in enumerate(accumulators):
            for vector, total in enumerate(accumulator):
                into(r, vector, total[span[0]])


def multiply_add(isa: Isa, total: Expr, few: Expr, columns: Expr, flips: bool = False) -> Expr:
    """`total` plus `isa.group` elements of a row times those of each column."""
    lanes = isa.lanes
    wide = f"int32x{lanes}"
    if not isa.dot:
        return total + T.broadcast(T.cast(few, "int32"), lanes) * T.cast(columns, wide)
    word = T.reinterpret("int32", few)
    if isa.widened:
        pairs = T.reinterpret(f"int16x{2 * lanes}", T.broadcast(word, lanes))
        return total + T.call_llvm_pure_intrin(wide, isa.dot, pairs, columns)
    if flips:
        word = T.bitwise_xor(word, T.int32(_SIGN_BITS))
    codes = T.reinterpret(f"uint8x{4 * lanes}", T.broadcast(word, lanes))
    return T.call_llvm_pure_intrin(wide, isa.dot, total, codes, columns)


def operand_dtype(isa: Isa, dtype: str) -> str:
    """What 8-bit codes are stored as before a dot instruction reads them."""
    return "int16" if isa.widened else dtype


def needs_flip(isa: Isa, dtype: str) -> bool:
    """Whether a dot instruction takes rows of the other signedness only."""
    return bool(isa.dot) and not isa.widened and dtype != isa.takes
