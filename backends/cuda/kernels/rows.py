"""Kernels that reduce rows: normalization, softmax, sums over the last axis, and what follows.

A warp (or several, for long rows) has a row of its own, whose inputs stay in registers from the
first reduction to the stored result.  The numbers come from the ops' own bodies: the kernel adds
only the order in which the row's elements are visited, which integers do not depend on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.te import element, tables, whole_operands
from qcompiler.graph import Graph, Input, Op
from qcompiler.ops import Cast, ReduceMax, ReduceSum

from .build import argument
from .elements import LANES, Operand, Reader, store_lanes
from .instructions import Expr, with_wide_products

WARP = 32
_THREADS = 128  # of a block, or as many as one row has
_VECTORS = 2  # of a thread, where the row is not too long
_MOST_THREADS = 256
_MOST_VECTORS = 16
_FEWEST_COLUMNS = 8

Reduction = (ReduceSum, ReduceMax)


@dataclass(frozen=True)
class RowPlan:
    """How rows are shared out.

    Attributes:
        shape: Of what is reduced.
        threads: Of a row.
    """

    shape: tuple[int, ...]
    threads: int

    @property
    def rows(self) -> int:
        """How many."""
        return math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        """Elements of each."""
        return self.shape[-1]

    @property
    def vectors(self) -> int:
        """Groups of neighbouring elements that each thread has, some beyond the end."""
        return -(-self.columns // (LANES * self.threads))

    @property
    def rows_together(self) -> int:
        """Rows of a block."""
        return max(_THREADS // self.threads, 1)

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        return -(-self.rows // self.rows_together)


def row_plan(graph: Graph, shape: tuple[int, ...]) -> RowPlan | None:
    """How to share out rows of that shape; None if they are too short or too long.

    Or if a value of the graph, tables aside, does not broadcast with them.
    """
    (root,), whole, columns = graph.outputs.values(), tables(graph), shape[-1]
    fits = columns >= _FEWEST_COLUMNS and root.type.shape in (shape, (*shape[:-1], 1))
    for x in graph.ops:
        own = x.type.shape
        broadcasts = len(own) <= len(shape) and all(
            a in (1, b) for a, b in zip(own[::-1], shape[::-1], strict=False)
        )
        fits = fits and (broadcasts or x in whole)
    threads = WARP
    while threads < _MOST_THREADS and threads * LANES * _VECTORS < columns:
        threads *= 2
    plan = RowPlan(shape, threads)
    return plan if fits and plan.vectors <= _MOST_VECTORS else None


def build_rows(
    graph: Graph, plan: RowPlan, numbers: Mapping[Op, int], name: str = "main"
) -> PrimFunc:
    """Generate the kernel of a skeleton.

    Args:
        graph: Of the skeleton.
        plan: Its `row_plan`.
        numbers: Scalar inputs that are written into the code.
        name: Global symbol of the function.

    Returns:
        A function of the skeleton's other inputs and the result, all flat and aligned to 16 bytes.
    """
    (root,) = graph.outputs.values()
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        buffers: dict[Op, Expr] = {
            x: argument(f"x{i}", x.type.shape, x.type.dtype)
            for i, x in enumerate(graph.inputs)
            if x not in numbers
        }
        out = argument("out", root.type.shape, root.type.dtype)
        with (
            T.launch_thread("blockIdx.x", plan.blocks) as block,
            T.launch_thread("threadIdx.x", plan.threads * plan.rows_together) as thread,
        ):
            own = T.bind(block * plan.rows_together + thread // plan.threads)
            row = T.bind(T.min(own, plan.rows - 1))
            known = {x: T.IntImm(x.type.dtype, value) for x, value in numbers.items()}
            _Row(graph, plan, buffers, thread, row, known).emit(root, own, out)
    return with_wide_products(builder.get())


@dataclass
class _Row:
    """Emits the work of one row's threads.

    Attributes:
        graph: The skeleton's.
        plan: How rows are shared out.
        buffers: Of the inputs.
        thread: threadIdx.x.
        row: Of the flattened leading axes, within bounds.
        values: What is known of the whole row.
        loaded: For each input with an element per column, those of the thread's vectors.
    """

    graph: Graph
    plan: RowPlan
    buffers: dict[Op, Expr]
    thread: Expr
    row: Expr
    values: dict[Op, Expr] = field(default_factory=dict)
    loaded: dict[Op, list[Sequence[Expr]]] = field(default_factory=dict)

    def column(self, vector: int) -> Expr:
        """First column of one of the thread's vectors; it may lie beyond the end."""
        return (vector * self.plan.threads + self.thread % self.plan.threads) * LANES

    def emit(self, root: Op, own: Expr, out: Expr) -> None:
        """Go through the ops in order; `own` is the row before it was brought within bounds."""
        self._load()
        for node in self.graph.ops:
            if isinstance(node, Input):
                continue
            if isinstance(node, Reduction):
                self.values[node] = self._reduced(node)
            elif self._is_whole_row(node):
                value = self._value(node, self.values)
                by_element = any(not self._is_whole_row(user) for user in self.graph.users[node])
                once = _widens(node) or (self._uses(node) == 1 and not by_element)
                self.values[node] = value if once else kept(value, node.type.dtype)
        if root in self.values:
            first = self.thread % self.plan.threads == 0
            with T.If(T.And(first, own < self.plan.rows)), T.Then():
                T.buffer_store(out, self.values[root], [own])
            return
        for vector in range(self.plan.vectors):
            column = T.bind(self.column(vector))
            with T.If(T.And(own < self.plan.rows, column < self.plan.columns)), T.Then():
                values = [self._element(root, vector, lane, {}) for lane in range(LANES)]
                store_lanes(out, own, column, self.plan.columns, values, root.type.dtype)

    def _load(self) -> None:
        shape, columns, whole = self.plan.shape, self.plan.columns, tables(self.graph)
        for x in self.graph.inputs:
            if x in whole or x in self.values:
                continue
            operand = Operand(self.buffers[x], x.type.shape, x.type.dtype)
            row = self.row if operand.leading else None
            if self._is_whole_row(x):
                self.values[x] = Reader(shape, T.int32(0)).load(operand, row)[0]
                continue
            self.loaded[x] = []
            for vector in range(self.plan.vectors):
                column = self.column(vector)
                inside = T.bind(T.Select(column < columns, column, 0))
                self.loaded[x].append(Reader(shape, inside).load(operand, row))

    def _is_whole_row(self, x: Op) -> bool:
        return not x.type.shape or x.type.shape[-1] == 1

    def _uses(self, x: Op) -> int:
        return sum(operand is x for user in self.graph.users[x] for operand in user.operands)

    def _value(self, node: Op, known: dict[Op, Expr]) -> Expr:
        wholes = whole_operands(node)
        operands = [
            self.buffers[x] if whole else known[x]
            for x, whole in zip(node.operands, wholes, strict=True)
        ]
        return element(node, operands)

    def _element(self, root: Op, vector: int, lane: int, known: dict[Op, Expr]) -> Expr:
        """One element of a value, from what was loaded and what is known of the row."""
        if root in self.values:
            return self.values[root]
        if root in self.loaded:
            return self.loaded[root][vector][lane]
        if root not in known:
            operands = [
                x for x, whole in zip(root.operands, whole_operands(root), strict=True) if not whole
            ]
            elements = {x: self._element(x, vector, lane, known) for x in operands}
            value = self._value(root, elements)
            once = _widens(root) or self._uses(root) == 1
            known[root] = value if once else kept(value, root.type.dtype)
        return known[root]

    def _reduced(self, node: ReduceSum | ReduceMax) -> Expr:
        """The reduction of the row, known to all of its threads."""
        dtype, operand = node.type.dtype, node.operands[0]
        is_sum = isinstance(node, ReduceSum)
        identity = T.IntImm(dtype, 0 if is_sum else int(np.iinfo(dtype).min))
        total = T.alloc_buffer((1,), dtype, scope="local", layout=None)
        T.buffer_store(total, identity, [0])

        def add(value: Expr) -> None:
            T.buffer_store(total, total[0] + value if is_sum else T.max(total[0], value), [0])

        for vector in range(self.plan.vectors):
            for lane in range(LANES):
                value = T.cast(self._element(operand, vector, lane, {}), dtype)
                inside = self.column(vector) + lane < self.plan.columns
                add(T.Select(inside, value, identity))
        for distance in (16, 8, 4, 2, 1):
            add(T.tvm_warp_shuffle_xor(T.uint32(0xFFFFFFFF), total[0], distance, WARP, WARP))
        warps = self.plan.threads // WARP
        if warps == 1:
            return total[0]
        shared = T.alloc_buffer(
            (warps * self.plan.rows_together,), dtype, scope="shared", layout=None
        )
        with T.If(self.thread % WARP == 0), T.Then():
            T.buffer_store(shared, total[0], [self.thread // WARP])
        T.evaluate(T.tvm_storage_sync("shared"))
        first = T.bind(self.thread // self.plan.threads * warps)
        T.buffer_store(total, identity, [0])
        for warp in range(warps):
            add(shared[first + warp])
        return total[0]


def _widens(node: Op) -> bool:
    """Whether a conversion costs nothing where its value is used: products take 32 bits."""
    return isinstance(node, Cast) and node.x.type.dtype == "int32" and node.dtype == "int64"


def kept(value: Expr, dtype: str) -> Expr:
    """A value in a register of its own.

    TVM's simplifier writes variables out wherever they are used, which is exponential in Newton's
    iterations; elements of buffers it leaves alone.
    """
    register = T.alloc_buffer((1,), dtype, scope="local", layout=None)
    T.buffer_store(register, value, [0])
    return register[0]
