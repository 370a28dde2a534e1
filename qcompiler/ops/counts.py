"""How much arithmetic an op is."""

from __future__ import annotations

import math

from qcompiler.graph import Op
from qcompiler.ops.integer import ConvInteger, MatMulInteger
from qcompiler.ops.real import Conv, MatMul


def macs(node: Op) -> int:
    """Multiply-accumulates of one product; 0 for anything else."""
    match node:
        case Conv(weight=weight) | ConvInteger(weight=weight):
            return node.type.size * math.prod(weight.type.shape[1:])
        case MatMul(a) | MatMulInteger(a):
            return node.type.size * a.type.shape[-1]
    return 0
