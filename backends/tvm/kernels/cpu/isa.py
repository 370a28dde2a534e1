"""Instruction sets that the CPU kernels are generated for, as data.

Each set multiplies groups of neighbouring reduction elements and adds them into int32 lanes:

* VNNI: ``vpdpbusd``, four u8·s8 products per lane, exact in int32 (Intel SDM vol. 2C);
* AVX2: ``vpmaddwd``, two s16·s16 products per lane, exact in int32.  ``vpmaddubsw`` saturates and
  is never used;
* generic: one product per lane, written as plain vector arithmetic for LLVM to lower.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Isa:
    """What a kernel builder has to know about an instruction set.

    Attributes:
        name: For messages and symbol names.
        features: LLVM features that the compilation target must have.
        mcpu: The oldest LLVM CPU that has them; empty for LLVM's default.
        lanes: int32 lanes of one accumulator.
        registers: Vector registers of that many lanes.
        group: Neighbouring reduction elements that one dot instruction takes.
        dot: LLVM intrinsic of that instruction; empty for plain arithmetic.
        widened: Whether both operands of it are int16 instead of 8 bit.
    """

    name: str
    features: tuple[str, ...]
    mcpu: str
    lanes: int
    registers: int
    group: int
    dot: str = ""
    widened: bool = False


AVX512_VNNI = Isa(
    name="avx512_vnni",
    features=("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"),
    mcpu="cascadelake",
    lanes=16,
    registers=32,
    group=4,
    dot="llvm.x86.avx512.vpdpbusd.512",
)
AVX_VNNI = Isa(
    name="avx_vnni",
    features=("avx2", "avxvnni"),
    mcpu="alderlake",
    lanes=8,
    registers=16,
    group=4,
    dot="llvm.x86.avx512.vpdpbusd.256",
)
AVX2 = Isa(
    name="avx2",
    features=("avx2",),
    mcpu="haswell",
    lanes=8,
    registers=15,  # the product needs one before it is added
    group=2,
    dot="llvm.x86.avx2.pmadd.wd",
    widened=True,
)
GENERIC = Isa(name="generic", features=(), mcpu="", lanes=8, registers=15, group=1)

ISAS: tuple[Isa, ...] = (AVX512_VNNI, AVX_VNNI, AVX2, GENERIC)
"""Fastest first."""
