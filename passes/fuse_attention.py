"""FuseAttention: both products of attention and the softmax between them in one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.graph import Constant, Graph, Input, Op, fold, rebuilt, toposort
from qcompiler.invariants import no_overflow, unfused
from qcompiler.ops import (
    Attention,
    Average,
    Exponentials,
    MatMulInteger,
    Reciprocal,
    ReduceSum,
    Requantize,
    Transpose,
)
from qcompiler.passes.base import Pass, Preserves
from qcompiler.passes.fuse import fused


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Group attention from its three operands to its result, so that the matrix stays in cache.

    The scores of all pairs of tokens are the largest values of a transformer and live shortest
    (FlashAttention, Dao et al. 2022, section 3.1, whose running maximum is not needed here: rows of
    8-bit codes are short).  The group takes along the transposes that split and join heads, and
    the requantization of the result.  A target without a kernel for the whole computes the ops of
    the group, and of the attention's body, one after the other.

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

        %y = fused(%q, %k, %v) (%x0: …, %x1: …, %x2: …) {
          %1 = transpose(%x0, permutation=[0, 2, 1, 3])
          %2 = transpose(%x1, permutation=[0, 2, 3, 1])
          %3 = transpose(%x2, permutation=[0, 2, 1, 3])
          %attention = attention(%1, %2, %3, …) (%x0: …) { requantize … }
          %result = requantize(%attention, …)
          %y = transpose(%result, permutation=[0, 2, 1, 3])
          return y=%y
        }
    """

    requires = (unfused,)
    ensures = (no_overflow,)
    preserves: ClassVar[Preserves] = "bits"

    def run(self, graph: Graph) -> Graph:
        """Group each attention that nothing else looks into."""
        groups = dict(group for node in graph.ops if (group := _group(graph, node)))
        if not groups:
            return graph
        env: dict[Op, Op] = {}

        def visit(node: Op, operands: list[Op]) -> Op:
            if node in groups:
                return fused(groups[node][-1], groups[node], env)
            return rebuilt(node, operands)

        fold(graph.ops, env, visit)
        return graph.with_outputs(env)


def _group(graph: Graph, average: Op) -> tuple[Op, list[Op]] | None:
    """What an attention ends in, and the ops of the kernel for it: operands first, root last."""
    attention = _attention(average)
    if attention is None:
        return None
    root = _extended(graph, average)
    sources = (attention.query, attention.key, attention.value)
    split = [x for x in sources if isinstance(x, Transpose) and graph.only_user(x)]
    outside: dict[Op, Op] = {x: x for x in attention.operands if x not in split}
    outside |= {x.x: x.x for x in split}
    members = _between(outside, root)
    inside = set(members)
    if any(
        graph.is_output(x) or any(user not in inside for user in graph.users[x])
        for x in members[:-1]
    ):
        return None
    end = fold([root], {**outside, average: attention}, rebuilt)[root]
    return root, _between(outside, end)


def _between(outside: dict[Op, Op], root: Op) -> list[Op]:
    """What computes a value from others, constants aside; operands first, the value last."""
    found = toposort([root], outside)
    return [x for x in found if x not in outside and not isinstance(x, Constant)]


def _attention(average: Op) -> Attention | None:
    """The attention that an `Average` is the result of; None if it is anything else."""
    match average:
        case Average(
            MatMulInteger(Exponentials(Requantize() as codes) as e, value, None) as weighted,
            Reciprocal(ReduceSum(summed, axes) as total) as reciprocal,
        ) if summed is e:
            pass
        case _:
            return None
    last = e.type.rank - 1
    products = [x for x in codes.inputs if isinstance(x, MatMulInteger) and x.bias is None]
    if len(products) != 1 or (e.axis, axes) != (last, (last,)):
        return None
    (scores,) = products
    query, key = scores.x, scores.weight
    leading = {x.type.shape[:-2] for x in (e, value, weighted, query, key)}
    if len(leading) != 1 or scores.type.shape != codes.type.shape:
        return None
    terms = [x for x in codes.operands if x is not scores and not isinstance(x, Constant)]
    inside: dict[Op, Input] = {
        x: Input(x.type, name=f"x{i}", sources=()) for i, x in enumerate((scores, *terms))
    }
    code = codes.with_operands((inside.get(x, x) for x in codes.operands), name=None)
    parts = (scores, codes, e, weighted, total, reciprocal, average)
    return Attention(
        query,
        key,
        value,
        e.values,
        Graph(tuple(inside.values()), {"y": code}, "code"),
        tuple(x for x in inside if x is not scores),
        e.mask,
        sources=tuple(dict.fromkeys(s for x in parts for s in x.sources)),
    )


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
