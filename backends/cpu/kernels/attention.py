"""Attention in one function: scores, integer softmax and weighted average per block of rows.

Keys and values of every head are packed first, once, for the dot instruction.  Then each block of
rows goes all the way: its scores against all keys, their codes, the exponentials of the codes by a
byte table, and the average of the values, in a few kilobytes that never leave the first cache.
"""

from __future__ import annotations

from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.layout import AttentionShape
from qcompiler.backends.tvm.problem import Epilogue
from qcompiler.backends.tvm.table import Pointwise

from .attention_block import Block
from .attention_pack import packed_columns
from .attention_plan import attention_plan
from .isa import Isa
from .loops import PARALLEL_CYCLES, argument, either_loop

_TASKS = 16  # iterations of the parallel loop: even shares of up to 16 threads


def build_attention(
    problem: AttentionShape, isa: Isa, codes: Epilogue, average: Pointwise, name: str = "main"
) -> PrimFunc:
    """Generate the kernel.

    Args:
        problem: Shapes and layouts.
        isa: The instruction set; the compilation target must have its features, and `Isa.pixels`
            must be 1.
        codes: From a score to its code.
        average: From a weighted sum and the reciprocal of its row's total to the result.
        name: Global symbol of the function.

    Returns:
        A function of query, key, value, the mask if there is one, the table of exponentials
        uint8 [256], the operands of the codes, those of the average, out.
    """
    plan = attention_plan(problem, isa)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        query = argument("query", problem.query.memory, problem.query_dtype)
        key = argument("key", problem.key.memory, "int8")
        value = argument("value", problem.value.memory, "int8")
        mask = None if problem.mask is None else argument("mask", problem.mask, "bool")
        table = argument("table", (256,), "uint8")
        code_operands, average_operands = (
            [argument(f"{kind}{i}", *operand) for i, operand in enumerate(operands)]
            for kind, operands in (("code", codes.operands), ("average", average.types))
        )
        out = argument("out", problem.result.memory, problem.dtype)
        keys, values = packed_columns(plan, key, value)
        block = Block(plan, codes, average, query, keys, values, mask, table)
        items = problem.heads * plan.blocks
        tasks = min(items, _TASKS)
        with either_loop(tasks, plan.cycles > PARALLEL_CYCLES) as task:
            scratch = block.scratch()
            first = T.bind(items * task // tasks)
            with T.serial(T.bind(items * (task + 1) // tasks) - first) as i:
                item = T.bind(first + i)
                block.emit(item, scratch, code_operands, average_operands, out)
    return builder.get()
