"""Look-ups in tables of 256 bytes, a whole vector of codes at once.

Without the byte permute of `lookup`, ``pshufb`` looks up in 16 entries by the low four bits of each
code, and the high four bits choose among sixteen of those (Intel SDM vol. 2).
"""

from __future__ import annotations

from tvm.ir.prim.expr import Shuffle
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Expr

from .isa import Isa
from .lookup import BYTES, permute, quarters

TABLE = 256
_ROW = 16
_SHUFFLE = "llvm.x86.avx512.pshuf.b.512"


def looked_up_together(isa: Isa) -> int:
    """Codes that one look-up takes, or 0 where loads one by one are as fast.

    With 32 codes and no masks (AVX2) look-ups took a tenth longer than loads in DeiT-T's products.
    """
    return BYTES if "avx512bw" in isa.features else 0


def look_up(isa: Isa, table: Expr, codes: Expr, dtype: str, first: int = 0) -> Expr:
    """Entries of a table, a vector.

    Args:
        isa: An instruction set with `looked_up_together`.
        table: Buffer of uint8 or int8.
        codes: As many uint8 as are looked up together, a bound vector.
        dtype: Of the table.
        first: Where its 256 entries start.
    """
    if isa.permutes:
        return permute(quarters(table, first), codes, dtype)
    width = looked_up_together(isa)
    kind = f"uint8x{width}"
    low = T.bind(T.bitwise_and(codes, T.broadcast(T.uint8(_ROW - 1), width)))
    high = T.bind(T.bitwise_and(codes, T.broadcast(T.uint8(TABLE - _ROW), width)))

    def row(i: int) -> Expr:
        part = table[T.Ramp(first + i * _ROW, 1, _ROW)]
        repeated = Shuffle([part] * (width // _ROW), [T.int32(j) for j in range(width)])
        entries = T.reinterpret(kind, repeated)
        return T.call_llvm_pure_intrin(kind, _SHUFFLE, entries, low)

    found = row(0)
    for i in range(1, TABLE // _ROW):
        found = T.Select(high == T.broadcast(T.uint8(i * _ROW), width), row(i), found)
    return T.reinterpret(f"{dtype}x{width}", found)
