"""AddNoise: spread rounding errors with a noise that the bias takes back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Constant, Graph, Op, fold, rebuilt
from qcompiler.invariants import quantized
from qcompiler.ops import Add, Dequantize, MatMul, Movement, Mul, Quantize
from qcompiler.passes.base import Pass, Preserves
from qcompiler.passes.linear import Linear, is_known

NOISE = "noise"
"""Name of the added constants: a value that has one gets no second."""


@dataclass(frozen=True)
class AddNoise(Pass):
    """Add a fixed noise per channel before rounding the inputs of matrix products.

    NoisyQuant (Liu et al. 2023, "NoisyQuant: Noisy Bias-Enhanced Post-Training Activation
    Quantization for Vision Transformers", eq. 5): round(x + n)·W + (b − n·W) with n uniform within
    one step.  Where many values share a place between two codes, as in heavy-tailed activations,
    their errors no longer have one sign.  The noise is a constant, so that it costs nothing: it
    joins the offset of the requantization, and its product with W the bias.

    Attributes:
        strength: Largest |n|, in steps.
        seed: Of the noise.
    """

    strength: float = 0.5
    seed: int = 0

    requires = (quantized,)
    ensures = (quantized,)
    preserves: ClassVar[Preserves] = "nothing"

    def run(self, graph: Graph) -> Graph:
        """Add noise wherever only products with known weights use the codes."""
        rng = np.random.default_rng(self.seed)
        noise: dict[Op, np.ndarray] = {}
        for node in graph.ops:
            if _is_noisy_place(node, graph):
                assert isinstance(node, Dequantize)
                assert isinstance(node.x, Quantize)
                bound = self.strength * node.x.quantization.scale[0]
                noise[node] = rng.uniform(-bound, bound, node.type.shape[-1]).astype(np.float32)
        if not noise:
            return graph

        def visit(node: Op, operands: list[Op]) -> Op:
            new = rebuilt(node, operands)
            if node in noise:
                return _with_noise(new, noise[node])
            if isinstance(node, MatMul) and node.a in noise:
                return _compensated(new, noise[node.a])
            return new

        return graph.with_outputs(fold(graph.outputs.values(), {}, visit))


def _is_noisy_place(node: Op, graph: Graph) -> bool:
    match node:
        case Dequantize(Quantize(Add() | Mul() | MatMul() as value, q)):
            pass
        case _:
            return False
    if q.axis is not None or q.bounds.bits > 8 or isinstance(value, Movement):
        return False
    if isinstance(value, Add) and isinstance(value.b, Constant) and value.b.name == NOISE:
        return False
    users = graph.users[node]
    private = len(graph.users[node.operands[0]]) == 1 and not graph.is_output(node)
    return bool(users) and private and all(_is_known_product(u, node) for u in users)


def _is_known_product(user: Op, x: Op) -> bool:
    match user:
        case MatMul(a, Dequantize(Quantize(Constant() as w) | (Constant() as w)), bias):
            return a is x and w.type.rank == 2 and is_known(bias)
    return False


def _with_noise(node: Op, noise: np.ndarray) -> Op:
    assert isinstance(node, Dequantize)
    assert isinstance(node.x, Quantize)
    moved = Add(node.x.x, Constant(noise, name=NOISE), sources=node.x.sources)
    return dataclasses.replace(node, x=dataclasses.replace(node.x, x=moved))


def _compensated(node: Op, noise: np.ndarray) -> Op:
    """b' = b − n·Ŵ, with the weights as they are rounded."""
    assert isinstance(node, MatMul)
    assert isinstance(node.b, Dequantize)
    codes = node.b.x
    if isinstance(codes, Quantize):
        assert isinstance(codes.x, Constant)
        weight = node.b.numpy(codes.numpy(codes.x.array))
    else:
        assert isinstance(codes, Constant)
        weight = node.b.numpy(codes.array)
    bias = node.bias.array if isinstance(node.bias, Constant) else None
    total = Linear(node, weight, bias).without(noise.astype(np.float64))
    return dataclasses.replace(node, bias=Constant(total.astype(np.float32)))
