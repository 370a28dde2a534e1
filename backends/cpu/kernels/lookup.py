"""Tables of 256 bytes in registers."""

from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Expr

BYTES = 64  # of one vector of the byte permute
_TABLE = 256


def quarters(table: Expr, first: int = 0) -> list[Expr]:
    """A table of 256 8-bit values from `first` on, bound to four vectors."""
    return [T.bind(table[T.Ramp(first + i, 1, BYTES)]) for i in range(0, _TABLE, BYTES)]


def permute(table: list[Expr], codes: Expr, dtype: str) -> Expr:
    """64 entries of the table at 64 uint8 codes, a bound vector.

    ``vpermi2b`` looks up 128 entries by the low seven bits of each code; its top bit chooses
    between two such halves (Intel SDM vol. 2, AVX512_VBMI).
    """
    kind = f"{dtype}x{BYTES}"
    index = T.reinterpret(kind, codes)
    low, high = (
        T.call_llvm_pure_intrin(kind, "llvm.x86.avx512.vpermi2var.qi.512", first, index, second)
        for first, second in (table[:2], table[2:])
    )
    upper = T.reinterpret(f"int8x{BYTES}", codes) < T.broadcast(T.int8(0), BYTES)
    return T.Select(upper, high, low)
