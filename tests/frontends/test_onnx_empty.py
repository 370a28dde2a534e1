"""Values without elements: known at once, whatever computes them, and no kernel's business."""

from __future__ import annotations

import numpy as np
from onnx_models import Builder, assert_agrees

import qcompiler

X = np.arange(8, dtype=np.float32).reshape(2, 4)


def split(b: Builder) -> tuple[str, str]:
    """All of x, and nothing of it."""
    b.input("x", [2, 4])
    b.node("Split", "x", b.constant("sizes", np.array([4, 0])), outputs=("all", "none"), axis=1)
    return "all", "none"


def test_outputs_without_elements() -> None:
    b = Builder()
    model = b.model(*split(b))
    assert_agrees(model, {"x": X})
    found = qcompiler.compile(model, "cpu", [{"x": X}])(X)
    assert found["none"].shape == (2, 0)
    np.testing.assert_allclose(found["all"], X, atol=1e-5)


def test_a_model_that_returns_nothing_else() -> None:
    b = Builder()
    _, none = split(b)
    model = b.model(b.node("Relu", none))
    (found,) = qcompiler.compile(model, "cpu", [{"x": X}])(X).values()
    assert found.shape == (2, 0)


def test_what_uses_them() -> None:
    b = Builder()
    x, none = split(b)
    joined = b.node("Concat", none, b.node("Relu", x), none, axis=1)
    total = b.node("ReduceSum", b.node("Relu", none))
    product = b.node("MatMul", none, b.constant("w", np.empty((0, 3), np.float32)))
    model = b.model(joined, b.node("Add", total, b.node("Add", product, "x0")))
    b.input("x0", [2, 3])
    model = b.model(*(y.name for y in model.graph.output))
    assert_agrees(model, {"x": X, "x0": X[:, :3]})
