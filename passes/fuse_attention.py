"""FuseAttention: both products of attention and the softmax between them in one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.graph import Constant, Graph, Op, fold, rebuilt, toposort
from qcompiler.invariants import unfused
from qcompiler.ops import Requantize, Transpose, attention
from qcompiler.passes.base import Pass, Preserves
from qcompiler.passes.fuse import fused


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Group attention from its three operands to its result, so that the matrix stays in cache.

    The scores of all pairs of tokens are the largest values of a transformer and live shortest
    (FlashAttention, Dao et al. 2022, section 3.1, whose running maximum is not needed here: rows of
    8-bit codes are short).  The group takes along the transposes that split and join heads, and
    the requantization of the result.  A target without a kernel for the whole computes the ops of
    the group one after the other.

    Before::

        %1 = transpose(%q, permutation=[0, 2, 1, 3])
        %2 = transpose(%k, permutation=[0, 2, 3, 1])
        %scores = mat_mul_integer(%1, %2)
        %codes = requantize(%scores, …)
        %e = exponentials(%codes, …, axis=3)
        %3 = transpose(%v, permutation=[0, 2, 1, 3])
        %weighted = mat_mul_integer(%e, %3)
        %total = reduce_sum(%e, axes=[3])
        %reciprocal = reciprocal(%total)
        %average = average(%weighted, %reciprocal)
        %result = requantize(%average, …)
        %y = transpose(%result, permutation=[0, 2, 1, 3])

    After::

        %y = fused(%q, %k, %v) (%x0: …, %x1: …, %x2: …) { … }
    """

    requires = (unfused,)
    preserves: ClassVar[Preserves] = "bits"

    def run(self, graph: Graph) -> Graph:
        """Group each attention that nothing else looks into."""
        groups = {group[-1]: group for node in graph.ops if (group := _group(graph, node))}
        if not groups:
            return graph
        env: dict[Op, Op] = {}

        def visit(node: Op, operands: list[Op]) -> Op:
            if node in groups:
                return fused(node, groups[node], env)
            return rebuilt(node, operands)

        fold(graph.ops, env, visit)
        return graph.with_outputs(env)


def _group(graph: Graph, average: Op) -> list[Op] | None:
    """The ops of an attention, operands first and the root last."""
    found = attention(average)
    if found is None:
        return None
    root = _extended(graph, average)
    outside: dict[Op, Op] = {}
    sources = (found.scores.x, found.scores.weight, found.weighted.weight)
    for x in sources:
        alone = isinstance(x, Transpose) and graph.only_user(x)
        leaf = x.operands[0] if alone else x
        outside[leaf] = leaf
    others = (*found.codes.operands, found.exponentials.values, found.exponentials.mask)
    outside |= {x: x for x in others if x is not None and x is not found.scores}
    members = [x for x in toposort([root], outside) if x not in outside]
    members = [x for x in members if not isinstance(x, Constant)]
    inside = set(members)
    if any(
        graph.is_output(x) or any(user not in inside for user in graph.users[x])
        for x in members[:-1]
    ):
        return None
    return members


def _extended(graph: Graph, average: Op) -> Op:
    """The requantization and the transpose behind the average, where these are its only uses."""
    root = average
    for kind in (Requantize, Transpose):
        user = graph.only_user(root)
        if not isinstance(user, kind) or (isinstance(user, Requantize) and not _is_simple(user)):
            continue
        root = user
    return root


def _is_simple(node: Requantize) -> bool:
    """Whether it has no further operand, such as a residual, and no larger shape."""
    return len(node.inputs) == 1 and node.type.shape == node.inputs[0].type.shape
