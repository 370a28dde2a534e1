"""Instruction sets that the CPU kernels are generated for, as data.

Each set multiplies groups of neighbouring reduction elements and adds them into int32 lanes:

* VNNI: ``vpdpbusd``, four u8·s8 products per lane, exact in int32 (Intel SDM vol. 2C);
* AMX: ``tdpbusd`` and ``tdpbssd``, 16·16·64 products of tiles of 16 rows of 64 bytes (chapter 18
  of vol. 1); what is no matrix product uses the VNNI of the same CPU;
* AVX2, SSE2: ``pmaddwd``, two s16·s16 products per lane, exact in int32 (``pmaddubsw`` saturates
  and is never used);
* Arm dotprod: ``sdot``, four s8·s8 products per lane; i8mm: ``smmla`` and ``usmmla``, eight
  products for each of two pixels by two channels (Arm Architecture Reference Manual, C7.2);
* generic: one product per lane, written as plain vector arithmetic for LLVM to lower.
"""

from dataclasses import dataclass, replace

from tvm.target import Target, codegen


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
        permutes: Whether ``vpermi2b`` can look up a 256-byte table.
        takes: Type of the left operand of ``dot`` where it is 8 bit; the other is int8.
        int8_dot: The same for a left operand of int8 codes, where ``dot`` takes uint8; where there
            is none, the codes' sign bits are flipped.
        pixels: Pixels that one dot instruction takes: its lanes are pixels times channels.
        matrix: Whether there are AMX tiles for matrix products, besides all that is said above.
    """

    name: str
    features: tuple[str, ...]
    mcpu: str
    lanes: int
    registers: int
    group: int
    dot: str = ""
    widened: bool = False
    permutes: bool = False
    takes: str = "uint8"
    int8_dot: str = ""
    pixels: int = 1
    matrix: bool = False

    @property
    def channels(self) -> int:
        """Output channels of one accumulator."""
        return self.lanes // self.pixels


AVX512_VNNI = Isa(
    name="avx512_vnni",
    features=("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"),
    mcpu="cascadelake",
    lanes=16,
    registers=32,
    group=4,
    dot="llvm.x86.avx512.vpdpbusd.512",
)
AVX512_VNNI_VBMI = replace(
    AVX512_VNNI,
    name="avx512_vnni_vbmi",
    features=(*AVX512_VNNI.features, "avx512vbmi"),
    mcpu="icelake-server",
    permutes=True,
)
AMX_INT8 = replace(
    AVX512_VNNI_VBMI,
    name="amx_int8",
    features=(*AVX512_VNNI_VBMI.features, "amx-tile", "amx-int8"),
    mcpu="sapphirerapids",
    matrix=True,
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
SSE2 = Isa(
    name="sse2",
    features=("sse2",),
    mcpu="x86-64",
    lanes=4,
    registers=15,
    group=2,
    dot="llvm.x86.sse2.pmadd.wd",
    widened=True,
)
I8MM = Isa(
    name="i8mm",
    features=("i8mm",),
    mcpu="neoverse-v1",
    lanes=4,
    registers=30,  # one that is left over is too few for LLVM's allocator
    group=8,
    dot="llvm.aarch64.neon.usmmla.v4i32.v16i8",
    int8_dot="llvm.aarch64.neon.smmla.v4i32.v16i8",
    pixels=2,
)
DOTPROD = Isa(
    name="dotprod",
    features=("dotprod",),
    mcpu="cortex-a76",
    lanes=4,
    registers=30,
    group=4,
    dot="llvm.aarch64.neon.sdot.v4i32.v16i8",
    takes="int8",
)
GENERIC = Isa(name="generic", features=(), mcpu="", lanes=8, registers=15, group=1)

ISAS: tuple[Isa, ...] = (
    AMX_INT8,
    AVX512_VNNI_VBMI,
    AVX512_VNNI,
    AVX_VNNI,
    AVX2,
    SSE2,
    I8MM,
    DOTPROD,
    GENERIC,
)
"""Fastest first, those of each architecture."""


def best_isa(target: Target, *, one_pixel: bool = False) -> Isa:
    """The fastest instruction set that the target has.

    Args:
        target: TVM's form.
        one_pixel: Only those whose dot instruction takes one row at a time (`Isa.pixels` is 1).
    """
    for isa in ISAS:
        has = all(codegen.target_has_features(feature, target) for feature in isa.features)
        if has and not (one_pixel and isa.pixels > 1):
            return isa
    raise AssertionError("the generic instruction set needs nothing")
