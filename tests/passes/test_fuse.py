"""Fuse: what becomes one kernel."""

from __future__ import annotations

import numpy as np

from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.ops import Fused, MatMulInteger, Pad, Quantize, Requantize, Transpose
from qcompiler.passes import Fuse
from qcompiler.types import FLOAT, Quantization, TensorType

ROWS = Input(TensorType(FLOAT, (2, 3, 4)), name="x")
CODES = Quantize(ROWS, Quantization.per_tensor("uint8", 0.1, 3))


def kernels(**outputs: Op) -> list[list[str]]:
    """The kinds of ops in each kernel, in order."""
    after = Fuse()(Graph((ROWS,), outputs))
    computed = [x for x in after.ops if not isinstance(x, (Input, Constant))]
    return [
        [y.kind() for y in x.region.ops if not isinstance(y, (Input, Constant))]
        if isinstance(x, Fused)
        else [x.kind()]
        for x in computed
    ]


def test_codes_are_moved_as_they_are_made() -> None:
    moved = Transpose(CODES, (0, 2, 1))
    assert kernels(y=moved) == [["quantize", "transpose"]]
    padded = Pad(moved, (0, 0, 0), (0, 1, 1), 3)
    assert kernels(y=padded) == [["quantize", "transpose", "pad"]]


def test_codes_that_others_read_are_made_once() -> None:
    assert kernels(y=Transpose(CODES, (0, 2, 1)), codes=CODES) == [["quantize"], ["transpose"]]


def test_a_kernel_has_one_product() -> None:
    x = Transpose(CODES, (0, 2, 1))
    products = [
        MatMulInteger(x, Constant(np.full((3, 5), v, np.int8), name=f"w{v}")) for v in (1, 2)
    ]
    factor, half = Constant(np.array(1 << 20, np.int32)), Constant(np.array(1 << 29))
    y = Requantize(tuple(products), (factor, factor), half, 30, CODES.quantization)
    found = kernels(y=y)
    assert sorted(map(tuple, found)) == [
        ("mat_mul_integer",),
        ("mat_mul_integer", "requantize"),
        ("quantize", "transpose"),
    ]
