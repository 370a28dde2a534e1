"""From a function with thread bindings to CUDA functions and the launches that call them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad
from tvm.sym import Analyzer
from tvm.target import Target

from qcompiler.errors import TargetError

TARGET = Target(
    {
        "kind": "cuda",
        "arch": "sm_75",
        "max_num_threads": 1024,
        "max_threads_per_block": 1024,
        "thread_warp_size": 32,
        "max_shared_memory_per_block": 232448,  # of sm_90; the driver refuses what is too much
    }
).with_host(Target("llvm"))
"""What CUDA source is generated for: no pass looks at the architecture, kernels have chosen."""

_DEVICE = 2
"""Calling convention of a device function (CallingConv in TVM)."""

_AXES = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z")
_SHARED = "tirx.use_dyn_shared_memory"


@dataclass(frozen=True)
class Launch:
    """One launch of a CUDA function.

    Attributes:
        symbol: The function.
        grid: Blocks in x, y and z.
        block: Threads in x, y and z.
        shared_bytes: Dynamic shared memory of a block.
        arguments: For each pointer that it takes, which of the kernel's parameters, and behind
            those, of its temporaries, that is.
    """

    symbol: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Launches:
    """A kernel in its final form.

    Attributes:
        functions: The device's half, lowered.
        sequence: In order.
        temporaries: Bytes of device memory that is used between the launches.
    """

    functions: tvm.IRModule
    sequence: tuple[Launch, ...]
    temporaries: tuple[int, ...]


def launches(function: tirx.PrimFunc, symbol: str) -> Launches:
    """Lower a function whose loops are bound to blocks and threads.

    Args:
        function: Buffer parameters of static shape; several nests of bound loops become several
            launches.
        symbol: Its name; device functions are called that, with a suffix.

    Raises:
        TargetError: it has code outside bound loops, or sizes that are not static.
    """
    named = _without_fences(function).with_attr("global_symbol", symbol)
    passes = _SCHEDULED if isinstance(function.body, s_tir.SBlockRealize) else _WRITTEN
    with TARGET:
        module = passes(tirx.transform.BindTarget(TARGET)(tvm.IRModule({symbol: named})))
        device = tvm.IRModule(
            {
                name: f
                for name, f in module.functions.items()
                if int(f.attrs.get("calling_conv", 0)) == _DEVICE
            }
        )
        device = _FINISH(device)
    host = _Host(symbol, module[symbol])
    return Launches(device, tuple(host.sequence), tuple(host.temporaries))


def source(kernels: Iterable[Launches]) -> str:
    """CUDA C of all functions."""
    module = tvm.IRModule({})
    for kernel in kernels:
        module.update(kernel.functions)
    return str(tvm.get_global_func("target.build.cuda")(module, TARGET).inspect_source())


def _without_fences(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """Products of floats as they are: nvcc is told not to contract them."""

    def plain(call: Any) -> Any:
        name = getattr(call.op, "name", "")
        is_fence = name == "tirx.call_llvm_pure_intrin" and int(call.args[0]) == _fence()
        return call.args[-1] if is_fence else call

    body = tvm_ffi.structural_map(function.body, (tvm.ir.Call, plain), order="post")
    return function.with_body(body)


@cache
def _fence() -> int:
    """LLVM's number of the intrinsic that `te.element` puts around products of floats."""
    return int(tvm_ffi.get_global_func("target.llvm_lookup_intrinsic_id")("llvm.arithmetic.fence"))


