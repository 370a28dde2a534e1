"""Requantization that no product or sum stands in front of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tvm.script.ir_builder import IRBuilder
from tvm.target import Target
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Expr, Vector
from qcompiler.backends.tvm.table import Match, on_leaves
from qcompiler.ops import Requantize, Skeleton

from .isa import best_isa
from .loops import argument, loop
from .requantize import on_vectors

_TOGETHER = 4  # vectors of one iteration, so that their instructions overlap


@dataclass(frozen=True)
class Requantized:
    """Requantize of one or several values of the result's shape, by line of its last axis."""

    name: str = "cpu requantize"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel where the parameters vary along the last axis only, or not at all."""
        root, lanes = found.root, best_isa(target).lanes
        whole = on_leaves(found, root)
        vector = on_vectors(whole, root)
        if vector is None or not isinstance(root, Requantize):
            return None
        shape, parameters = root.type.shape, [x.type for x in (*root.multipliers, root.offset)]
        fits = all(x.type.shape == shape for x in root.inputs) and all(
            p.size == 1 or p.size == p.shape[-1] == shape[-1] for p in parameters
        )
        if not fits:
            return None
        lines = 1 if all(p.size == 1 for p in parameters) else math.prod(shape[:-1])
        length = math.prod(shape) // max(lines, 1)
        if lines == 0 or length < lanes:
            return None
        values = {found.parts[x] for x in root.inputs}
        operands = [
            ((lines, length) if x in values else (x.type.size,), x.type.dtype)
            for x in whole.operands
        ]
        dtype = root.type.dtype
        return Match(
            (found.key, lanes),
            lambda: _build(operands, vector, lanes, (lines, length), dtype),
            whole.leaves,
        )


def _build(
    operands: Sequence[tuple[tuple[int, ...], str]],
    vector: Vector,
    lanes: int,
    shape: tuple[int, int],
    dtype: str,
) -> PrimFunc:
    lines, length = shape
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        buffers = [argument(f"x{i}", *operand) for i, operand in enumerate(operands)]
        out = argument("out", shape, dtype)

        def store(line: Expr, first: Expr) -> None:
            value = vector(None, buffers, (line, first), lanes)
            T.buffer_store(out, value, [line, T.Ramp(first, 1, lanes)])

        width = lanes * _TOGETHER
        width = width if length >= width else lanes
        blocks = -(-length // width)
        with loop(lines * blocks, lines * length) as index:
            line = T.bind(index // blocks)
            first = T.bind(T.min(index % blocks * width, length - width))
            for start in range(0, width, lanes):
                store(line, first + start)
    return builder.get()
