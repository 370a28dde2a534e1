"""Rounding without data: sums of errors within a kernel and an output channel."""

import numpy as np
import pytest

from qcompiler import fixed_point
from qcompiler.config import QuantizationConfig
from qcompiler.graph import Constant, Graph, Input
from qcompiler.ops import Conv, Dequantize, MatMul, Quantize, Reshape, Window
from qcompiler.passes import RoundWeights
from qcompiler.passes.balance import balanced_codes
from qcompiler.types import FLOAT, Quantization, TensorType


def errors(w: np.ndarray, axis: int, storage: str) -> tuple[np.ndarray, np.ndarray]:
    """Errors in steps of the nearest and of the balanced codes, output channels first."""
    q = fixed_point.weight_quantization(w, storage, axis)
    steps = w / q.scales(w.ndim)
    codes = balanced_codes(w, q, axis)
    assert codes.dtype == q.bounds.dtype
    found = (fixed_point.quantize(w, q) - steps, codes - steps)
    first, second = (np.moveaxis(e, axis, 0) for e in found)
    return first, second


@pytest.mark.parametrize("storage", ["int8", "int4"])
@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (8, 1, 5, 5), (4, 7, 1, 1)])
def test_errors_of_kernels_and_channels_cancel(shape, storage):
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nearest, balanced = errors(w, 0, storage)
    assert np.abs(balanced).max() < 1.01  # the second nearest code, at most
    kernels = np.abs(balanced.reshape(*shape[:2], -1).sum(-1))
    assert kernels.max() <= 1.51  # one more step where the channel's sum needs it
    channels = (np.abs(e.reshape(shape[0], -1).sum(1)) for e in (nearest, balanced))
    before, after = channels
    assert after.max() <= 0.51 < before.max()


def test_columns_of_a_matrix_are_channels():
    w = np.random.default_rng(1).normal(size=(40, 9)).astype(np.float32)
    nearest, balanced = errors(w, 1, "int8")
    assert np.abs(balanced.sum(1)).max() <= 0.51 < np.abs(nearest.sum(1)).max()


def test_codes_that_are_exact_stay():
    w = np.arange(-60, 60, dtype=np.float32).reshape(4, 30)
    q = Quantization.per_tensor("int8", 1.0)
    assert (balanced_codes(w, q, 1) == w).all()


def test_the_configuration_reaches_convolutions_and_products():
    rng = np.random.default_rng(2)
    x = Input(TensorType(FLOAT, (1, 3, 4, 4)), name="x")
    weights = [rng.normal(size=shape).astype(FLOAT) for shape in ((4, 3, 3, 3), (4, 5))]
    meanings = [fixed_point.weight_quantization(w, "int8", i) for i, w in enumerate(weights)]
    kernel, matrix = (
        Dequantize(Quantize(Constant(w), q)) for w, q in zip(weights, meanings, strict=True)
    )
    rows = Dequantize(Quantize(x, Quantization.per_tensor("int8", 0.1)))
    image = Reshape(Conv(rows, kernel, None, Window((3, 3))), (4, 4))
    graph = Graph((x,), {"y": MatMul(image, matrix)})
    assert RoundWeights("nearest")(graph) is graph
    config = QuantizationConfig(rounding="balanced")
    (product,) = RoundWeights("nearest", config=config)(graph).outputs.values()
    for axis, node in enumerate((product.a.x, product)):
        w, q = weights[axis], meanings[axis]
        codes = node.operands[1].x.array
        assert (codes == balanced_codes(w, q, axis)).all()
        assert not (codes == fixed_point.quantize(w, q)).all()
