"""Rare forms of operators: their values, and which ops they become."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_models import Builder, assert_agrees

from qcompiler.frontends.onnx import import_onnx
from qcompiler.frontends.onnx_sampling import linear_kernel, weighted
from qcompiler.interpret import evaluate
from qcompiler.ops import BatchNormalization, Pow

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape, np.float32))


@pytest.mark.parametrize("exponent", [-1, -0.5, 0.5, 1, 2, 3, 4])
def test_usual_powers_are_products_and_roots(exponent: float) -> None:
    b = Builder()
    b.input("x", [3])
    model = b.model(b.node("Pow", "x", b.constant("y", np.float32(exponent))))
    assert not any(isinstance(x, Pow) for x in import_onnx(model).ops)
    assert_agrees(model, {"x": np.array([0.5, 1, 3], np.float32)})


def test_computed_statistics_are_no_normalization_to_be_folded() -> None:
    b = Builder()
    names = [b.input(name, [3]) for name in ("scale", "bias", "mean", "variance")]
    model = b.model(b.node("BatchNormalization", b.input("x", [2, 3, 4]), *names))
    assert not any(isinstance(x, BatchNormalization) for x in import_onnx(model).ops)
    feeds = {"x": normal(2, 3, 4), **{name: np.abs(normal(3)) + 1 for name in names}}
    assert_agrees(model, feeds)


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 24, reason="needs masks of other lengths")
@pytest.mark.parametrize("dtype", ["bool", "float32"])
def test_keys_beyond_a_mask_are_not_seen(dtype: str) -> None:
    mask = normal(2, 3) > 0 if dtype == "bool" else normal(2, 3)
    results = []
    q, k, v = normal(1, 2, 2, 4), normal(1, 2, 5, 4), normal(1, 2, 5, 6)
    for keys in (5, 3):
        feeds = {"q": q, "k": k[:, :, :keys], "v": v[:, :, :keys], "mask": mask}
        b = Builder(opset=24)
        kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(x.dtype) for name, x in feeds.items()}
        names = [b.input(name, list(x.shape), kinds[name]) for name, x in feeds.items()]
        b.node("Attention", *names, outputs=("y",))
        results.append(evaluate(import_onnx(b.model("y")), feeds)["y"])
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_what_lies_outside_is_made_of_nothing() -> None:
    places = np.array([-9.0, 1.0, 2.5])
    found = weighted(places, 4, linear_kernel, 1, exclude_outside=True)
    assert found.weights is not None
    assert found.weights.tolist() == [[0, 0], [1, 0], [0.5, 0.5]]
    assert found.places.tolist() == [[0, 0], [1, 2], [2, 3]]
