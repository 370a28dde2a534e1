"""Matrix kernels for CPUs: convolution and constant-weight product, u8 or s8 by s8, exact.

Describe the problem, pack its weights once, build its kernel once::

    problem = Conv2d(x_shape=(1, 56, 56, 64), x_dtype="uint8", out_channels=64, kernel=(3, 3),
                     pads=(1, 1, 1, 1))          # or Matmul(x_shape, x_dtype, out_features)
    packed_weight, packed_bias = pack(problem, isa, weight, bias)
    function = build(problem, isa, epilogue, name="conv0")

The function takes x, packed weight, packed bias, the epilogue's operands, out.  Problems and `Isa`
are frozen and hashable: equal ones share a kernel.  `packed_types` tells shape and dtype of the
packed pair without packing.  `ISAS` lists the instruction sets, fastest first; the compilation
target needs the features of the one chosen.

``out`` must not share memory with any other argument.

Files: `problem` says what is computed, `plan` and `cost` how it is cut into tiles, `pack` how
weights lie in memory, `build` puts the function together from `tile`, `epilogue` and a reduction:
in vector registers (`reduction`), by pairs of pixels (`pairs`, Arm i8mm) or on AMX tiles
(`matrix`).
"""

from .build import build
from .cost import Cut
from .isa import (
    AMX_INT8,
    AVX2,
    AVX512_VNNI,
    AVX512_VNNI_VBMI,
    AVX_VNNI,
    DOTPROD,
    GENERIC,
    I8MM,
    ISAS,
    SSE2,
    Isa,
)
from .pack import pack, packed_types
from .plan import cuts

__all__ = [
    "AMX_INT8",
    "AVX2",
    "AVX512_VNNI",
    "AVX512_VNNI_VBMI",
    "AVX_VNNI",
    "DOTPROD",
    "GENERIC",
    "I8MM",
    "ISAS",
    "SSE2",
    "Cut",
    "Isa",
    "build",
    "cuts",
    "pack",
    "packed_types",
]
