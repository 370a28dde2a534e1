"""Fuse: group ops into kernels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.graph import Constant, Graph, Input, Op, fold, rebuilt
from qcompiler.invariants import no_overflow
from qcompiler.ops import (
    ConvInteger,
    Divide,
    Elementwise,
    Fused,
    IntegerNormalization,
    MatMulInteger,
    MaxPool,
    Pad,
    Quantize,
    ReduceSum,
    Requantize,
    Table,
    Transpose,
)
from qcompiler.passes.base import Pass, Preserves

ANCHORS = (ConvInteger, MatMulInteger, ReduceSum, MaxPool, IntegerNormalization)
ELEMENTWISE = (Elementwise, Requantize, Table, Divide)
LAYOUT = (Pad, Transpose)


@dataclass(frozen=True)
class Fuse(Pass):
    """Let one kernel compute an accumulation and what happens to its result element by element.

    A group has at most one anchor (a product, sum, pool or normalization) and the elementwise ops
    behind it that are its only users; its other operands, such as the residual of a sum, become
    operands of the kernel, constants move inside.  Quantize and Dequantize, which compute in float,
    stay kernels of their own, but Quantize writes its codes where a border and a transpose behind
    it want them.

    Before::

        %conv_integer: int32[1x2x2x1] = conv_integer(%x, int8[1x1x1x1]#w, window=1x1)
        %requantize: uint8[1x2x2x1]@1 = requantize(%conv_integer, 2, 1, shift=1)

    After::

        %requantize: uint8[1x2x2x1]@1 = fused(%x) (%x0: uint8[1x2x2x1]@1) {
          %conv_integer: int32[1x2x2x1] = conv_integer(%x0, int8[1x1x1x1]#w, window=1x1)
          %requantize: uint8[1x2x2x1]@1 = requantize(%conv_integer, 2, 1, shift=1)
          return y=%requantize
        }
    """

    ensures = (no_overflow,)
    preserves: ClassVar[Preserves] = "bits"

    def run(self, graph: Graph) -> Graph:
        """Group greedily along single uses, operands first."""
        groups: dict[Op, list[Op]] = {}  # root → members, operands first
        entries: dict[Op, list[Op]] = {}  # the same, of Quantize and what moves its codes
        for node in graph.ops:
            if isinstance(node, ANCHORS):
                groups[node] = [node]
            elif isinstance(node, ELEMENTWISE):
                groups[node] = [*self._extended(node, groups, graph), node]
            elif isinstance(node, Quantize):
                entries[node] = [node]
            elif isinstance(node, LAYOUT) and node.x in entries and graph.only_user(node.x):
                entries[node] = [*entries.pop(node.x), node]
        both = [*groups.items(), *entries.items()]
        roots = {root: members for root, members in both if len(members) > 1}
        env: dict[Op, Op] = {}

        def visit(node: Op, operands: list[Op]) -> Op:
            if node in roots:
                return fused(node, roots[node], env)
            return rebuilt(node, operands)

        fold(graph.ops, env, visit)
        return graph.with_outputs(env)

    def _extended(self, node: Op, groups: dict[Op, list[Op]], graph: Graph) -> list[Op]:
        """The groups of operands that the op joins; they stop being groups of their own."""
        members: list[Op] = []
        anchored = False
        for x in reversed(node.operands):
            if x not in groups or not graph.only_user(x):
                continue
            if x.type.shape != node.type.shape:
                continue
            has_anchor = isinstance(groups[x][0], ANCHORS)
            if has_anchor and anchored:
                continue
            found = groups.pop(x)
            members = [*found, *members] if has_anchor else [*members, *found]
            anchored = anchored or has_anchor
        return members


def fused(root: Op, members: list[Op], env: dict[Op, Op]) -> Op:
    """One kernel for some ops of a graph.

    Args:
        root: Whose value the kernel gives; the last of `members`.
        members: Operands before users; nothing else uses any but the root.
        env: What has become of the other operands.
    """
    inside = set(members)
    operands = dict.fromkeys(x for node in members for x in node.operands if x not in inside)
    values = [x for x in operands if not isinstance(x, Constant)]
    leaves = {x: Input(x.type, name=f"x{i}", sources=()) for i, x in enumerate(values)}
    local: dict[Op, Op] = {x: leaves.get(x, x) for x in operands}
    for node in members:
        new = node.with_operands(local[x] for x in node.operands)
        local[node] = dataclasses.replace(new, name=None)
    region = Graph(tuple(leaves.values()), {"y": local[root]}, "fused")
    sources = tuple(dict.fromkeys(s for node in members for s in node.sources))
    return Fused(tuple(env[x] for x in leaves), region, name=root.name, sources=sources)
