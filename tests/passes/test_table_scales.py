"""Scales per channel in front of a table: powers of two, as many as the configuration says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from qcompiler.config import QuantizationConfig
from qcompiler.graph import Constant, Graph, Input
from qcompiler.ops import MatMul, Mul, Quantize, Sigmoid
from qcompiler.passes import CollapseUnary, InsertQdq
from qcompiler.passes.evidence import FixedRanges
from qcompiler.types import FLOAT, TensorType


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_as_many_scales_as_the_configuration_says(count: int) -> None:
    rng = np.random.default_rng(0)
    x = Input(TensorType(FLOAT, (4, 6)), name="x")
    first, second = (Constant(rng.normal(size=s).astype(FLOAT)) for s in ((6, 5), (5, 3)))
    h = dataclasses.replace(MatMul(x, first), name="h")
    graph = CollapseUnary()(Graph((x,), {"y": MatMul(Mul(h, Sigmoid(h)), second)}))
    bounds = 8.0 * 2.0 ** -np.array([0, 0.5, 1, 2.5, 9])
    ranges = FixedRanges(
        dict.fromkeys(graph.names.values(), (-8.0, 8.0)), {"h": (-bounds, 0.5 * bounds)}
    )
    after = InsertQdq(ranges, config=QuantizationConfig(table_scales=count))(graph)
    (q,) = [n.quantization for n in after.ops if isinstance(n, Quantize) and n.x.name == "h"]
    exponents = np.log2(q.scale[0] / np.array(q.scale))
    expected = np.minimum([0, 0, 1, 2, 9], count - 1)
    assert exponents.tolist() == (expected.tolist() if count > 1 else [0.0])
