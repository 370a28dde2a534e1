"""Attention in integers, recognised: what stands where between operands and result."""

from __future__ import annotations

from dataclasses import dataclass

from qcompiler.graph import Op
from qcompiler.ops.integer import MatMulInteger, ReduceSum
from qcompiler.ops.requantize import Requantize
from qcompiler.ops.shape import Transpose
from qcompiler.ops.softmax import Average, Exponentials, Reciprocal


@dataclass(frozen=True)
class Attention:
    """softmax(f(q·k))·v as the integer ops compute it: unnormalised, divided at the end.

    Attributes:
        scores: q [..., m, d] by k [..., d, n].
        codes: Its requantization to 8 bits, other operands (biases of positions) included.
        exponentials: Of the codes, along n; with the mask, where there is one.
        weighted: Exponentials by v [..., n, e].
        average: `weighted` over the sums of the exponentials.
    """

    scores: MatMulInteger
    codes: Requantize
    exponentials: Exponentials
    weighted: MatMulInteger
    average: Average


def attention(average: Op) -> Attention | None:
    """The attention that an `Average` is the result of; None if it is anything else."""
    match average:
        case Average(
            MatMulInteger(Exponentials(Requantize() as codes) as e, _, None) as weighted,
            Reciprocal(ReduceSum(summed, axes)),
        ) if summed is e:
            pass
        case _:
            return None
    last = e.type.rank - 1
    products = [x for x in codes.inputs if isinstance(x, MatMulInteger) and x.bias is None]
    leading = {x.type.shape[:-2] for x in (e, weighted.weight, weighted)}
    if len(products) != 1 or (e.axis, axes) != (last, (last,)) or len(leading) != 1:
        return None
    (scores,) = products
    leading |= {x.type.shape[:-2] for x in (scores.x, scores.weight)}
    if len(leading) != 1 or scores.type.shape != codes.type.shape:
        return None
    return Attention(scores, codes, e, weighted, average)


def attention_of(root: Op) -> Attention | None:
    """The attention that a kernel computes, requantized and transposed at its end or not.

    Args:
        root: The op whose value it is, with no `Fused` behind it (`Skeleton.root`).
    """
    found = root
    while isinstance(found, Transpose) or (
        isinstance(found, Requantize) and len(found.inputs) == 1
    ):
        found = found.operands[0]
    return attention(found)
