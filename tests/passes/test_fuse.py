"""Fuse: what becomes one kernel."""

from __future__ import annotations

from qcompiler.graph import Graph, Input, Op
from qcompiler.ops import Fused, Pad, Quantize, Transpose
from qcompiler.passes import Fuse
from qcompiler.types import FLOAT, Quantization, TensorType

ROWS = Input(TensorType(FLOAT, (2, 3, 4)), name="x")
CODES = Quantize(ROWS, Quantization.per_tensor("uint8", 0.1, 3))


def kernels(**outputs: Op) -> list[list[str]]:
    """The kinds of ops in each kernel, in order."""
    after = Fuse()(Graph((ROWS,), outputs))
    computed = [x for x in after.ops if not isinstance(x, Input)]
    return [
        [y.kind() for y in x.region.ops if not isinstance(y, Input)]
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
