"""Depthwise convolution: neighbouring rows interleaved for dot products, columns in rolling sums.

One task computes a few output rows of one vector of channels, from left to right.  At each input
column the codes of ``group`` rows lie side by side in a register, channel by channel, as a dot
instruction wants them: each such register serves all output rows that it overlaps, by weights that
are zero elsewhere.  Sums of output columns that are not complete wait in registers, so that every
input is read and interleaved once per block of rows.  The border is read as zeros; nothing is
copied.
"""

from __future__ import annotations

import math

from tvm.ir.prim.expr import Shuffle
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Epilogue, Expr

from .loops import argument, flat
from .shuffle import TABLE, look_up, looked_up_together
from .strips import SIGN_BIT, Strips

_PARALLEL_STEPS = 500  # columns of a task, all tasks together


def build_depthwise(plan: Strips, epilogue: Epilogue, name: str = "main") -> PrimFunc:
    """A function of x, packed weight, packed bias, the epilogue's operands, out.

    Args:
        plan: See `strips.strips`.
        epilogue: What is stored for each sum.
        name: Global symbol of the function.
    """
    conv, isa = plan.conv, plan.isa
    n, h, w, c = conv.x_shape
    _, oh, ow, _ = conv.out_shape
    blocks = -(-oh // plan.rows)
    weight_shape = (plan.panels, conv.kernel[1], plan.rows, plan.registers, isa.lanes * isa.group)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        x = argument("x", conv.x_shape, conv.x_dtype)
        weight = argument("weight", weight_shape, "int16" if isa.widened else "int8")
        bias = argument("bias", (plan.panels, isa.lanes), "int32")
        operands = [argument(f"operand{i}", *of) for i, of in enumerate(epilogue.operands)]
        out = argument("out", conv.out_shape, epilogue.dtype)
        source = flat(x, math.prod(conv.x_shape), conv.x_dtype)
        tasks = n * blocks * plan.panels
        parallel = tasks > 1 and tasks * w > _PARALLEL_STEPS
        with T.parallel(tasks) if parallel else T.serial(tasks) as index:
            panel, image = T.bind(index % plan.panels), T.bind(index // (plan.panels * blocks))
            block = T.bind(index // plan.panels % blocks)
            row = T.bind(T.min(block * plan.rows, oh - plan.rows))
            channel = T.bind(T.min(panel * isa.lanes, c - isa.lanes))
            top = T.bind(row * conv.strides[0] - conv.pads[0])
            base = T.bind((image * h + top) * (w * c) + channel)
            strip = _Strip(plan, source, weight, bias, panel, top, base)
            end = _End(plan, epilogue, operands, out, (image, row, channel))
            fresh = max(conv.kernel[1] - conv.strides[1], 0)
            for tap in range(fresh):
                strip.column(tap, T.int32(tap - conv.pads[1]))
            with T.serial(ow) as col:
                for tap in range(fresh, conv.kernel[1]):
                    strip.column(tap, T.bind(col * conv.strides[1] + (tap - conv.pads[1])))
                for i in range(plan.rows):
                    end.store(strip.sums[0][i], i, col)
                strip.advance()
            end.look_up()
    return builder.get()


class _Strip:
    """The registers of a task: sums of the columns in progress, and one interleaved column."""

    def __init__(
        self,
        plan: Strips,
        source: Expr,
        weight: Expr,
        bias: Expr,
        panel: Expr,
        top: Expr,
        base: Expr,
    ) -> None:
        conv, lanes = plan.conv, plan.isa.lanes
        self.plan, self.source, self.weight = plan, source, weight
        self.panel, self.top, self.base = panel, top, base
        self.bias = bias[panel, T.Ramp(0, 1, lanes)]
        waiting = -(-conv.kernel[1] // conv.strides[1])
        self.sums = [
            [T.alloc_buffer((lanes,), "int32", layout=None) for _ in range(plan.rows)]
            for _ in range(waiting)
        ]
        for column in self.sums:
            for total in column:
                T.buffer_store(total, self.bias, [T.Ramp(0, 1, lanes)])
        self.read = (plan.rows - 1) * conv.strides[0] + conv.kernel[0]
        self.codes = [T.alloc_buffer((lanes,), conv.x_dtype, layout=None) for _ in range(self.read)]

    def column(self, tap: int, col: Expr) -> None:
        """Add an input column to the sums; it meets column `tap` of the first one's filter."""
        plan, lanes = self.plan, self.plan.isa.lanes
        whole = T.Ramp(0, 1, lanes)
        self._load(col)
        for register in range(plan.registers):
            mixed = self._interleaved(register)
            for ahead, column in enumerate(self.sums):
                own = tap - ahead * plan.conv.strides[1]
                if not 0 <= own < plan.conv.kernel[1]:
                    continue
                for row, total in enumerate(column):
                    if plan.meets(row, register):
                        span = T.Ramp(0, 1, lanes * plan.isa.group)
                        weights = self.weight[self.panel, own, row, register, span]
                        T.buffer_store(total, _dot(plan, total[whole], mixed, weights), [whole])

    def advance(self) -> None:
        """Forget the first column."""
        whole = T.Ramp(0, 1, self.plan.isa.lanes)
        for column, following in zip(self.sums, self.sums[1:], strict=False):
            for total, next_total in zip(column, following, strict=True):
                T.buffer_store(total, next_total[whole], [whole])
        for total in self.sums[-1]:
            T.buffer_store(total, self.bias, [whole])

    def _load(self, col: Expr) -> None:
        """The codes of all rows of a column; zeros beyond the border."""
        plan, lanes = self.plan, self.plan.isa.lanes
        _, h, w, c = plan.conv.x_shape
        whole = [T.Ramp(0, 1, lanes)]
        inside = T.And(T.And(col >= 0, col < w), T.And(self.top >= 0, self.top + self.read <= h))
        with T.If(inside):
            with T.Then():
                for i, code in enumerate(self.codes):
                    at = T.Ramp(self.base + (i * w + col) * c, 1, lanes)
                    T.buffer_store(code, self.source[at], whole)
            with T.Else():
                zero = T.broadcast(T.IntImm(plan.conv.x_dtype, 0), lanes)
                for i, code in enumerate(self.codes):
                    row = self.top + i
                    there = T.And(T.And(col >= 0, col < w), T.And(row >= 0, row < h))
                    at = T.Ramp(self.base + (i * w + col) * c, 1, lanes)
                    T.buffer_store(code, T.if_then_else(there, self.source[at], zero), whole)

    def _interleaved(self, register: int) -> Expr:
        """The rows of a register, `group` codes of each channel side by side."""
        isa, lanes = self.plan.isa, self.plan.isa.lanes
        # Rows beyond those that are read meet zero weights: any codes will do.
        rows = [min(register * isa.group + i, self.read - 1) for i in range(isa.group)]
        vectors = [self.codes[row][T.Ramp(0, 1, lanes)] for row in rows]
        order = [i * lanes + lane for lane in range(lanes) for i in range(isa.group)]
        mixed = Shuffle(vectors, [T.int32(i) for i in order])
        if isa.widened:
            return T.bind(T.cast(mixed, f"int16x{lanes * isa.group}"))
        whole = f"uint8x{lanes * isa.group}"
        mixed = T.reinterpret(whole, mixed)
        if self.plan.flips_sign:
            mixed = T.bitwise_xor(mixed, T.broadcast(T.uint8(SIGN_BIT), lanes * isa.group))
        return T.bind(T.reinterpret(f"{isa.takes}x{lanes * isa.group}", mixed))


def _dot(plan: Strips, total: Expr, codes: Expr, weights: Expr) -> Expr:
    wide = f"int32x{plan.isa.lanes}"
    if plan.isa.widened:
        return total + T.call_llvm_pure_intrin(wide, plan.isa.dot, codes, weights)
    return T.call_llvm_pure_intrin(wide, plan.isa.dot, total, codes, weights)


class _End:
    """Where the sums of a task go; codes to look up wait for each other."""

    def __init__(
        self,
        plan: Strips,
        epilogue: Epilogue,
        operands: list[Expr],
        out: Expr,
        place: tuple[Expr, Expr, Expr],
    ) -> None:
        self.plan, self.epilogue, self.operands, self.out = plan, epilogue, operands, out
        self.image, self.row, self.channel = place
        self.codes, self.table = None, self._table()
        if self.table is not None:
            together = looked_up_together(plan.isa)
            size = plan.rows * plan.conv.out_shape[2] * plan.isa.lanes
            self.size = -(-size // together) * together
            self.codes = T.alloc_buffer((self.size,), "uint8", layout=None)

    def store(self, sums: Expr, row: int, col: Expr) -> None:
        """Finish one pixel's channels."""
        epilogue, table, lanes = self.epilogue, self.epilogue.table, self.plan.isa.lanes
        pixel = (self.image, self.row + row, col)
        place, span = (*pixel, self.channel), T.Ramp(0, 1, lanes)
        if self.codes is not None and table is not None and table.codes is not None:
            at = T.Ramp((row * self.plan.conv.out_shape[2] + col) * lanes, 1, lanes)
            value = table.codes(sums[span], self.operands, place, lanes)
            T.buffer_store(self.codes, value, [at])
        elif epilogue.vector is not None:
            value = epilogue.vector(sums[span], self.operands, place, lanes)
            T.buffer_store(self.out, value, [*pixel, T.Ramp(self.channel, 1, lanes)])
        else:
            with T.vectorized(lanes) as lane:
                index = (*pixel, self.channel + lane)
                value = epilogue.value(sums[lane], self.operands, index)
                T.buffer_store(self.out, value, list(index))

    def look_up(self) -> None:
        """Store what the table has for the codes that wait, if any do."""
        if self.codes is None:
            return
        isa, cols, dtype = self.plan.isa, self.plan.conv.out_shape[2], self.epilogue.dtype
        together = looked_up_together(isa)
        found = T.alloc_buffer((self.size,), dtype, layout=None)
        with T.serial(self.size // together) as block:
            span = T.Ramp(block * together, 1, together)
            value = look_up(isa, self.table, T.bind(self.codes[span]), dtype)
            T.buffer_store(found, value, [span])
        for row in range(self.plan.rows):
            with T.serial(cols) as col:
                value = found[T.Ramp((row * cols + col) * isa.lanes, 1, isa.lanes)]
                place = [self.image, self.row + row, col, T.Ramp(self.channel, 1, isa.lanes)]
                T.buffer_store(self.out, value, place)

    def _table(self) -> Expr | None:
        """The table of bytes, if the ISA looks many up at once and there are codes on vectors."""
        table = self.epilogue.table
        if table is None or table.codes is None or not looked_up_together(self.plan.isa):
            return None
        shape, dtype = self.epilogue.operands[table.operand]
        one = shape == (TABLE,) and dtype in ("uint8", "int8")
        return self.operands[table.operand] if one else None
