"""Limits of size: what is just within is imported, what is beyond is refused or done otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import Builder, assert_agrees, refused

from qcompiler.errors import ModelError, QcompilerError, UnsupportedError
from qcompiler.frontends import (
    onnx_linear_attention,
    onnx_recurrence,
    onnx_resize,
    onnx_scan,
    onnx_signal,
)
from qcompiler.frontends.onnx import import_onnx
from qcompiler.ops import MatMul


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def one_node(op_type: str, *operands: Any, opset: int = 20, **attributes: Any) -> onnx.ModelProto:
    """A model of one node; shapes are inputs, arrays are constants."""
    b = Builder(opset)
    names = []
    for i, operand in enumerate(operands):
        if operand is None:
            names.append("")
        elif isinstance(operand, tuple):
            names.append(b.input(f"x{i}", list(operand)))
        else:
            names.append(b.constant(f"c{i}", operand))
    return b.model(b.node(op_type, *names, **attributes))


def within(limit: Any, name: str, size: int, model: onnx.ModelProto, monkeypatch: Any) -> bool:
    monkeypatch.setattr(limit, name, size)
    try:
        import_onnx(model)
    except QcompilerError:
        return False
    return True


@pytest.mark.parametrize(("direction", "count"), [("forward", 1), ("bidirectional", 2)])
def test_steps_of_all_directions(direction: str, count: int, monkeypatch) -> None:
    weights = zeros(count, 2, 4), zeros(count, 2, 2)
    for steps, fits in ((12 // count, True), (12 // count + 1, False)):
        model = one_node("RNN", (steps, 1, 4), *weights, hidden_size=2, direction=direction)
        assert within(onnx_recurrence, "STEPS", 12, model, monkeypatch) == fits


@pytest.mark.parametrize("parts", [1, 2])
def test_frames_of_signals(parts: int, monkeypatch) -> None:
    for length, fits in ((8, True), (9, False)):
        step, size = np.array(4), np.array(length)
        model = one_node("STFT", (1, 20, parts), step, None, size, onesided=0)
        assert within(onnx_signal, "_LARGEST_MATRIX", 64 * parts, model, monkeypatch) == fits


def test_taps_of_a_low_pass_filter(monkeypatch) -> None:
    sizes = np.array([1, 1, 4, 4])
    model = one_node("Resize", (1, 1, 12, 12), None, None, sizes, mode="linear", antialias=1)
    for limit, fits in ((12, True), (11, False)):  # 3 taps for each of 4
        assert within(onnx_resize, "_MOST_TAPS", limit, model, monkeypatch) == fits


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 27, reason="needs LinearAttention")
def test_tokens_of_linear_attention(monkeypatch) -> None:
    options = {"q_num_heads": 1, "kv_num_heads": 1, "update_rule": "linear"}
    for tokens, fits in ((6, True), (7, False)):
        model = one_node("LinearAttention", *[(1, tokens, 4)] * 3, opset=27, **options)
        assert within(onnx_linear_attention, "LONGEST", 6, model, monkeypatch) == fits


@pytest.mark.parametrize(("size", "product"), [(5, True), (6, True), (7, False)])
def test_running_sums_of_long_axes_are_no_product(size: int, product: bool, monkeypatch) -> None:
    monkeypatch.setattr(onnx_scan, "_LARGEST_TRIANGLE", 6)
    graph = import_onnx(one_node("CumSum", (2, size), np.array(1)))
    assert any(isinstance(x, MatMul) for x in graph.ops) == product


def test_heads_that_nobody_counts() -> None:
    model = one_node("Attention", *[(1, 5, 8)] * 3, opset=23)
    refused(ModelError, model, "heads")


def test_scales_of_another_axis() -> None:
    b = Builder()
    b.input("x", [2, 3], onnx.TensorProto.UINT8)
    scale = b.constant("scale", np.ones(4, np.float32))
    zero = b.constant("zero", np.zeros(4, np.uint8))
    refused(ModelError, b.model(b.node("DequantizeLinear", "x", scale, zero)), "4 scales")


def test_the_limit_of_steps_is_told() -> None:
    steps = onnx_recurrence.STEPS + 1
    model = one_node("RNN", (steps, 1, 4), zeros(1, 2, 4), zeros(1, 2, 2), hidden_size=2)
    refused(UnsupportedError, model, f"{steps} steps", "initial_h")


def test_what_is_scaled_to_one_place_is_the_first() -> None:
    sizes = np.array([1, 1, 1, 4])
    options = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    model = one_node("Resize", (1, 1, 5, 4), None, None, sizes, **options)
    x = np.random.default_rng(0).normal(size=(1, 1, 5, 4)).astype(np.float32)
    assert_agrees(model, {"x0": x})
