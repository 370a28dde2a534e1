"""Importers of operators on codes (QOperator): the real operator between codes and codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qcompiler.frontends.onnx_codes import dequantized, quantized, storage_of
from qcompiler.frontends.onnx_contrib import INT, INTS, MICROSOFT, Required, define
from qcompiler.frontends.onnx_conv import conv
from qcompiler.frontends.onnx_linear import gemm, softmax, softmax_of_rows
from qcompiler.frontends.onnx_node import Importer, Node, importer
from qcompiler.frontends.onnx_pool import average_pool, global_average_pool
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    Cast,
    Concat,
    FakeQuantize,
    LeakyRelu,
    MatMul,
    Mul,
    Select,
    Sigmoid,
    scalar,
)
from qcompiler.types import FLOAT

_POOL: dict[str, Any] = {
    "kernel_shape": Required(INTS), "pads": INTS, "strides": INTS, "auto_pad": "NOTSET",
}  # fmt: skip
_TWO = "(A, A_scale, A_zero_point?, B, B_scale, B_zero_point?, C_scale, C_zero_point?) -> C"
_ONE = "(X, X_scale, X_zero_point?, Y_scale, Y_zero_point?) -> Y"

define(f"QLinearAdd{_TWO}")
define(f"QLinearMul{_TWO}")
define(f"QLinearSigmoid{_ONE}")
define(f"QLinearLeakyRelu{_ONE}", alpha=0.01)
define(
    "QLinearSoftmax(X, X_scale, x_zero_point?, y_scale, y_zero_point) -> Y",
    axis=-1,
    opset=Required(INT),
)
define(
    "QLinearAveragePool(X, x_scale, x_zero_point?, y_scale, y_zero_point?) -> Y",
    **_POOL,
    ceil_mode=0,
    count_include_pad=0,
    channels_last=0,
)
define(
    "QLinearGlobalAveragePool(X, x_scale, x_zero_point, y_scale, y_zero_point) -> Y",
    channels_last=0,
)
define("QLinearConcat(Y_scale, Y_zero_point, inputs*) -> Y", axis=Required(INT))
define(
    "QLinearWhere(condition, X, x_scale, x_zero_point, Y, y_scale, y_zero_point, z_scale, "
    "z_zero_point) -> Z"
)
define(
    "QLinearConv(x, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, B?) "
    "-> y",
    **{**_POOL, "kernel_shape": INTS},
    dilations=INTS,
    group=1,
    channels_last=0,
)
define(
    "QGemm(A, a_scale, a_zero_point, B, b_scale, b_zero_point, C?, y_scale?, y_zero_point?) -> Y",
    alpha=1.0,
    transA=0,
    transB=0,
)

Operand = tuple[int, int, int]  # places of codes, scale and zero point


def _real(node: Node, place: Operand, axis: int | None = None) -> Op:
    codes, scale, zero_point = (
        node.operand(place[0]),
        node.operand(place[1]),
        node.optional(place[2]),
    )
    if axis is not None:
        axis = None if scale.type.size == 1 else node.axis(axis, codes.type.rank)
    return dequantized(node, codes, scale, zero_point, axis)


def _coded(node: Node, y: Op, scale: int, like: Op) -> Op:
    """The result in codes; `like`: what holds codes of the same type, if no zero point does."""
    zero_point = node.optional(scale + 1)
    storage = storage_of(like if zero_point is None else zero_point)
    return quantized(node, y, node.operand(scale), zero_point, storage)


@importer("QLinearConv", since=10)
@importer("QLinearConv", domain=MICROSOFT)
def qlinear_conv(node: Node) -> Op:
    """A convolution; the bias has the scale x_scale·w_scale."""
    if node.integer("channels_last"):
        raise node.unsupported("channels_last")
    x, w = _real(node, (0, 1, 2)), _real(node, (3, 4, 5), 0)
    bias = _bias(node, node.optional(8), node.operand(1), node.operand(4))
    return _coded(node, conv(replace(node, inputs=(x, w, bias))), 6, node.x)


@importer("QLinearMatMul", since=10)
def qlinear_matmul(node: Node) -> Op:
    """A matrix product, with one scale, or one per row of a and per column of b."""
    a, b = _real(node, (0, 1, 2), -2), _real(node, (3, 4, 5), -1)
    return _coded(node, MatMul(a, b), 6, node.x)


@importer("QGemm", domain=MICROSOFT)
def qgemm(node: Node) -> Op:
    """alpha·(A'·B' + C), where ' transposes on demand; real without a scale of the result."""
    transposed = bool(node.integer("transB"))
    a, b = _real(node, (0, 1, 2)), _real(node, (3, 4, 5), 0 if transposed else 1)
    c = _bias(node, node.optional(6), node.operand(1), node.operand(4))
    alpha = node.number("alpha")
    attributes = {**node.attributes, "alpha": 1.0, "beta": 1.0}
    y = gemm(replace(node, inputs=(a, b, c), attributes=attributes))
    if alpha != 1:
        y = Mul(y, scalar(alpha, FLOAT))
    return y if node.optional(7) is None else _coded(node, y, 7, node.x)


