"""Importers of normalization by the statistics of the value itself."""

from __future__ import annotations

import math

from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reduce import reduced_sum
from qcompiler.graph import Op
from qcompiler.ops import (
    Abs,
    Add,
    AveragePool,
    Div,
    Exp,
    Log,
    Mul,
    Normalize,
    Pad,
    ReduceMean,
    Reshape,
    Sqrt,
    Sub,
    Window,
    scalar,
)
from qcompiler.types import FLOAT

_MOST_CHANNELS = 1 << 16  # of a window over channels
_TINY = 1e-30  # keeps 0 / 0 from being NaN; float32 squares of this size are rounded away


@importer("LayerNormalization")
def layer_normalization(node: Node) -> tuple[Op, ...]:
    """(x − mean) / √(variance + epsilon)·scale + bias over the axes from `axis` on."""
    axes, epsilon = _axes(node), node.number("epsilon")
    y = affine(node, Normalize(node.x, axes, epsilon), node.operand(1), node.optional(2))
    mean = ReduceMean(node.x, axes)
    return y, mean, inverse_deviation(Sub(node.x, mean), axes, epsilon)


def _axes(node: Node) -> tuple[int, ...]:
    rank = node.x.type.rank
    return tuple(range(node.axis(node.integer("axis"), rank), rank))


def inverse_deviation(x: Op, axes: tuple[int, ...], epsilon: float) -> Op:
    """1 / √(mean square of x + epsilon)."""
    square = ReduceMean(Mul(x, x), axes)
    return Div(scalar(1, FLOAT), Sqrt(Add(square, scalar(epsilon, FLOAT))))


def affine(node: Node, y: Op, scale: Op, bias: Op | None) -> Op:
    """y·scale + bias, which may not enlarge it."""
    scaled: Op = Mul(y, scale)
    result = scaled if bias is None else Add(scaled, bias)
    if result.type != y.type:
        raise node.broken(f"expected scale and bias that broadcast to {y.type}")
    return result


@importer("SimplifiedLayerNormalization")
@importer("RMSNormalization", since=23)
def rms_normalization(node: Node) -> tuple[Op, ...]:
    """x / √(mean square + epsilon)·scale over the axes from `axis` on."""
    axes, epsilon = _axes(node), node.number("epsilon")
    y = affine(node, Normalize(node.x, axes, epsilon, center=False), node.operand(1), None)
    return y, inverse_deviation(node.x, axes, epsilon)


@importer("InstanceNormalization", since=6)
def instance_normalization(node: Node) -> Op:
    """Each channel of each image normalized by itself."""
    _expect_channels(node, 1)
    y = Normalize(node.x, tuple(range(2, node.x.type.rank)), node.number("epsilon"))
    return _per_channel(node, y, node.x.type.shape[1:2])


@importer("GroupNormalization", since=21)
def group_normalization(node: Node) -> Op:
    """Groups of channels normalized together, as [n, groups, channels of a group, ...]."""
    _expect_channels(node, 0)
    n, channels, *rest = node.x.type.shape
    groups = node.integer("num_groups")
    if groups < 1 or channels % groups:
        raise node.broken(f"num_groups: expected a divisor of {channels}, found {groups}")
    apart = Reshape(node.x, (n, groups, channels // groups, *rest))
    y = Normalize(apart, tuple(range(2, apart.type.rank)), node.number("epsilon"))
    return Reshape(_per_channel(node, y, y.type.shape[1:3]), node.x.type.shape)


def _expect_channels(node: Node, spatial: int) -> None:
    if node.x.type.rank < 2 + spatial:
        raise node.broken(f"expected [n, c, ...], found {node.x.type}")


def _per_channel(node: Node, y: Op, channels: tuple[int, ...]) -> Op:
    """y·scale + bias with one of each for the axes from 1 on that `channels` counts."""
    shape = (*channels, *(1,) * (y.type.rank - 1 - len(channels)))
    scale, bias = node.operand(1), node.operand(2)
    for x in (scale, bias):
        if x.type.shape != (math.prod(channels),):
            raise node.broken(f"expected {math.prod(channels)} scales and biases, found {x.type}")
    scaled = Mul(y, simplified(Reshape(scale, shape)))
    return Add(scaled, simplified(Reshape(bias, shape)))


@importer("MeanVarianceNormalization", since=9)
def mean_variance_normalization(node: Node) -> Op:
    """(x − mean) / √(variance + 10⁻⁹) over axes, as ONNX's function body has it."""
    axes = node.integers("axes", (0, 2, 3)) or ()
    # The operator adds 1e-9 to the deviation, not to the variance.
    return Normalize(node.x, tuple(sorted(node.axes(axes, node.x.type.rank))), 1e-18)


@importer("LpNormalization")
def lp_normalization(node: Node) -> Op:
    """x / √Σx² or x / Σ|x| along an axis; 0 stays 0."""
    axis = node.axis(node.integer("axis"), node.x.type.rank)
    if (p := node.integer("p")) == 1:
        total = reduced_sum(Abs(node.x), (axis,))
        return Div(node.x, Add(total, scalar(_TINY, FLOAT)))
    if p != 2:
        raise node.broken(f"p: expected 1 or 2, found {p}")
    y = Normalize(node.x, (axis,), _TINY, center=False)
    return Mul(y, scalar(node.x.type.shape[axis] ** -0.5, FLOAT))


@importer("LRN")
def local_response_normalization(node: Node) -> Op:
    """x / (bias + alpha·m)^beta, m the mean square over neighbouring channels.

    Krizhevsky et al. 2012, section 3.3; channels beyond the first and last count as zeros.
    """
    _expect_channels(node, 0)
    n, c, *sizes = node.x.type.shape
    size = node.integer("size")
    if not 1 <= size <= _MOST_CHANNELS:
        raise node.broken(f"size: expected at least 1, found {size}")
    before = (size - 1) // 2
    plane = Reshape(Mul(node.x, node.x), (n, 1, c, math.prod(sizes)))
    padded = Pad(plane, (0, 0, before, 0), (0, 0, size - 1 - before, 0))
    means = Reshape(AveragePool(padded, Window((size, 1))), node.x.type.shape)
    alpha, beta, bias = (node.number(name) for name in ("alpha", "beta", "bias"))
    inner = Add(Mul(means, scalar(alpha, FLOAT)), scalar(bias, FLOAT))
    return Mul(node.x, Exp(Mul(Log(inner), scalar(-beta, FLOAT))))
