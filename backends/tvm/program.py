"""The library's functions: kernels with plain C signatures, and the program that calls them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.compilation_pipeline import get_tir_pipeline, register_tir_pipeline
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.lower import Program
from qcompiler.backends.tvm.memory import Lifetime, aligned, plan
from qcompiler.graph import Op

ENTRY = "qc_run"
"""The packed function of a library: inputs and outputs as tensors, in the order of the graph."""

WEIGHTS = "qc_weights"
"""C function: offset → address of a constant."""

AT = "qc_at"
"""C function: base, offset → address."""

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


@dataclass(frozen=True)
class Main:
    """The program in its final form.

    Attributes:
        function: Calls the kernels.
        constants: Offset and array of each constant, in increasing order.
        constant_bytes: Their size with gaps.
        workspace_bytes: Memory that one running call needs.
    """

    function: tirx.PrimFunc
    constants: tuple[tuple[int, np.ndarray], ...]
    constant_bytes: int
    workspace_bytes: int


def main(program: Program) -> Main:
    """Place every value and emit the calls."""
    offsets, workspace_bytes = _workspace(program)
    constants = _Constants()
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(ENTRY)
        T.func_attr({"global_symbol": ENTRY})
        pointers: dict[Op, Any] = {
            x: _argument(f"input{i}", x) for i, x in enumerate(program.graph.inputs)
        }
        declared = program.graph.outputs.values()  # in their shape, which a reshape may have made
        for i, (y, value) in enumerate(zip(declared, program.results, strict=True)):
            pointers[value] = _argument(f"output{i}", y)
        if workspace_bytes:
            base = T.bind(_allocate(workspace_bytes))
            for value, offset in offsets.items():
                pointers[value] = T.call_extern("handle", AT, base, T.int64(offset))
        for call in program.calls:
            arguments = [
                T.call_extern("handle", WEIGHTS, T.int64(constants.offset(x)))
                if isinstance(x, np.ndarray)
                else pointers[x]
                for x in (*call.arguments, call.result)
            ]
            T.evaluate(T.call_extern("int32", call.kernel.symbol, *arguments))
        if workspace_bytes:
            T.evaluate(T.call_extern("int32", "TVMBackendFreeWorkspace", _CPU, 0, base))
    return Main(builder.get(), tuple(constants.arrays), constants.nbytes, workspace_bytes)


def _argument(name: str, value: Op) -> Any:
    buffer = T.buffer(value.type.shape, value.type.dtype, layout=None)
    return T.arg(name, buffer).data


def _allocate(nbytes: int) -> Any:
    """Memory from the calling thread's pool, so that threads do not share a workspace."""
    return T.call_extern("handle", "TVMBackendAllocWorkspace", _CPU, 0, T.uint64(nbytes), 0, 8)


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


class _Constants:
    """Constants behind one another, equal ones once."""

    def __init__(self) -> None:
        self.arrays: list[tuple[int, np.ndarray]] = []
        self.nbytes = 0
        self._known: dict[tuple[str, bytes], int] = {}

    def offset(self, array: np.ndarray) -> int:
        contents = np.ascontiguousarray(array)
        key = (str(array.dtype), hashlib.sha256(contents.data).digest())
        if key not in self._known:
            self._known[key] = self.nbytes
            self.arrays.append((self.nbytes, contents))
            self.nbytes += aligned(contents.nbytes)
        return self._known[key]
