"""One TIR function per problem: copy with borders where needed, then tiles of dot products.

The reduction of a tile is written with every accumulator as a buffer of one vector, which LLVM
keeps in a register.  The finished tile then goes through a small int32 buffer on the stack into
the epilogue, one vectorised loop over output channels per pixel.
"""

import math
from collections.abc import Sequence

from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from .epilogue import store_tile
from .isa import Isa
from .pack import packed_dtype, packed_shapes
from .plan import Plan, make_plan
from .problem import Conv2d, Epilogue, Expr, Matmul
from .reduction import accumulate
from .tile import bind_tile, tile_count

# Below these, waking another thread takes longer than it saves (about a microsecond).
_PARALLEL_CYCLES = 8000
_PARALLEL_COPY = 65536  # elements


def build(problem: Conv2d | Matmul, isa: Isa, epilogue: Epilogue, name: str = "main") -> PrimFunc:
    """Generate the kernel of a problem.

    Args:
        problem: The convolution or product.
        isa: The instruction set; the compilation target must have its features.
        epilogue: What is stored for each accumulator.
        name: Global symbol of the function.

    Returns:
        A function of x, packed weight, packed bias (see `pack`), the epilogue's operands, out.
        ``out`` must not share memory with any other argument: border tiles are computed twice.
    """
    plan = make_plan(problem, isa)
    weight_shape, bias_shape = packed_shapes(plan)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        x = _argument("x", problem.x_shape, problem.x_dtype)
        weight = _argument("weight", weight_shape, packed_dtype(plan))
        bias = _argument("bias", bias_shape, "int32")
        operands = [
            _argument(f"operand{i}", shape, dtype)
            for i, (shape, dtype) in enumerate(epilogue.operands)
        ]
        out = _argument("out", problem.out_shape, epilogue.dtype)
        source = _flat(x, math.prod(problem.x_shape), problem.x_dtype)
        if plan.copied:
            source = _copy_with_borders(plan, source)
        with _loop(tile_count(plan), plan.cycles > _PARALLEL_CYCLES) as index:
            tile = bind_tile(plan, index)
            sums = accumulate(plan, tile, source, weight, bias)
            store_tile(plan, tile, sums, epilogue, operands, out)
    return builder.get()


def _argument(name: str, shape: Sequence[int], dtype: str) -> Expr:
    return T.arg(name, T.buffer(tuple(shape), dtype, layout=None))


def _loop(extent: int, parallel: bool) -> Expr:
    return T.parallel(extent) if parallel else T.serial(extent)


def _flat(buffer: Expr, size: int, dtype: str) -> Expr:
    return T.decl_buffer((size,), dtype, data=buffer.data, layout=None)


def _copy_with_borders(plan: Plan, x: Expr) -> Expr:
    """A copy of the input with its padding, in the plan's source dtype.

    The last vector of a ragged reduction reads up to one group past the end; those elements stay
    unwritten because zero weights meet them.
    """
    n, h, w, c = plan.conv.x_shape
    top, left, _, _ = plan.conv.pads
    rows, line = plan.source_rows, plan.source_cols * c
    before = min(left * c, line)
    copied = min(w * c, line - before)
    source = T.alloc_buffer((n * rows * line + plan.isa.group,), plan.source_dtype, layout=None)
    zero = T.IntImm(plan.source_dtype, 0)
    with _loop(n * rows, n * rows * line > _PARALLEL_COPY) as index:
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
