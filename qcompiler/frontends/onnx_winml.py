"""Importers of operators that ONNX dropped before version 1, and that old models of WinML have."""

from __future__ import annotations

import numpy as np

from qcompiler.frontends.onnx_activation import softplus_of
from qcompiler.frontends.onnx_contrib import FLOAT as REAL
from qcompiler.frontends.onnx_contrib import FLOATS, INTS, define
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Constant, Op
from qcompiler.ops import Add, Mul, Tanh, scalar
from qcompiler.types import FLOAT

define("Affine(X) -> Y", "", alpha=1.0, beta=0.0)
define("Crop(input) -> output", "", border=INTS, scale=INTS)
define("ImageScaler(input) -> output", "", bias=FLOATS, scale=1.0)
define("ParametricSoftplus(X) -> Y", "", alpha=REAL, beta=REAL)
define("ScaledTanh(input) -> output", "", alpha=REAL, beta=REAL)


@importer("Affine")
def affine(node: Node) -> Op:
    """alpha·x + beta."""
    scaled = Mul(node.x, scalar(node.number("alpha"), FLOAT))
    return Add(scaled, scalar(node.number("beta"), FLOAT))


@importer("ImageScaler")
def image_scaler(node: Node) -> Op:
    """scale·x + bias per channel."""
    _expect_image(node)
    bias = np.array(node.attributes.get("bias", ()), np.float32)
    if bias.shape != node.x.type.shape[1:2]:
        raise node.broken(f"bias: expected one for each channel of {node.x.type}")
    scaled = Mul(node.x, scalar(node.number("scale"), FLOAT))
    return Add(scaled, Constant(bias.reshape(-1, 1, 1)))


@importer("Crop")
def crop(node: Node) -> Op:
    """An image without its borders, or a part of a given size."""
    _expect_image(node)
    border, size = node.integers("border") or (), node.integers("scale") or ()
    if len(border) != 4 or len(size) not in (0, 2):
        raise node.broken(f"expected four borders and no size or two, found {border} and {size}")
    left, top, right, bottom = border
    height, width = node.x.type.shape[2:]
    stops = (top + size[0], left + size[1]) if size else (height - bottom, width - right)
    if not (0 <= top < stops[0] <= height and 0 <= left < stops[1] <= width):
        raise node.broken(f"border: expected a part of {node.x.type}, found {list(border)}")
    return sliced(node.x, {2: (top, stops[0], 1), 3: (left, stops[1], 1)})


@importer("ScaledTanh")
def scaled_tanh(node: Node) -> Op:
    """alpha·tanh(beta·x)."""
    inner = Tanh(Mul(node.x, scalar(node.number("beta", 1.0), FLOAT)))
    return Mul(inner, scalar(node.number("alpha", 1.0), FLOAT))


@importer("ParametricSoftplus")
def parametric_softplus(node: Node) -> Op:
    """alpha·log(1 + exp(beta·x))."""
    inner = Mul(node.x, scalar(node.number("beta", 1.0), FLOAT))
    return Mul(softplus_of(inner), scalar(node.number("alpha", 1.0), FLOAT))


def _expect_image(node: Node) -> None:
    if node.x.type.rank != 4:
        raise node.broken(f"expected [n, c, h, w], found {node.x.type}")
