"""A SIMT machine in numpy that runs thread-bound TIR functions: the kernels of GPUs without a GPU.

    run(function, arrays)      # writes what the kernel stores into the arrays

All threads of all blocks run in lockstep; values are arrays [blocks, threads], branches are masks.
What a GPU leaves undefined raises `SimtError`: see `simt_memory`, and int32 overflow, divergent
barriers, shifts out of range and divisions by zero here.  TIR is compiled to closures first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from simt_expressions import Code, Compiler
from simt_instructions import Copies
from simt_memory import GlobalMemory, Memory, SharedMemory, SimtError, Traffic
from tvm import tirx
from tvm.ir import PointerType, Var
from tvm.tirx import ForKind

__all__ = ["Machine", "SimtError", "Traffic", "run"]

AXES = ("x", "y", "z")
MOST_SHARED = {"shared": 48 << 10, "shared.dyn": 99 << 10}
"""Bytes that the compiler accepts, and that all cards from sm_80 on give when asked."""


@dataclass
class Machine:
    """The state of the blocks that run together.

    Attributes:
        shape: Blocks and threads of a block.
        variables: Values of TIR variables.
        memories: Buffers by variable.
        copies: Asynchronous copies on their way.
        traffic: Bank conflicts so far.
        shared: Bytes of shared memory by scope.
    """

    shape: tuple[int, int]
    variables: dict[int, np.ndarray] = field(default_factory=dict)
    memories: dict[int, Memory] = field(default_factory=dict)
    copies: Copies = field(default_factory=Copies)
    traffic: Traffic = field(default_factory=Traffic)
    shared: dict[str, int] = field(default_factory=dict)

    def allocate(self, name: str, scope: str, size: int) -> Memory:
        """A buffer that nobody has written."""
        if scope == "local":
            return Memory.unwritten(name, *self.shape, size)
        if scope not in ("shared", "shared.dyn"):
            raise SimtError(f"{name}: no memory of scope {scope!r} inside a kernel")
        self.shared[scope] = self.shared.get(scope, 0) + size
        if self.shared[scope] > MOST_SHARED[scope]:
            raise SimtError(f"{name}: {self.shared[scope]} bytes of {scope} memory")
        shape = (self.shape[0], size)
        return SharedMemory(
            name,
            np.full(shape, 0xA5, np.uint8),
            np.zeros(shape, bool),
            threads=self.shape[1],
            traffic=self.traffic,
        )

    def barrier(self, scope: str, mask: np.ndarray | None) -> None:
        """All threads of the blocks (scope "shared") or of the warps (scope "warp") meet."""
        if mask is not None:
            active = np.broadcast_to(mask, self.shape)
            if (active.any(1) != active.all(1)).any() or not active.all():
                raise SimtError("a barrier in code that threads part in")
        for memory in self.memories.values():
            if isinstance(memory, SharedMemory):
                memory.barrier() if scope == "shared" else memory.warp_barrier()


def run(
    function: tirx.PrimFunc, arguments: Sequence[np.ndarray], blocks_at_once: int = 64
) -> Traffic:
    """Run a kernel: one C-contiguous array per parameter; results are written in place.

    Args:
        function: Parameters are buffers, or pointers that buffers are declared at; `blockIdx` and
            `threadIdx` bindings, static extents.
        arguments: Parameters in order, of their dtype and shape.
        blocks_at_once: Blocks that run in lockstep.

    Raises:
        SimtError: the kernel did what a GPU leaves undefined.
    """
    compiler = _Statements()
    body = compiler.statement(function.body)
    memories: dict[int, GlobalMemory] = {}
    for parameter, array in zip(function.params, arguments, strict=True):
        assert array.flags.c_contiguous
        if not isinstance(parameter.ty, PointerType):
            shape = tuple(int(d) for d in parameter.shape)
            dtype = compiler.dtype(parameter.dtype)
            found = (array.shape, np.dtype("int8") if array.dtype == bool else array.dtype)
            assert found == (shape, dtype), f"{parameter.name}: {dtype}{shape}, found {found}"
        memories[compiler.slot(parameter)] = GlobalMemory(
            parameter.name, array.reshape(-1).view(np.uint8)
        )
    blocks = [compiler.extents.get(f"blockIdx.{axis}", 1) for axis in AXES]
    threads = [compiler.extents.get(f"threadIdx.{axis}", 1) for axis in AXES]
    count, width = int(np.prod(blocks)), int(np.prod(threads))
    if width > 1024:
        raise SimtError(f"{width} threads in a block")
    traffic = Traffic()
    for first in range(0, count, blocks_at_once):
        some = np.arange(first, min(first + blocks_at_once, count))
        for memory in memories.values():
            memory.first, memory.shape = first * width, (len(some), width)
        machine = Machine((len(some), width), memories=dict(memories), traffic=traffic)
        for tag, slots in compiler.bound.items():
            kind, axis = tag.split(".")
            ids, extents = (some, blocks) if kind == "blockIdx" else (np.arange(width), threads)
            place = AXES.index(axis)
            ids = ids // int(np.prod(extents[:place])) % extents[place]
            value = ids[:, None] if kind == "blockIdx" else ids[None, :]
            for slot in slots:
                machine.variables[slot] = value.astype(np.int32)
        body(machine, None)
        if machine.copies.open or any(machine.copies.groups):
            raise SimtError("asynchronous copies that nobody waits for")
    return traffic


Action = Callable[[Machine, "np.ndarray | None"], None]


class _Statements(Compiler):
    """Statements as functions of machine and mask (None: all threads)."""

    def __init__(self) -> None:
        super().__init__()
        self.extents: dict[str, int] = {}
        self.bound: dict[str, list[int]] = {}

    def statement(self, node: Any) -> Action:
        method = getattr(self, f"_{type(node).__name__}", None)
        if method is None:
            raise NotImplementedError(f"simt: no statement {type(node).__name__}")
        return method(node)

    def _SeqStmt(self, node: Any) -> Action:
        actions = [self.statement(x) for x in node.seq]

        def act(m: Machine, mask: np.ndarray | None) -> None:
            for action in actions:
                action(m, mask)

        return act

    def _thread(self, tag: str, variable: Any, extent: int, body: Any) -> Action:
        if self.extents.setdefault(tag, extent) != extent:
            raise SimtError(f"{tag}: extents {self.extents[tag]} and {extent}")
        self.bound.setdefault(tag, []).append(self.slot(variable))
        return self.statement(body)

    def _AttrStmt(self, node: Any) -> Action:
        if node.attr_key in ("thread_extent", "virtual_thread"):
            return self._thread(node.node.thread_tag, node.node.var, int(node.value), node.body)
        return self.statement(node.body)

    def _For(self, node: Any) -> Action:
        if node.kind == ForKind.THREAD_BINDING:
            tag = node.thread_binding.thread_tag
            return self._thread(tag, node.loop_var, int(node.extent), node.body)
        low, count, slot = int(node.min), int(node.extent), self.slot(node.loop_var)
        dtype = str(node.loop_var.ty.dtype)
        body = self.statement(node.body)

        def act(m: Machine, mask: np.ndarray | None) -> None:
            for i in range(low, low + count):
                m.variables[slot] = np.full((1, 1), i, dtype)
                body(m, mask)

        return act

    def _IfThenElse(self, node: Any) -> Action:
        condition = self.code(node.condition)
        then = self.statement(node.then_case)
        other = self.statement(node.else_case) if node.else_case is not None else None

        def act(m: Machine, mask: np.ndarray | None) -> None:
            holds = condition(m, mask).astype(bool)
            for case, kept in ((then, holds), (other, ~holds)):
                if case is None:
                    continue
                inside = kept if mask is None else kept & mask
                if inside.all():
                    case(m, None)
                elif inside.any():
                    case(m, np.broadcast_to(inside, m.shape))

        return act

    def _BufferStore(self, node: Any) -> Action:
        value = self.code(node.value)
        store = self.store(node.buffer, node.indices)
        return lambda m, mask: store(m, value(m, mask), mask)

    def _Bind(self, node: Any) -> Action:
        value, slot = self.code(node.value), self.slot(node.var)

        def act(m: Machine, mask: np.ndarray | None) -> None:
            m.variables[slot] = value(m, mask)

        return act

    def _AllocBuffer(self, node: Any) -> Action:
        buffer = node.buffer
        slot, scope = self.slot(buffer), str(buffer.scope())
        size = int(np.prod([int(d) for d in buffer.shape])) * self.dtype(buffer.dtype).itemsize
        name = str(buffer.name)

        def act(m: Machine, mask: np.ndarray | None) -> None:
            if scope == "local" or slot not in m.memories:
                m.memories[slot] = m.allocate(name, scope, size)

        return act

    def _DeclBuffer(self, node: Any) -> Action:
        source = node.data if isinstance(node.data, Var) else node.data.args[0]
        slot, origin = self.slot(node.buffer), self.slot(source)

        def act(m: Machine, mask: np.ndarray | None) -> None:
            m.memories[slot] = m.memories[origin]

        return act

    def _Evaluate(self, node: Any) -> Action:
        value: Code = self.code(node.value)

        def act(m: Machine, mask: np.ndarray | None) -> None:
            value(m, mask)

        return act
