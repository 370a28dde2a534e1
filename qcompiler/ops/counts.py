"""How much arithmetic an op is."""

from __future__ import annotations

import math

from qcompiler.graph import Op, toposort
from qcompiler.ops.composite import Composite
from qcompiler.ops.integer import ConvInteger, MatMulInteger
from qcompiler.ops.real import Conv, MatMul


def macs(node: Op) -> int:
    """Multiply-accumulates of one product, or of those in a composite's body."""
    match node:
        case Conv(weight=weight) | ConvInteger(weight=weight):
            return node.type.size * math.prod(weight.type.shape[1:])
        case MatMul(a) | MatMulInteger(a):
            return node.type.size * a.type.shape[-1]
        case Composite(operands=operands):
            body = toposort([node.expansion], dict.fromkeys(operands))
            return sum(macs(x) for x in body if x not in operands)
    return 0