class _Host:
    """What the host's half of a lowered kernel does: allocate and launch."""

    def __init__(self, symbol: str, function: tirx.PrimFunc) -> None:
        self.symbol = symbol
        self.sequence: list[Launch] = []
        self.temporaries: list[int] = []
        self._parameters = len(function.params)
        self._index: dict[Any, int] = {x: i for i, x in enumerate(function.params)}
        for statement in _statements(function.body):
            self._visit(statement)

    def _visit(self, statement: Any) -> None:
        match statement:
            case tirx.AllocBuffer():
                self._index[statement.buffer] = self._parameters + len(self.temporaries)
                self.temporaries.append(_nbytes(statement.buffer))
            case tirx.DeclBuffer():
                self._index[statement.buffer] = self._memory(statement.data)
            case tirx.Evaluate() if _is_launch(statement.value):
                self.sequence.append(self._launch(statement.value))
            case tirx.Evaluate(value=tirx.IntImm()):
                pass
            case _:
                raise self._refuse(f"{type(statement).__name__} outside bound loops")

    def _launch(self, call: Any) -> Launch:
        symbol, *rest = call.args
        tags = [str(tag) for tag in call.attrs.launch_params]
        pointers, sizes = rest[: len(rest) - len(tags)], rest[len(rest) - len(tags) :]
        extents = dict.fromkeys(_AXES, 1) | {_SHARED: 0}
        for tag, size in zip(tags, sizes, strict=True):
            if tag not in extents or not isinstance(size, tirx.IntImm):
                raise self._refuse(f"{tag} of {size}")
            extents[tag] = int(size)
        x, y, z, tx, ty, tz = (extents[axis] for axis in _AXES)
        arguments = tuple(self._memory(pointer) for pointer in pointers)
        return Launch(str(symbol.value), (x, y, z), (tx, ty, tz), extents[_SHARED], arguments)

    def _memory(self, pointer: Any) -> int:
        """Which parameter or temporary an address expression means."""
        (buffer,) = pointer.args
        return self._index[buffer]

    def _refuse(self, what: str) -> TargetError:
        return TargetError(f"kernel {self.symbol}: cannot be launched ({what})")


def _statements(body: Any) -> Iterator[Any]:
    if not isinstance(body, tirx.SeqStmt):
        yield body
        return
    for statement in body.seq:
        yield from _statements(statement)


def _is_launch(call: Any) -> bool:
    return getattr(getattr(call, "op", None), "name", "") == "tirx.call_ffi_kernel"


def _nbytes(buffer: Any) -> int:
    lanes = np.dtype(str(buffer.dtype)).itemsize
    return lanes * math.prod(int(d) for d in buffer.shape)


def _with_plain_addresses(function: tirx.PrimFunc, *_: Any) -> tirx.PrimFunc:
    """The function with the addresses of vectors written out.

    The code generator moves a vector at once only where it sees that the address is a multiple of
    its length, and it does not look behind names.
    """
    values: dict[Any, Any] = {}

    def note(x: Any) -> None:
        values[x.var] = x.value

    tvm_ffi.structural_walk(function.body, (tirx.Bind, note))

    def value(x: Any) -> Any:
        return expanded(values[x]) if x in values and _is_index(values[x]) else x

    def expanded(expression: Any) -> Any:
        return tvm_ffi.structural_map(expression, (tirx.Var, value), order="post")

    def ramp(x: Any) -> Any:
        base = Analyzer().simplify(expanded(x.base))
        return tirx.Ramp(base, x.stride, x.lanes)

    body = tvm_ffi.structural_map(function.body, (tirx.Ramp, ramp), order="post")
    return function.with_body(body)


def _is_index(x: Any) -> bool:
    """Whether an expression is cheap arithmetic on indices."""
    loads: list[Any] = []
    tvm_ffi.structural_walk(x, ((TensorLoad, tvm.ir.Call), loads.append), order="post")
    return str(x.ty) == "int32" and not loads


_SCHEDULED = tvm.transform.Sequential(
    [
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.LiftThreadBinding(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.UnifyThreadBinding(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.StmtSimplify(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.NarrowDataType(32),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.StorageRewrite(),
        tirx.transform.UnrollLoop(),
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.CommonSubexprElim(),
        tirx.transform.VerifyMemory(),
        tirx.transform.AnnotateEntryFunc(),
        s_tir.transform.ThreadSync("shared"),
        s_tir.transform.MergeSharedMemoryAllocations(),
        tirx.transform.SplitHostDevice(),
    ]
)
"""For functions that `schedule` made: of TVM's default passes those that they need, in TVM's order.
(Of the others, InjectSoftwarePipeline crashes on int8, and HoistIfThenElse takes seconds.)"""

_WRITTEN = tvm.transform.Sequential(
    [
        tirx.transform.prim_func_pass(_with_plain_addresses, opt_level=0),
        tirx.transform.NarrowDataType(32),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.UnrollLoop(),
        tirx.transform.RemoveNoOp(),
        tirx.transform.VerifyMemory(),
        tirx.transform.AnnotateEntryFunc(),
        s_tir.transform.MergeSharedMemoryAllocations(),
        tirx.transform.SplitHostDevice(),
    ]
)
"""For functions that were written out, barriers and registers included.  Nothing simplifies them:
TVM would replace each name by its value, wherever it is used, until the text bursts; nvcc need
not."""

_FINISH = tvm.transform.Sequential([tirx.transform.LowerWarpMemory(), tirx.transform.LowerIntrin()])
