"""Error feedback against its definition: one channel at a time, and no blocks.

The reference eliminates each channel from H⁻¹ by the outer product of Frantar et al., "Optimal
Brain Compression" (2022), eq. 4; the pass takes the rows of a Cholesky factor instead.
"""

import numpy as np
import pytest

from qcompiler import fixed_point
from qcompiler.calibrate.moments import Moments
from qcompiler.graph import Constant, Graph, Input
from qcompiler.ops import Dequantize, MatMul, Quantize
from qcompiler.passes import RoundWeights
from qcompiler.types import FLOAT, TensorType


def reference(w: np.ndarray, scales: np.ndarray, high: int, h: np.ndarray) -> np.ndarray:
    """Codes of weights [k, n]: the channels of the largest inputs first, their errors passed on."""
    left, codes, inverse = w.astype(np.float64), np.zeros(w.shape, np.int64), np.linalg.inv(h)
    for i in np.argsort(-h.diagonal(), kind="stable"):
        codes[i] = np.clip(np.floor(left[i] / scales + 0.5), -high, high)
        error = (left[i] - codes[i] * scales) / inverse[i, i]
        left -= np.outer(inverse[:, i], error)
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return codes


def product(weight: np.ndarray, bias: np.ndarray | None = None) -> tuple[Graph, Quantize]:
    x = Input(TensorType(FLOAT, (5, len(weight))), name="x")
    q = fixed_point.weight_quantization(weight, "int4", 1)
    b = Quantize(Constant(weight), q)
    y = MatMul(x, Dequantize(b), None if bias is None else Constant(bias))
    return Graph((x,), {"y": y}), b


@pytest.mark.parametrize("bias", [None, np.float32([3, -2, 0.5])])
@pytest.mark.parametrize("channels", [1, 63, 64, 65, 130, 192])  # blocks have 64
def test_codes_are_those_of_one_channel_at_a_time(channels, bias):
    rng = np.random.default_rng(channels)
    rows = rng.normal(size=(300, channels)) @ rng.normal(size=(channels, channels)) + 0.5
    weight = rng.normal(size=(channels, 3)).astype(FLOAT)
    moments = Moments.of(channels)
    moments.update(rows.astype(FLOAT))
    graph, old = product(weight, bias)
    (y,) = RoundWeights(moments={"x": moments})(graph).outputs.values()

    h = moments.products / 300
    h[np.diag_indices(channels)] += 0.01 * h.diagonal().mean()
    scales = np.array(old.quantization.scale)
    codes = reference(weight, scales, 7, h)
    assert (y.b.x.array == codes).all()
    if channels > 1:
        assert (codes != fixed_point.quantize(weight, old.quantization)).any()
    missed = moments.mean @ (weight - codes * scales)
    assert np.allclose(y.bias.array, missed + (0 if bias is None else bias), atol=1e-5)
