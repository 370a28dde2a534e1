"""Attention in one launch: a block of query rows of one head goes all the way.

Keys are staged in shared memory and multiplied with the block's queries on the tensor cores; the
scores leave the accumulators as 8-bit codes, which a few hundred bytes per row hold.  Eight lanes
per row then find the maximum, replace codes by exponentials and sum them.  Values stand beside or
over the keys, transposed, so that both products read rows of codes; averages go out from the
registers.  Exact integers need the row's maximum before the first exponential, hence two passes
over codes that never leave shared memory (cf. FlashAttention, Dao et al. 2022, which rescales
instead).
"""

from __future__ import annotations

import math

from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.layout import AttentionShape
from qcompiler.backends.tvm.table import Pointwise

from .attention_block import THREADS, Block
from .attention_plan import TABLE, AttentionPlan, ceil
from .attention_softmax import averages, exponentials
from .build import argument
from .elements import Shaped
from .generation import Generation
from .instructions import with_wide_products
from .plan import STATIC_SHARED


def build_attention(
    problem: AttentionShape,
    plan: AttentionPlan,
    generation: Generation,
    codes: Pointwise,
    average: Pointwise,
    name: str = "main",
) -> PrimFunc:
    """Generate the kernel.

    Args:
        problem: Shapes and layouts.
        plan: Its `attention_plan`.
        generation: The oldest that must run it.
        codes: From a score to its code.
        average: From a weighted sum and the reciprocal of its row's total to the result.
        name: Global symbol of the function.

    Returns:
        A function of query, key, value, the mask if there is one, the table of exponentials
        uint8 [256], the operands of the codes, those of the average, out; all flat and aligned to
        16 bytes.
    """
    row_blocks = ceil(problem.extents[0], plan.rows)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        query = argument("query", problem.query.memory, problem.query_dtype)
        key = argument("key", problem.key.memory, "int8")
        value = argument("value", problem.value.memory, "int8")
        mask = None
        if problem.mask is not None:
            mask = Shaped(problem.mask, argument("mask", problem.mask, "bool"))
        table = argument("table", (TABLE,), "uint8")
        operands = [
            [
                Shaped(shape, argument(f"{kind}{i}", shape, dtype))
                for i, (shape, dtype) in enumerate(end.types)
            ]
            for kind, end in (("code", codes), ("average", average))
        ]
        out = argument("out", problem.result.memory, problem.dtype)
        with (
            T.launch_thread("blockIdx.x", math.prod(problem.leading) * row_blocks) as number,
            T.launch_thread("threadIdx.x", THREADS) as thread,
        ):
            scope = "shared.dyn" if plan.shared_bytes > STATIC_SHARED else "shared"
            shared = T.alloc_buffer((plan.places.end,), "int8", scope=scope, layout=None)
            reciprocals = T.alloc_buffer((plan.rows,), "int64", scope="shared", layout=None)
            place, head = [], T.bind(number // row_blocks)
            for extent in reversed(problem.leading):
                place.append(T.bind(head % extent))
                head = T.bind(head // extent)
            first = T.bind(number % row_blocks * plan.rows)
            block = Block(
                problem, plan, generation, codes, average, shared, reciprocals, thread,
                tuple(reversed(place)), first, mask,
            )  # fmt: skip
            block.stage_queries_and_keys(query, key, table)
            if plan.apart:
                block.stage_values(value)
            block.wait()
            block.scores(operands[0])
            block.sync()
            if not plan.apart:
                block.stage_values(value)
            exponentials(block)
            averages(block, operands[1], out)
    return with_wide_products(builder.get())
