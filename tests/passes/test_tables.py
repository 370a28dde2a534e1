"""Functions of codes: their range, and how many tables there may be."""

from __future__ import annotations

import numpy as np
import pytest
from spec_ops import function

from qcompiler.graph import Constant, Input
from qcompiler.ops import Dequantize, Mul, Quantize, Relu, scalar
from qcompiler.passes.tables import image, to_table
from qcompiler.types import FLOAT, Quantization, TensorType


@pytest.mark.parametrize(
    ("most", "bounds"), [(1000.0, (-256.0, 254.0)), (255.0, (-255.0, 254.0)), (9.0, (-9.0, 9.0))]
)
def test_the_range_of_a_function_of_all_codes(most: float, bounds: tuple[float, float]) -> None:
    codes = Input(TensorType("int8", (3,), Quantization.per_tensor("int8", 1.0)), name="x")
    assert image(function(Dequantize(codes), lambda v: Mul(v, scalar(2, FLOAT))), most) == bounds


@pytest.mark.parametrize(("channels", "fits"), [(16, True), (17, False)])
def test_tables_of_16_bits_for_each_channel(channels: int, fits: bool) -> None:
    """2^20 entries in all."""
    q = Quantization.per_tensor("int16", 0.001)
    codes = Input(TensorType("int16", (2, channels), q), name="x")
    factors = Constant(np.arange(1, channels + 1, dtype=FLOAT))
    value = Mul(function(Dequantize(codes), Relu), factors)
    assert (to_table(Quantize(value, q)) is not None) == fits
