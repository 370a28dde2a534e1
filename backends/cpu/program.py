"""The library's functions: kernels with plain C signatures, and the program that calls them.

The program is C, since it does nothing but pass pointers: it is compiled behind `runtime.c`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx.compilation_pipeline import get_tir_pipeline, register_tir_pipeline

from qcompiler.backends.tvm.lower import Program
from qcompiler.backends.tvm.memory import ALIGNMENT, Constants, Lifetime, plan
from qcompiler.graph import Op

RUNTIME = Path(__file__).with_name("runtime.c")
CONSTANTS = "constants.bin"

PIPELINE = "qcompiler"
"""TVM's pipeline for kernels: the default one, for `plain` functions."""

_PACKED = 1
"""Calling convention of a function whose signature is final (CallingConv in TVM)."""

_CPU = 1


def plain(function: tirx.PrimFunc, symbol: str) -> tirx.PrimFunc:
    """The function as `int symbol(pointers)`: without checks, packing or assumed alignment."""
    pointers = [
        tirx.Var(f"p{i}", tvm.ir.PointerType(tvm.ir.PrimType(str(buffer.dtype))))
        for i, buffer in enumerate(function.params)
    ]
    declared = [
        tirx.DeclBuffer(buffer, data=pointer)
        for buffer, pointer in zip(function.params, pointers, strict=True)
    ]
    # Without a Return: memory of the body is freed behind it, where a Return would be in the way;
    # the code generator returns 0 at the end.
    body = tirx.SeqStmt([*declared, function.body])
    result = tirx.PrimFunc(pointers, body, ret_type=tvm.ir.PrimType("int32"))
    attributes = {
        "global_symbol": symbol,
        "calling_conv": _PACKED,
        "tirx.noalias": True,
        "s_tir": True,
    }
    return result.with_attrs(attributes)


def _on_cpu(
    function: tirx.PrimFunc, mod: tvm.IRModule, context: tvm.transform.PassContext
) -> tirx.PrimFunc:
    """Say where buffers are allocated, which `MakePackedAPI` says for the functions it makes."""
    body = function.body
    for key, value in (("device_id", 0), ("device_type", _CPU)):
        body = tirx.AttrStmt(tvm.ir.StringImm("default"), key, tirx.const(value, "int32"), body)
    return function.with_body(body)


def _pipeline() -> tuple[Any, Any, Any]:
    lowering, finish_host, finish_device = get_tir_pipeline("s_tir")
    on_cpu = tirx.transform.prim_func_pass(_on_cpu, opt_level=0)
    return (
        lowering,
        lambda: tvm.transform.Sequential([on_cpu, finish_host()]),
        finish_device,
    )


register_tir_pipeline(PIPELINE, _pipeline)


_CONSTANTS = f"""
__asm__(
    ".section .rodata\\n"
    ".balign {ALIGNMENT}\\n"
    "qc_constants: .incbin \\"{CONSTANTS}\\"\\n"
    ".byte 0\\n"
    ".text\\n");
extern char qc_constants[] __attribute__((visibility("hidden")));
"""


@dataclass(frozen=True)
class Main:
    """The programs in their final form.

    Attributes:
        source: C, runtime included; `qc_run` calls the kernels, `qc_close` ends its threads.
        constants: Offset and array of each constant, in increasing order.
        constant_bytes: Their size with gaps.
        workspace_bytes: Memory that one running call of each program needs.
    """

    source: str
    constants: tuple[tuple[int, np.ndarray], ...]
    constant_bytes: int
    workspace_bytes: tuple[int, ...]


def main(programs: Sequence[Program]) -> Main:
    """Place every value and emit the calls."""
    constants = Constants()
    prototypes: dict[str, str] = {}
    functions: list[str] = []
    sizes: list[int] = []
    for number, program in enumerate(programs):
        calls, workspace_bytes = _calls(program, constants, prototypes)
        functions += [
            f"static int program_{number}(char *const *arguments, char *workspace,",
            "                     int64_t *clock) {",
            "    if (clock) tick(clock);",
            *calls,
            "    return 0;",
            "}",
        ]
        sizes.append(workspace_bytes)
    entries = (f"{{program_{i}, {max(size, ALIGNMENT)}}}" for i, size in enumerate(sizes))
    table = [
        f"static const Program programs[] = {{{', '.join(entries)}}};",
        "static const Program *find(int number) { return &programs[number]; }",
        "",
    ]
    parts = (RUNTIME.read_text("utf-8"), _CONSTANTS, *prototypes.values(), *functions, *table)
    source = "\n".join(parts)
    return Main(source, tuple(constants.arrays), constants.nbytes, tuple(sizes))


def _calls(
    program: Program, constants: Constants, prototypes: dict[str, str]
) -> tuple[list[str], int]:
    """The statements of a program, and its workspace's bytes; prototypes are added."""
    offsets, workspace_bytes = _workspace(program)
    places = {x: f"arguments[{i}]" for i, x in enumerate((*program.graph.inputs, *program.results))}
    places |= {value: f"workspace + {offset}" for value, offset in offsets.items()}
    calls = []
    for i, call in enumerate(program.calls):
        arguments = [
            f"qc_constants + {constants.offset(x)}" if isinstance(x, np.ndarray) else places[x]
            for x in (*call.arguments, call.result)
        ]
        symbol = call.kernel.symbol
        prototypes[symbol] = f"int {symbol}({', '.join(['void *'] * len(arguments))});"
        calls.append(f"    if ({symbol}({', '.join(arguments)})) return 1;")
        calls.append(f"    if (clock) tick(clock + {i + 1});")
    return calls, workspace_bytes


def _workspace(program: Program) -> tuple[dict[Op, int], int]:
    results = set(program.results)
    last: dict[Op, int] = {}
    for step, call in enumerate(program.calls):
        for x in (*call.arguments, call.result):
            if isinstance(x, Op):
                last[x] = step
    values, lifetimes = [], []
    for step, call in enumerate(program.calls):
        value = call.result
        if value not in results:
            values.append(value)
            lifetimes.append(Lifetime(step, last[value], value.type.nbytes))
    offsets, total = plan(lifetimes)
    return dict(zip(values, offsets, strict=True)), total
