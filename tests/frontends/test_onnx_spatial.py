"""Operators on images and signals as integers: nothing stays in float, and little is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import Builder

import qcompiler
from qcompiler.errors import QcompilerError
from qcompiler.interpret import evaluate
from qcompiler.invariants import float_ops

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape, np.float32))


SIZES = np.array([1, 4, 9, 7], np.int64)
ROIS = np.array([[0, 0, 3, 4], [1, 1.5, 7, 5], [-2, -1, 2.5, 9]], np.float32)
BOXES = np.array([[0, 0, 0, 5, 4], [0, 1, 1, 2, 3]], np.float32)
IMAGES, STEP = np.array([0, 0, 0]), np.array(8)
CASES: list[tuple[str, tuple[int, ...], list[Any], dict[str, Any]]] = [
    ("Conv", (1, 4, 9), [normal(6, 2, 3)], {"group": 2}),
    ("Conv", (1, 4, 5, 6, 4), [normal(6, 2, 3, 3, 2), normal(6)], {"group": 2, "pads": [1] * 6}),
    ("ConvTranspose", (1, 4, 9), [normal(4, 3, 4)], {"strides": [2], "pads": [1, 1]}),
    ("ConvTranspose", (1, 4, 5, 6), [normal(4, 3, 3, 3)], {"strides": [2, 2], "group": 2}),
    ("MaxPool", (1, 2, 4, 6, 5), [], {"kernel_shape": [2, 3, 2]}),
    ("AveragePool", (1, 2, 4, 6, 5), [], {"kernel_shape": [2, 3, 2], "pads": [1] * 6}),
    ("LpPool", (1, 2, 6, 5), [], {"kernel_shape": [2, 2]}),
    ("Pad", (1, 2, 6, 5), [np.array([0, 0, 2, 1] * 2)], {"mode": "reflect"}),
    ("GridSample", (1, 3, 6, 5), [np.tanh(normal(1, 4, 5, 2))], {}),
    ("RoiAlign", (1, 3, 5, 6), [ROIS, IMAGES], {"output_height": 2, "output_width": 3}),
    ("RoiAlign", (1, 3, 5, 6), [ROIS, IMAGES], {"mode": "max", "sampling_ratio": 2}),
    ("MaxRoiPool", (1, 3, 5, 6), [BOXES], {"pooled_shape": [2, 3]}),
    ("DeformConv", (1, 2, 6, 5), [normal(3, 2, 2, 2), normal(1, 8, 5, 4)], {}),
    ("Col2Im", (1, 8, 6), [np.array([3, 4]), np.array([2, 2])], {}),
    ("LRN", (1, 6, 4, 5), [], {"size": 3, "alpha": 0.5}),
    ("DFT", (1, 16, 1), [None, np.array(1)], {"onesided": 1}),
    ("STFT", (1, 64, 1), [STEP, np.hanning(16).astype(np.float32)], {}),
    ("Resize", (1, 4, 6, 5), [None, None, SIZES], {"mode": "nearest"}),
    ("Resize", (1, 4, 6, 5), [None, None, SIZES], {"mode": "linear"}),
    ("Resize", (1, 4, 6, 5), [None, None, SIZES], {"mode": "cubic"}),
    ("Resize", (1, 4, 16, 15), [None, None, SIZES], {"mode": "linear", "antialias": 1}),
    (
        "Resize",
        (1, 4, 6, 5),
        [np.array([0, 0, 0, 0.1, 1, 1, 1.1, 0.9], np.float32), None, SIZES],
        {
            "mode": "linear",
            "coordinate_transformation_mode": "tf_crop_and_resize",
            "extrapolation_value": 0.5,
        },
    ),
]


def one_node(
    op_type: str,
    shape: tuple[int, ...],
    constants: list[Any],
    attributes: dict[str, Any],
    relu: bool = False,
) -> onnx.ModelProto:
    """One operator, called culprit, of an input, or of what Relu makes of it, and of constants."""
    b = Builder(opset=20)
    b.input("x", list(shape))
    names = [
        "" if value is None else b.constant(f"c{i}", value) for i, value in enumerate(constants)
    ]
    x = b.node("Relu", "x") if relu else "x"
    b.node(op_type, x, *names, outputs=("y",), name="culprit", **attributes)
    return b.model("y")


@pytest.mark.parametrize(
    ("op_type", "shape", "constants", "attributes"),
    [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(CASES)],
)
def test_is_integer_only(
    op_type: str, shape: tuple[int, ...], constants: list[Any], attributes: dict[str, Any]
) -> None:
    graph = qcompiler.import_onnx(one_node(op_type, shape, constants, attributes, relu=True))
    feeds = {"x": normal(*shape)}
    integer = qcompiler.quantize(graph, feeds)
    assert not list(float_ops(integer))
    expected, found = evaluate(graph, feeds)["y"], evaluate(integer, feeds)["y"]
    noise = np.square(found - expected).sum()
    assert np.square(expected).sum() > 10**3 * noise  # 30 dB


HUGE = 1 << 40


@pytest.mark.parametrize(
    ("op_type", "shape", "constants", "attributes"),
    [
        ("ConvTranspose", (1, 1, 4), [normal(1, 1, 3)], {"output_shape": [HUGE]}),
        ("ConvTranspose", (1, 1, 4), [normal(1, 1, 3)], {"strides": [HUGE]}),
        ("MaxPool", (1, 1, 4), [], {"kernel_shape": [2], "pads": [HUGE, HUGE]}),
        ("LpPool", (1, 1, 4), [], {"kernel_shape": [2], "p": HUGE}),
        ("MaxRoiPool", (1, 1, 4, 4), [BOXES], {"pooled_shape": [HUGE, 1]}),
        ("RoiAlign", (1, 1, 4, 4), [ROIS, IMAGES], {"output_height": HUGE}),
        ("RoiAlign", (1, 1, 4, 4), [ROIS, IMAGES], {"sampling_ratio": HUGE}),
        ("RoiAlign", (1, 1, 4, 4), [ROIS * np.float32(1e20), IMAGES], {}),
        ("Col2Im", (1, 4, 9), [np.array([HUGE, HUGE]), np.array([2, 2])], {}),
        ("AffineGrid", (1, 2, 3), [np.array([1, 1, HUGE, 2])], {}),
        ("LRN", (1, 2, 3, 3), [], {"size": HUGE}),
        ("DFT", (1, 4, 1), [np.array(HUGE)], {}),
        ("STFT", (1, 4, 1), [np.array(0), normal(4)], {}),
        ("Pad", (1, 4), [np.array([0, 0, 0, HUGE])], {"mode": "edge"}),
        ("Resize", (1, 1, 4), [None, None, np.array([1, 1, HUGE])], {}),
        ("Resize", (1, 1, 4), [None, np.array([1, 1, 1e30], np.float32)], {}),
    ],
)
def test_sizes_are_checked_before_memory_is_taken(
    op_type: str, shape: tuple[int, ...], constants: list[Any], attributes: dict[str, Any]
) -> None:
    model = one_node(op_type, shape, constants, attributes)
    with pytest.raises(QcompilerError, match="culprit"):
        qcompiler.import_onnx(model)
