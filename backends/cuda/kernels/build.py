"""One TIR function per product: a grid of blocks, each from copies to stored outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Conv2d, Epilogue, Matmul

from .epilogue import store_block
from .gather import Block
from .generation import Generation
from .instructions import Expr, with_wide_products
from .pack import as_windows, pack
from .plan import Plan, Tile, make_plan
from .reduction import accumulate, bind_warp


def argument(name: str, shape: Sequence[int], dtype: str) -> Expr:
    """A flat buffer parameter of that many elements."""
    return T.arg(name, T.buffer((math.prod(shape),), dtype, layout=None))


def build_product(
    problem: Conv2d | Matmul,
    generation: Generation,
    epilogue: Epilogue,
    name: str = "main",
    tile: Tile | None = None,
) -> PrimFunc:
    """Generate the kernel of a convolution or product.

    Args:
        problem: Without groups.
        generation: The oldest that must run it.
        epilogue: What is stored for each accumulator.
        name: Global symbol of the function.
        tile: How it is cut, if not as the model would.

    Returns:
        A function of x, packed weight, bias int32, the epilogue's operands, out; all flat, all
        aligned to 16 bytes.  ``out`` must not share memory with any other argument.
    """
    plan = make_plan(problem, tile)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        x = argument("x", problem.x_shape, problem.x_dtype)
        weight = argument("weight", plan.packed_shape, "int8")
        bias = argument("bias", (plan.columns,), "int32")
        operands = [
            argument(f"operand{i}", shape, dtype)
            for i, (shape, dtype) in enumerate(epilogue.operands)
        ]
        out = argument("out", problem.out_shape, epilogue.dtype)
        with (
            T.launch_thread("blockIdx.x", plan.row_tiles * plan.column_tiles) as number,
            T.launch_thread("threadIdx.x", plan.tile.threads) as thread,
        ):
            block = _bind_block(plan, generation, x, weight, number, thread)
            warp = bind_warp(plan.tile, thread)
            sums = accumulate(block, warp)
            store_block(block, warp, sums, bias, epilogue, operands, out, problem.out_shape)
    return with_wide_products(builder.get())


def pack_product(
    problem: Conv2d | Matmul, weight: np.ndarray, tile: Tile | None = None
) -> np.ndarray:
    """The weight as the kernel of `build_product` wants it.

    Args:
        problem: The same.
        weight: int8 [o, c, kh, kw] of a convolution, int8 [k, n] of a product.
        tile: The same.
    """
    return pack(make_plan(problem, tile), as_windows(problem, weight))


def _bind_block(
    plan: Plan, generation: Generation, x: Expr, weight: Expr, number: Expr, thread: Expr
) -> Block:
    """The block's place: neighbours share rows, so that the larger operand is read once."""
    shared = T.alloc_buffer((plan.tile.shared_bytes,), "int8", scope="shared", layout=None)
    return Block(
        plan=plan,
        generation=generation,
        x=x,
        weight=weight,
        shared=shared,
        thread=thread,
        row=T.bind(number // plan.column_tiles * plan.tile.rows),
        column=T.bind(number % plan.column_tiles * plan.tile.columns),
    )
