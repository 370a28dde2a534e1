"""Requantization that no product or sum stands in front of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm.script.ir_builder import IRBuilder
from tvm.target import Target
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Expr
from qcompiler.backends.tvm.table import Match
from qcompiler.graph import Input, Op
from qcompiler.ops import Skeleton

from .isa import Isa, best_isa
from .loops import argument, loop
from .requantize import Requantization, load_vector, requantization, requantized

_TOGETHER = 4  # vectors of one iteration, so that their instructions overlap


@dataclass(frozen=True)
class Requantized:
    """Requantize of one or several values of the result's shape, by line of its last axis."""

    name: str = "cpu requantize"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel where the parameters vary along the last axis only, or not at all."""
        how = requantization(found.root, found.parts)
        isa = best_isa(target)
        if how is None:
            return None
        shape = found.root.type.shape
        parameters = [m for _, m in how.terms] + [how.offset]
        fits = all(isinstance(x, Input) and x.type.shape == shape for x, _ in how.terms) and all(
            p.type.size == 1 or p.type.size == p.type.shape[-1] == shape[-1] for p in parameters
        )
        if not fits:
            return None
        flat = all(p.type.size == 1 for p in parameters)
        lines = 1 if flat else math.prod(shape[:-1])
        length = math.prod(shape) // max(lines, 1)
        if lines == 0 or length < isa.lanes:
            return None
        return Match(
            (found.key, isa),
            lambda: _build(found.graph.inputs, how, isa, lines, length),
            found.leaves,
        )


def _build(
    inputs: Sequence[Input], how: Requantization, isa: Isa, lines: int, length: int
) -> PrimFunc:
    values = [x for x, _ in how.terms]
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        buffers: dict[Op, Expr] = {}
        for i, x in enumerate(inputs):
            shape = (lines, length) if x in values else (x.type.size,)
            buffers[x] = argument(f"x{i}", shape, x.type.dtype)
        out = argument("out", (lines, length), how.dtype)

        def store(line: Expr, first: Expr) -> None:
            place = (line, first)
            shift = T.cast(buffers[how.shift][0], "int32")
            value = requantized(
                how,
                [load_vector(buffers[x], place, "int32", isa.lanes) for x in values],
                [load_vector(buffers[m], place, "int32", isa.lanes) for _, m in how.terms],
                load_vector(buffers[how.offset], place, "int64", isa.lanes),
                shift,
                isa.lanes,
            )
            T.buffer_store(out, value, [line, T.Ramp(first, 1, isa.lanes)])

        width = isa.lanes * _TOGETHER
        width = width if length >= width else isa.lanes
        blocks = -(-length // width)
        with loop(lines * blocks, lines * length) as index:
            line = T.bind(index // blocks)
            first = T.bind(T.min(index % blocks * width, length - width))
            for start in range(0, width, isa.lanes):
                store(line, first + start)
    return builder.get()
