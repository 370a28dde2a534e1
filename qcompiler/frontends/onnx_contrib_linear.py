"""Importers of products that ONNX Runtime's optimizer fuses, and of weights that it packs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from qcompiler.frontends.onnx_activation import biased, gelu_by_tanh
from qcompiler.frontends.onnx_contrib import MICROSOFT
from qcompiler.frontends.onnx_conv import conv
from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_linear import gemm, product
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    Clip,
    HardSigmoid,
    LeakyRelu,
    MatMul,
    Mul,
    Relu,
    Sigmoid,
    Tanh,
    Transpose,
    scalar,
)
from qcompiler.types import FLOAT

Numbers = tuple[float, ...]

_ACTIVATIONS: dict[str, Callable[[Op, Numbers], Op]] = {
    "Clip": lambda x, p: Clip(x, p[0], p[1]),
    "HardSigmoid": lambda x, p: HardSigmoid(x, alpha=p[0], beta=p[1]),
    "LeakyRelu": lambda x, p: LeakyRelu(x, alpha=p[0]),
    "Relu": lambda x, p: Relu(x),
    "Sigmoid": lambda x, p: Sigmoid(x),
    "Tanh": lambda x, p: Tanh(x),
}


def _activated(node: Node, x: Op, parameters: Numbers) -> Op:
    if not (name := node.text("activation")):
        return x
    if name not in _ACTIVATIONS:
        raise node.unsupported(f"activation={name}")
    return _ACTIVATIONS[name](x, parameters)


@importer("FusedMatMul", domain=MICROSOFT)
@importer("TransposeMatMul", domain=MICROSOFT)
def fused_matmul(node: Node) -> Op:
    """alpha·A'·B', where ' transposes the last axes, or takes the first one behind the batch."""
    a, b = (_matrices(node, i, which) for i, which in enumerate("AB"))
    if isinstance(b, Constant):
        return product(node, a, _scaled(b, node.number("alpha")))
    return _scaled(product(node, a, b), node.number("alpha"))


def _matrices(node: Node, index: int, which: str) -> Op:
    x = node.operand(index)
    axes = list(range(x.type.rank))
    if len(axes) < 2:
        return x
    if node.integer(f"transBatch{which}"):
        axes = [*axes[1:-1], 0, axes[-1]]
    if node.integer(f"trans{which}"):
        axes[-2:] = axes[-1], axes[-2]
    return x if axes == sorted(axes) else simplified(Transpose(x, tuple(axes)))


def _scaled(x: Op, factor: float) -> Op:
    return x if factor == 1 else simplified(Mul(x, scalar(factor, FLOAT)))


@importer("FusedGemm", domain=MICROSOFT)
def fused_gemm(node: Node) -> Op:
    """Gemm and an activation."""
    names = ("activation_alpha", "activation_beta")
    return _activated(node, gemm(node), tuple(node.number(name) for name in names))


@importer("GemmFastGelu", domain=MICROSOFT)
def gemm_fast_gelu(node: Node) -> Op:
    """GELU by tanh of a product and a bias."""
    return gelu_by_tanh(biased(node, MatMul(node.x, node.operand(1)), node.optional(2)))


@importer("FusedConv", domain=MICROSOFT)
def fused_conv(node: Node) -> Op:
    """Convolution, a residual sum and an activation."""
    y = conv(node)
    if (skip := node.optional(3)) is not None:
        y = biased(node, y, skip)
    parameters = tuple(float(v) for v in node.attributes.get("activation_params", ()))
    return _activated(node, y, parameters)


@importer("MatMulNBits", domain=MICROSOFT)
def matmul_of_bits(node: Node) -> Op:
    """A·Wᵀ + bias with W's elements in 2 to 8 bits, scaled block by block: W as real numbers."""
    outputs, inner = node.integer("N"), node.integer("K")
    bits, block = node.integer("bits"), node.integer("block_size")
    if node.optional(4) is not None:
        raise node.unsupported("g_idx")
    if node.integer("weight_prepacked"):
        raise node.unsupported("weight_prepacked")
    if bits not in (2, 4, 8) or block < 1 or min(outputs, inner) < 1:
        raise node.unsupported(f"bits={bits}, block_size={block}, N={outputs} and K={inner}")
    packed, scales = node.known(1, "weights"), node.known(2, "scales")
    assert packed is not None
    assert scales is not None
    blocks = -(-inner // block)
    fits = packed.dtype == np.uint8 and packed.size * 8 == outputs * blocks * block * bits
    if not fits or scales.size != outputs * blocks:
        raise node.broken(f"expected {outputs}·{blocks} blocks, found {node.operand(1).type}")
    codes = _codes(packed.reshape(outputs, blocks, -1), bits).astype(np.float32)
    weight = (codes - _zeros(node, outputs, blocks, bits)) * scales.reshape(outputs, blocks, 1)
    columns = weight.astype(np.float32).reshape(outputs, -1)[:, :inner].T
    y = MatMul(node.x, Constant(np.ascontiguousarray(columns)))
    bias = node.optional(5)
    return y if bias is None else Add(y, bias)


def _zeros(node: Node, outputs: int, blocks: int, bits: int) -> np.ndarray:
    """The code of 0 in each block, [N, blocks, 1]: half the range where the model says nothing."""
    zeros = node.known(3, "zero points")
    if zeros is None:
        return np.full((1, 1, 1), 1 << bits - 1, np.float32)
    if zeros.dtype == np.uint8:  # rows of codes, each padded to whole bytes
        width = math.ceil(blocks * bits / 8)
        if zeros.size != outputs * width:
            raise node.broken(f"expected {outputs}·{blocks} zero points, found {zeros.size}")
        zeros = _codes(zeros.reshape(outputs, width), bits)[:, :blocks]
    if zeros.size != outputs * blocks:
        raise node.broken(f"expected {outputs}·{blocks} zero points, found {zeros.size}")
    return zeros.reshape(outputs, blocks, 1).astype(np.float32)


def _codes(packed: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [..., n] as n·8 / bits codes, the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    found = packed[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return found.reshape(*packed.shape[:-1], -1)
