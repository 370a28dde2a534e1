"""One TIR function per problem: copy with borders where needed, then tiles of dot products.

The reduction of a tile is written with every accumulator as a buffer of one vector, which LLVM
keeps in a register.  The finished tile then goes through a small int32 buffer on the stack into
the epilogue, one vectorised loop over output channels per pixel.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tvm.ir import StringImm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Conv2d, Epilogue, Expr, Matmul

from .cost import Cut
from .epilogue import END_BYTES, spare_dtypes, store_tile
from .isa import Isa
from .loops import PARALLEL_CYCLES, argument, either_loop, flat
from .matrix import accumulate_tiles, store_sums, tile_configuration, tiles
from .pack import packed_dtype, packed_shapes
from .pairs import accumulate_pairs
from .plan import Plan, make_plan
from .reduction import accumulate
from .tile import Tile, bind_tile, tile_count

# Below these, waking another thread takes longer than it saves (about a microsecond).
_PARALLEL_COPY = 65536  # elements


def build(
    problem: Conv2d | Matmul,
    isa: Isa,
    epilogue: Epilogue,
    name: str = "main",
    cut: Cut | None = None,
) -> PrimFunc:
    """Generate the kernel of a problem.

    Args:
        problem: The convolution or product.
        isa: The instruction set; the compilation target must have its features.
        epilogue: What is stored for each accumulator.
        name: Global symbol of the function.
        cut: One of `cuts`, the same as for `pack`; by default the first.

    Returns:
        A function of x, packed weight, packed bias (see `pack`), the epilogue's operands, out.
        ``out`` must not share memory with any other argument: border tiles are computed twice.
    """
    plan = make_plan(problem, isa, cut)
    weight_shape, bias_shape = packed_shapes(plan)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        x = argument("x", problem.x_shape, problem.x_dtype)
        weight = argument("weight", weight_shape, packed_dtype(plan))
        bias = argument("bias", bias_shape, "int32")
        operands = [
            argument(f"operand{i}", shape, dtype)
            for i, (shape, dtype) in enumerate(epilogue.operands)
        ]
        out = argument("out", problem.out_shape, epilogue.dtype)
        source = flat(x, math.prod(problem.x_shape), problem.x_dtype)
        if plan.copied:
            source = _copy_with_borders(plan, source)
        parallel = plan.cycles > PARALLEL_CYCLES

        def end(index: Expr, sums: list[Expr], spare: list[Expr]) -> None:
            tile = bind_tile(plan, index)
            store_tile(plan, tile, sums, epilogue, operands, out, spare)

        if plan.matrix:
            spare = spare_dtypes(plan, epilogue, operands)
            _on_tiles(plan, source, weight, bias, parallel, spare, end)
        else:
            with either_loop(tile_count(plan), parallel) as index:
                tile = bind_tile(plan, index)
                sums = _reduce(plan, tile, source, weight, bias)
                store_tile(plan, tile, sums, epilogue, operands, out)
    return builder.get()


def _reduce(plan: Plan, tile: Tile, source: Expr, weight: Expr, bias: Expr) -> list[Expr]:
    """The sums of a tile, in vector registers."""
    if plan.isa.pixels > 1 and not plan.conv.depthwise:
        return [accumulate_pairs(plan, tile, source, weight, bias)]
    return accumulate(plan, tile, source, weight, bias)


def _on_tiles(
    plan: Plan,
    source: Expr,
    weight: Expr,
    bias: Expr,
    parallel: bool,
    spare: tuple[str, ...],
    end: Callable[[Expr, list[Expr], list[Expr]], None],
) -> None:
    """All tiles on AMX, each one's epilogue behind the products of the next.

    Both take about as long, and run at the same time where they do not wait for each other.
    """
    config = tile_configuration(plan)
    with _once_per_thread(parallel), tiles(plan, config, spare, END_BYTES) as scratch:

        def end_waiting() -> None:
            with T.If(scratch.waiting[0] >= 0), T.Then():
                end(T.bind(scratch.waiting[0]), scratch.sums, scratch.spare)

        with either_loop(tile_count(plan), parallel) as index:
            accumulate_tiles(plan, bind_tile(plan, index), source, weight, bias)
            end_waiting()
            store_sums(plan, scratch.sums)
            T.buffer_store(scratch.waiting, index, [0])
        end_waiting()


def _once_per_thread(parallel: bool) -> AbstractContextManager[Any]:
    """Around one parallel loop: what stands beside that loop is done by every thread."""
    if not parallel:
        return nullcontext()
    key = "pragma_parallel_launch_point"
    return T.attr(StringImm("threads"), key, T.int32(1))


def _copy_with_borders(plan: Plan, x: Expr) -> Expr:
    """A copy of the input with its padding, in the plan's source dtype.

    The last step of a ragged reduction reads past the end.  Zero weights meet those elements; they
    are written because TVM cuts buffers down to what it sees written and read.
    """
    n, h, w, c = plan.conv.x_shape
    top, left, _, _ = plan.conv.pads
    rows, line = plan.source_rows, plan.source_cols * c
    before = min(left * c, line)
    copied = min(w * c, line - before)
    size, past = n * rows * line, plan.padded_depth - plan.depth
    source = T.alloc_buffer((size + past,), plan.source_dtype, layout=None)
    zero = T.IntImm(plan.source_dtype, 0)
    with T.serial(past) as i:
        T.buffer_store(source, zero, [size + i])
    with either_loop(n * rows, size > _PARALLEL_COPY) as index:
        row = T.bind(index % rows - top)
        start = T.bind(index * line)
        with T.If(T.And(row >= 0, row < h)):
            with T.Then():
                with T.serial(before) as i:
                    T.buffer_store(source, zero, [start + i])
                with T.serial(copied) as i:
                    value = x[((index // rows) * h + row) * (w * c) + i]
                    T.buffer_store(source, T.cast(value, plan.source_dtype), [start + before + i])
                with T.serial(line - before - copied) as i:
                    T.buffer_store(source, zero, [start + before + copied + i])
            with T.Else(), T.serial(line) as i:
                T.buffer_store(source, zero, [start + i])
    return source
