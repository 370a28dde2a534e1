"""PTX instructions that TIR has no word for, as device functions of one instruction each.

TVM's own table (`T.ptx`) keeps fragments in uint32 and the accumulators with them, which costs a
reinterpretation per element; these take the int32 registers as they are.  References: NVIDIA, "PTX
ISA", sections on `mma`, `ldmatrix` and `cp.async`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm_ffi
from tvm.backend.cuda.op import cuda_func_call
from tvm.tirx import Cast, Mul, PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

Expr = Any
"""A TIR expression; TVM ships no types."""


def _function(name: str, parameters: str, body: str) -> str:
    return f"\n__device__ __forceinline__ void {name}({parameters}) {{\n  {body}\n}}\n"


def mma_m16n8k32(dtype: str, d: Sequence[Expr], a: Sequence[Expr], b: Sequence[Expr]) -> None:
    """d += a·b on the tensor core: 16×32 codes of `dtype` by 32×8 of int8 (sm_80 and later).

    Args:
        dtype: "int8" or "uint8", what a holds.
        d: Four int32 registers: rows lane/4 and lane/4 + 8, columns lane%4·2 and the next.
        a: Four registers of four codes: rows lane/4 and + 8, then the same 16 columns further.
        b: Two registers of four codes: rows lane%4·4 … + 3 and 16 further, column lane/4.
    """
    kind = "s8" if dtype == "int8" else "u8"
    name = f"qc_mma_m16n8k32_{kind}"
    source = _function(
        name,
        "int& d0, int& d1, int& d2, int& d3, int a0, int a1, int a2, int a3, int b0, int b1",
        f'asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.{kind}.s8.s32 "\n'
        '    "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"\n'
        '    : "+r"(d0), "+r"(d1), "+r"(d2), "+r"(d3)\n'
        '    : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));',
    )
    T.evaluate(cuda_func_call(name, *d, *a, *b, source_code=source))


def mma_m8n8k16(dtype: str, d: Sequence[Expr], a: Expr, b: Expr) -> None:
    """d += a·b on the tensor core: 8×16 codes of `dtype` by 16×8 of int8 (sm_75)."""
    kind = "s8" if dtype == "int8" else "u8"
    name = f"qc_mma_m8n8k16_{kind}"
    source = _function(
        name,
        "int& d0, int& d1, int a, int b",
        f'asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.{kind}.s8.s32 "\n'
        '    "{%0,%1}, {%2}, {%3}, {%0,%1};"\n'
        '    : "+r"(d0), "+r"(d1) : "r"(a), "r"(b));',
    )
    T.evaluate(cuda_func_call(name, *d, a, b, source_code=source))


def mma_m16n8k32_in_parts(
    dtype: str, d: Sequence[Expr], a: Sequence[Expr], b: Sequence[Expr]
) -> None:
    """`mma_m16n8k32` in four steps (sm_75)."""
    for half in range(2):
        for rows in range(2):
            mma_m8n8k16(dtype, d[2 * rows : 2 * rows + 2], a[2 * half + rows], b[half])


def ldmatrix_x4(registers: Sequence[Expr], row: Expr) -> None:
    """Four 8×16-byte matrices from shared memory, in the order in which `mma` wants its rows.

    Args:
        registers: Register i receives bytes lane%4·4 … + 3 of row lane/4 of matrix i.
        row: The element of a shared buffer where row lane%8 of matrix lane/8 starts.
    """
    source = _function(
        "qc_ldmatrix_x4",
        "int& r0, int& r1, int& r2, int& r3, const void* row",
        'asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"\n'
        '    : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)\n'
        '    : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");',
    )
    call = cuda_func_call("qc_ldmatrix_x4", *registers, T.address_of(row), source_code=source)
    T.evaluate(call)


def cp_async(size: int, target: Expr, origin: Expr, count: Expr) -> None:
    """Copy from global to shared memory without waiting (sm_80 and later).

    Args:
        size: 4, 8 or 16 bytes, to which both addresses are aligned.
        target: An element of a shared buffer.
        origin: An element of a global buffer; within it even where nothing is read.
        count: `size`, or 0 to fill with zeros.
    """
    name = f"qc_cp_async_{size}"
    cache = "cg" if size == 16 else "ca"
    source = _function(
        name,
        "void* target, const void* origin, int count",
        f'asm volatile("cp.async.{cache}.shared.global [%0], [%1], {size}, %2;"\n'
        '    :: "r"((unsigned)__cvta_generic_to_shared(target)), "l"(origin), "r"(count)\n'
        '    : "memory");',
    )
    arguments = (T.address_of(target), T.address_of(origin), count)
    T.evaluate(cuda_func_call(name, *arguments, source_code=source))


def cp_async_commit() -> None:
    """Close a group of the thread's asynchronous copies."""
    source = _function(
        "qc_cp_async_commit", "", 'asm volatile("cp.async.commit_group;" ::: "memory");'
    )
    T.evaluate(cuda_func_call("qc_cp_async_commit", source_code=source))


def cp_async_wait(left: int) -> None:
    """Wait until at most `left` of the thread's newest groups are on their way."""
    name = f"qc_cp_async_wait_{left}"
    source = _function(name, "", f'asm volatile("cp.async.wait_group {left};" ::: "memory");')
    T.evaluate(cuda_func_call(name, source_code=source))


def transpose_4x4(registers: Sequence[Expr]) -> None:
    """Transpose 4×4 bytes in four registers: byte j of register i ↔ byte i of register j."""
    source = _function(
        "qc_transpose_4x4",
        "int& r0, int& r1, int& r2, int& r3",
        "int a = __byte_perm(r0, r1, 0x5140), b = __byte_perm(r2, r3, 0x5140);\n"
        "  int c = __byte_perm(r0, r1, 0x7362), d = __byte_perm(r2, r3, 0x7362);\n"
        "  r0 = __byte_perm(a, b, 0x5410), r1 = __byte_perm(a, b, 0x7632);\n"
        "  r2 = __byte_perm(c, d, 0x5410), r3 = __byte_perm(c, d, 0x7632);",
    )
    T.evaluate(cuda_func_call("qc_transpose_4x4", *registers, source_code=source))


def mul_wide(a: Expr, b: Expr) -> Expr:
    """The int64 product of two int32, in one instruction."""
    source = (
        "\n__device__ __forceinline__ int64_t qc_mul_wide(int a, int b) {\n  int64_t d;\n"
        '  asm("mul.wide.s32 %0, %1, %2;" : "=l"(d) : "r"(a), "r"(b));\n  return d;\n}\n'
    )
    return cuda_func_call("qc_mul_wide", a, b, source_code=source, return_type="int64")


def with_wide_products(function: PrimFunc) -> PrimFunc:
    """The function with `mul_wide` where two integers of at most 32 bits become an int64.

    The compiler sees that only as long as both conversions stand beside the product; where one is
    hoisted out of a loop, it would multiply 64 bits by 64.
    """

    def narrow(x: Expr) -> Expr | None:
        if not isinstance(x, Cast) or str(x.ty.dtype) != "int64":
            return None
        dtype = str(x.value.ty.dtype)
        if dtype == "int32":
            return x.value
        return T.cast(x.value, "int32") if dtype in _NARROW else None

    def product(x: Expr) -> Expr:
        a, b = narrow(x.a), narrow(x.b)
        return x if a is None or b is None else mul_wide(a, b)

    body = tvm_ffi.structural_map(function.body, (Mul, product), order="post")
    return function.with_body(body)


_NARROW = ("int8", "uint8", "int16", "uint16")
