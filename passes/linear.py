"""Products with known weights and bias, seen alike: convolutions and matrix products."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from qcompiler.graph import Constant, Op
from qcompiler.ops import Conv, MatMul


@dataclass(frozen=True)
class Linear:
    """x·W + b with numbers for W and b.

    Attributes:
        node: The product.
        weight: [o, i, kh, kw] of a convolution, [..., k, n] of a matrix product.
        bias: One number per output channel; None where there is none.
    """

    node: Conv | MatMul
    weight: np.ndarray
    bias: np.ndarray | None

    @property
    def x(self) -> Op:
        """The other operand."""
        return self.node.operands[0]

    @property
    def groups(self) -> int:
        """Groups of channels, each a product for itself."""
        return self.node.groups if isinstance(self.node, Conv) else 1

    @property
    def reals(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias in float64; zeros where there is no bias."""
        none = np.zeros(self.node.type.shape[output_axis(self.node)])
        bias = none if self.bias is None else self.bias.astype(np.float64)
        return self.weight.astype(np.float64), bias

    def replaced(self, x: Op, weight: np.ndarray, bias: np.ndarray | None) -> Op:
        """The product with another operand, and with these numbers in float32."""
        term = None if bias is None else _constant(bias)
        if isinstance(self.node, Conv):
            return dataclasses.replace(self.node, x=x, weight=_constant(weight), bias=term)
        return dataclasses.replace(self.node, a=x, b=_constant(weight), bias=term)

    def scaled(self, factors: np.ndarray) -> Op:
        """The product times one float32 per output channel."""
        channel = (-1, 1, 1, 1) if isinstance(self.node, Conv) else (-1,)
        bias = None if self.bias is None else self.bias * factors
        return self.replaced(self.x, self.weight * factors.reshape(channel), bias)

    def compensated(self, x: Op, factors: np.ndarray, terms: np.ndarray) -> Op:
        """The same product of x = x₀/r + t instead of x₀: W' = diag(r)·W and b' = b − (r∘t)·W.

        Of a matrix product; r and t are one number per row of a weight [k, n].
        """
        weight, _ = self.reals
        return self.replaced(x, factors[:, None] * weight, self.without(factors * terms))

    def without(self, terms: np.ndarray) -> np.ndarray:
        """The bias of a matrix product that takes terms of its operand back, b − t·W: float64."""
        weight, bias = self.reals
        return bias - terms @ weight


def linear(node: Op) -> Linear | None:
    """The op as a product with constant weights and bias; None where it is anything else."""
    match node:
        case Conv(_, Constant(array=weight), bias) | MatMul(_, Constant(array=weight), bias):
            if is_known(bias):
                return Linear(node, weight, bias.array if isinstance(bias, Constant) else None)
    return None


def dense(node: Op) -> Linear | None:
    """A matrix product with one constant weight [k, n] for all rows of its operand."""
    found = linear(node) if isinstance(node, MatMul) else None
    return found if found is not None and found.weight.ndim == 2 else None


def is_known(bias: Op | None) -> bool:
    """Whether there is no bias, or a constant one."""
    return bias is None or isinstance(bias, Constant)


def output_axis(product: Conv | MatMul) -> int:
    """Where a product's result has its channels."""
    return 1 if isinstance(product, Conv) else product.type.rank - 1


def _constant(array: np.ndarray) -> Constant:
    return Constant(array.astype(np.float32, copy=False))
