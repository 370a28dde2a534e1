"""Whatever bytes are imported, nothing but a one-line error comes out, in little memory."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import Builder, refused

from qcompiler.errors import (
    ModelError,
    QcompilerError,
)
from qcompiler.frontends.onnx import import_onnx

RNG = np.random.default_rng(2)
DIGITS = Path(__file__).parents[2] / "models/digits/cnn.onnx"


@pytest.mark.parametrize("op_type", ["Expand", "ConstantOfShape", "Tile", "Range", "Pad", "OneHot"])
def test_small_files_cannot_ask_for_large_tensors(op_type: str) -> None:
    b = Builder()
    b.input("x", [1])
    many = b.constant("many", np.array([1 << 33, 1 << 31]))
    operands = {
        "Expand": ("x", many),
        "ConstantOfShape": (many,),
        "Tile": (b.constant("t", np.ones((1, 1), np.float32)), many),
        "Pad": (b.constant("p", np.ones(1, np.float32)), many),
        "Range": tuple(b.constant(f"r{i}", np.array(v)) for i, v in enumerate((0, 1 << 40, 1))),
        "OneHot": (
            b.constant("i", np.array([0])),
            b.constant("depth", np.array(1 << 40)),
            b.constant("v", np.array([0, 1], np.float32)),
        ),
    }[op_type]
    large = b.node(op_type, *operands, name="large")
    with pytest.raises(QcompilerError, match="large"):
        import_onnx(b.model(b.node("Add", "x", large)))


def test_many_folded_constants_are_refused() -> None:
    b = Builder()
    hidden = b.node("ConstantOfShape", b.constant("n", np.array([1 << 23])))
    for _ in range(64):
        hidden = b.node("Abs", hidden)
    refused(ModelError, b.model(hidden), "computed from constants")


def never_escapes(data: bytes) -> bool:
    """Whether the bytes were refused; anything but a one-line `QcompilerError` fails the test."""
    try:
        import_onnx(data)
    except QcompilerError as error:
        message = str(error)
    else:
        return False
    assert "\n" not in message
    return True


def test_truncated_files() -> None:
    data = DIGITS.read_bytes()
    cuts = range(0, len(data), max(50, len(data) // 2000))
    assert all(never_escapes(data[:cut]) for cut in cuts)


def varied() -> onnx.ModelProto:
    """A model small enough that flipped bits hit its structure, with many kinds of nodes."""
    b = Builder(opset=17)
    b.input("x", [1, 4, 8, 8])
    b.constant("w", RNG.standard_normal((4, 2, 3, 3), np.float32))
    b.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    parameters = [b.constant(f"p{i}", np.ones(4, np.float32)) for i in range(4)]
    h = b.node("Conv", "x", "w", group=2, strides=[1, 1], auto_pad="SAME_UPPER", name="conv")
    h = b.node("BatchNormalization", h, *parameters, epsilon=1e-3)
    h = b.node("Clip", h, b.constant("low", np.float32(0)), b.constant("high", np.float32(6)))
    h = b.node("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    h = b.node("AveragePool", b.node("Pad", h, "pads"), kernel_shape=[3, 3], count_include_pad=1)
    shape = b.node("Shape", h)
    batch = b.node("Slice", shape, *(b.constant(f"s{i}", np.array([i])) for i in range(2)))
    target = b.node("Concat", batch, b.constant("rest", np.array([-1])), axis=0)
    b.node("Split", b.node("Reshape", h, target), outputs=("left", "right"), axis=1)
    h = b.node("Softmax", b.node("Mul", "left", "right"), axis=-1)
    h = b.node("Gemm", h, b.constant("g", np.ones((32, 5), np.float32)), alpha=0.5)
    h = b.node(
        "Transpose", b.node("Expand", h, b.constant("e", np.array([3, 1, 1]))), perm=[1, 0, 2]
    )
    return b.model(b.node("ReduceMean", h, axes=[1], keepdims=0, outputs=("y",)))


def test_flipped_bytes() -> None:
    data = varied().SerializeToString()
    import_onnx(data)
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(700):
            damaged = bytearray(data)
            for position in RNG.integers(0, len(data), RNG.integers(1, 4)):
                damaged[position] = RNG.integers(0, 256)
            outcomes.add(never_escapes(bytes(damaged)))
    assert outcomes == {True, False}


def test_flipped_bits_everywhere() -> None:
    data = varied().SerializeToString()
    for position in range(0, len(data), 2):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(RNG.integers(0, 8))
        never_escapes(bytes(damaged))