def _bias(node: Node, bias: Op | None, x_scale: Op, w_scale: Op) -> Op | None:
    """An int32 bias as a real one."""
    if bias is None:
        return None
    if not isinstance(x_scale, Constant) or not isinstance(w_scale, Constant):
        return Mul(Cast(bias, FLOAT), Mul(x_scale, w_scale))
    scale = Constant(x_scale.array.reshape(-1)[:1] * w_scale.array.reshape(-1))
    return dequantized(node, bias, scale, None, bias.type.rank - 1 if scale.type.size > 1 else None)


def _binary(build: Callable[[Op, Op], Op]) -> Importer:
    def function(node: Node) -> Op:
        a, b = _constant(_real(node, (0, 1, 2))), _constant(_real(node, (3, 4, 5)))
        return _coded(node, build(a, b), 6, node.x)

    return function


def _unary(build: Callable[[Node, Op], Op]) -> Importer:
    return lambda node: _coded(node, build(node, _real(node, (0, 1, 2))), 3, node.x)


def _standard(build: Importer) -> Callable[[Node, Op], Op]:
    """The importer of the real operator."""

    def function(node: Node, x: Op) -> Op:
        if node.integer("channels_last"):
            raise node.unsupported("channels_last")
        result = build(replace(node, inputs=(x,)))
        assert isinstance(result, Op)
        return result

    return function


def _softmax(node: Node) -> Op:
    return softmax(node) if node.integer("opset") >= 13 else softmax_of_rows(node)


importer("QLinearAdd", domain=MICROSOFT)(_binary(Add))
importer("QLinearMul", domain=MICROSOFT)(_binary(Mul))
importer("QLinearSigmoid", domain=MICROSOFT)(_unary(lambda node, x: Sigmoid(x)))
importer("QLinearLeakyRelu", domain=MICROSOFT)(
    _unary(lambda node, x: LeakyRelu(x, alpha=node.number("alpha")))
)
importer("QLinearSoftmax", domain=MICROSOFT)(_unary(_standard(_softmax)))
importer("QLinearAveragePool", domain=MICROSOFT)(_unary(_standard(average_pool)))
importer("QLinearGlobalAveragePool", domain=MICROSOFT)(_unary(_standard(global_average_pool)))


@importer("QLinearConcat", domain=MICROSOFT)
def qlinear_concat(node: Node) -> Op:
    """Values of several scales, one behind the other."""
    count = len(node.inputs)
    if count < 5 or count % 3 != 2:
        raise node.broken(f"expected codes, scales and zero points, found {count - 2} operands")
    parts = tuple(_constant(_real(node, (i, i + 1, i + 2))) for i in range(2, count, 3))
    axis = node.axis(node.integer("axis"), parts[0].type.rank)
    return _coded(node, Concat(parts, axis), 0, node.operand(2))


@importer("QLinearWhere", domain=MICROSOFT)
def qlinear_where(node: Node) -> Op:
    """x where the condition holds, else y."""
    x, y = _constant(_real(node, (1, 2, 3))), _constant(_real(node, (4, 5, 6)))
    return _coded(node, Select(node.x, x, y), 7, node.operand(1))


def _constant(x: Op) -> Op:
    """Only the weights of products need exactly the codes that they had."""
    return x.x if isinstance(x, FakeQuantize) and isinstance(x.x, Constant) else x
