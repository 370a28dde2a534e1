"""Small graphs in the real language, as importers make them, and the examples of every op.

`tests/conftest.py` puts this folder on the path: `from tiny import examples, tiny_graphs`.
"""

from __future__ import annotations

import numpy as np
from example import Example, Values
from op_examples import examples
from tiny_annotations import annotated_graphs
from tiny_forms import form_graphs

from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.ops import (
    Add,
    AveragePool,
    BatchNormalization,
    Cast,
    Clip,
    Concat,
    Conv,
    Div,
    Equal,
    Erf,
    Gather,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    MatMul,
    MaxPool,
    Mul,
    Normalize,
    Not,
    Pad,
    ReduceMean,
    Relu,
    Reshape,
    Select,
    Sigmoid,
    Slice,
    Softmax,
    Sqrt,
    Sub,
    Tanh,
    Transpose,
    Window,
    scalar,
)
from qcompiler.types import FLOAT, TensorType

__all__ = ["Example", "Values", "examples", "tiny_graphs"]


class Builder:
    """Layers with seeded random parameters; each becomes ops that know their ONNX node."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def image(self, channels: int = 3, size: int = 8, batch: int = 1) -> Input:
        """The model's input."""
        return Input(TensorType(FLOAT, (batch, channels, size, size)), name="x")

    def parameter(self, *shape: int, spread: float = 1.0) -> Constant:
        """Normally distributed numbers."""
        return Constant((self.rng.standard_normal(shape) * spread).astype(FLOAT))

    def conv(
        self,
        x: Op,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> Op:
        """A convolution that keeps the size, but for the stride."""
        inner = x.type.shape[1] // groups
        spread = (inner * kernel * kernel) ** -0.5
        weight = self.parameter(outputs, inner, kernel, kernel, spread=spread)
        pad = kernel // 2
        window = Window((kernel, kernel), (stride, stride), (pad, pad, pad, pad))
        return Conv(
            x, weight, self.parameter(outputs) if bias else None, window, groups, sources=("conv",)
        )

    def norm(self, x: Op) -> Op:
        """Batch normalization in inference; one channel has a negative factor."""
        channels = x.type.shape[1]
        gamma, beta, mean = (self.parameter(channels) for _ in range(3))
        variance = Constant(self.rng.uniform(0.2, 2, channels).astype(FLOAT))
        return BatchNormalization(x, gamma, beta, mean, variance, sources=("bn",))

    def linear(self, x: Op, outputs: int, bias: bool = True) -> Op:
        """A matrix product with a weight."""
        inner = x.type.shape[-1]
        weight = self.parameter(inner, outputs, spread=inner**-0.5)
        return MatMul(x, weight, self.parameter(outputs) if bias else None, sources=("fc",))

    def head(self, x: Op, classes: int = 4) -> Op:
        """Global average pooling and a linear layer."""
        pooled = ReduceMean(x, (2, 3))
        return self.linear(Reshape(pooled, pooled.type.shape[:2]), classes)


def _conv_bn_relu(b: Builder, x: Op) -> Op:
    return Relu(b.norm(b.conv(x, 4, bias=False)))


def _residual(b: Builder, x: Op) -> Op:
    y = Relu(b.norm(b.conv(x, 4)))
    branch = b.norm(b.conv(Relu(b.norm(b.conv(y, 8, stride=2))), 8))
    shortcut = b.norm(b.conv(y, 8, kernel=1, stride=2))
    return b.head(Relu(Add(branch, shortcut)))


def _depthwise(b: Builder, x: Op) -> Op:
    y: Op = HardSwish(b.norm(b.conv(x, 4, stride=2)))
    y = Clip(b.norm(b.conv(y, 4, groups=4, bias=False)), 0.0, 6.0)
    return b.head(b.conv(y, 6, kernel=1))


def _squeeze_excite(b: Builder, x: Op) -> Op:
    y = b.conv(x, 4)
    gate = b.conv(Relu(b.conv(ReduceMean(y, (2, 3)), 2, kernel=1)), 4, kernel=1)
    return Mul(y, HardSigmoid(gate, 1 / 6, 0.5))


def _branches(b: Builder, x: Op) -> Op:
    y = Relu(b.conv(x, 4))
    pooled = AveragePool(y, Window((3, 3), (1, 1), (1, 1, 1, 1)))
    return b.conv(Concat((Relu(b.conv(y, 2, 1)), b.conv(y, 3), pooled), 1), 4, kernel=1)


def _pools(b: Builder, x: Op) -> Op:
    y = MaxPool(Relu(b.conv(x, 4)), Window((3, 3), (2, 2), (1, 1, 1, 1)))
    return b.head(AveragePool(b.conv(y, 4), Window((2, 2), (2, 2))))


def _mlp(b: Builder, x: Op) -> Op:
    y = Tanh(b.linear(Reshape(x, (1, x.type.size)), 8))
    return b.linear(LeakyRelu(b.linear(y, 6, bias=False), 0.1), 3)


def _silu(b: Builder, x: Op) -> Op:
    y = b.conv(x, 4)
    return b.conv(Mul(y, Sigmoid(y)), 2)


def _gelu(b: Builder, x: Op) -> Op:
    """GELU as exporters write it, between linear layers on tokens."""
    tokens = Reshape(Transpose(x, (0, 2, 3, 1)), (1, 64, 3))
    y = b.linear(tokens, 6)
    inner = Add(Erf(Div(y, scalar(2**0.5, FLOAT))), scalar(1, FLOAT))
    return b.linear(Mul(Mul(y, inner), scalar(0.5, FLOAT)), 4)


def _shortcut_pad(b: Builder, x: Op) -> Op:
    """ResNet's option A: a strided slice, then channels of zeros."""
    y = Relu(b.conv(x, 4))
    branch = b.norm(b.conv(y, 8, stride=2))
    shortcut = Slice(y, (0, 0, 0, 0), y.type.shape, (1, 1, 2, 2))
    return Relu(Add(branch, Pad(shortcut, (0, 2, 0, 0), (0, 2, 0, 0))))


def _softmax_head(b: Builder, x: Op) -> Op:
    return Softmax(b.head(Relu(b.conv(x, 4))), 1)


def _attention(b: Builder, x: Op) -> Op:
    tokens = Reshape(Transpose(x, (0, 2, 3, 1)), (1, 64, 3))
    q, k, v = (b.linear(tokens, 4) for _ in range(3))
    scores = Mul(MatMul(q, Transpose(k, (0, 2, 1))), scalar(0.5, FLOAT))
    return Add(b.linear(MatMul(Softmax(scores, 2), v), 3), tokens)


def _fused_attention(b: Builder, x: Op) -> Op:
    """Two heads whose query, key and value are parts of one product."""
    tokens = Reshape(Transpose(x, (0, 2, 3, 1)), (1, 64, 3))
    qkv = Transpose(Reshape(b.linear(tokens, 12), (1, 64, 3, 2, 2)), (2, 0, 3, 1, 4))
    q, k, v = (
        Reshape(Slice(qkv, (i, 0, 0, 0, 0), (i + 1, 1, 2, 64, 2), (1,) * 5), (1, 2, 64, 2))
        for i in range(3)
    )
    scores = Mul(MatMul(q, Transpose(k, (0, 1, 3, 2))), scalar(0.7, FLOAT))
    heads = Transpose(MatMul(Softmax(scores, 3), v), (0, 2, 1, 3))
    return b.linear(Reshape(heads, (1, 64, 4)), 3)


def _windows(b: Builder, x: Op) -> Op:
    """Four windows of 16 tokens, with position biases and −100 between regions in one constant."""
    windows = Transpose(Reshape(x, (3, 2, 4, 2, 4)), (1, 3, 2, 4, 0))
    tokens = Reshape(windows, (4, 16, 3))
    q, k, v = (b.linear(tokens, 4) for _ in range(3))
    region = b.rng.integers(0, 2, (4, 16))
    apart = np.where(region[:, :, None] != region[:, None, :], -100, 0)
    bias = Constant((b.parameter(4, 16, 16).array + apart).astype(FLOAT))
    scores = Mul(MatMul(q, Transpose(k, (0, 2, 1))), scalar(0.5, FLOAT))
    return b.linear(MatMul(Softmax(Add(scores, bias), 2), v), 3)


def _causal(b: Builder, x: Op) -> Op:
    """A mask of the lowest number, and a guard against rows that it empties."""
    tokens = Reshape(Transpose(x, (0, 2, 3, 1)), (1, 64, 3))
    q, k, v = (b.linear(tokens, 4) for _ in range(3))
    mask = Constant(np.triu(np.full((64, 64), np.finfo(FLOAT).min, FLOAT), 1))
    weights = Softmax(Add(MatMul(q, Transpose(k, (0, 2, 1))), mask), 2)
    kept = Select(Not(Equal(weights, weights)), scalar(0, FLOAT), weights)
    return b.linear(MatMul(kept, v), 3)


def _spelled_out(b: Builder, x: Op) -> Op:
    """A block whose normalizations and GELU (by tanh) are made of primitives, as in old opsets."""
    tokens = b.linear(Reshape(Transpose(x, (0, 2, 3, 1)), (1, 64, 3)), 6)
    deviation = Sub(tokens, ReduceMean(tokens, (2,)))
    variance = ReduceMean(Mul(deviation, deviation), (2,))
    y: Op = Div(deviation, Sqrt(Add(variance, scalar(1e-5, FLOAT))))
    y = b.linear(Mul(y, b.parameter(6)), 8)
    cube = Mul(Mul(y, y), Mul(y, scalar(0.044715, FLOAT)))
    inner = Tanh(Mul(Add(y, cube), scalar((2 / np.pi) ** 0.5, FLOAT)))
    y = b.linear(Mul(Mul(y, scalar(0.5, FLOAT)), Add(inner, scalar(1, FLOAT))), 6)
    y = Add(tokens, y)
    root = Sqrt(Add(ReduceMean(Mul(y, y), (2,)), scalar(1e-6, FLOAT)))
    return b.linear(Mul(b.parameter(6), Mul(y, Div(scalar(1, FLOAT), root))), 3)


def _group_norm(b: Builder, x: Op) -> Op:
    """Two groups of channels, flattened for an instance normalization."""
    y = b.conv(x, 4)
    normal = Reshape(Normalize(Reshape(y, (1, 2, 128)), (2,), 1e-5), (1, 4, 8, 8))
    return b.conv(Relu(Add(Mul(normal, b.parameter(4, 1, 1)), b.parameter(4, 1, 1))), 3)


def _gated(b: Builder, x: Op) -> Op:
    """Two halves of the channels of one convolution, one a factor of the other."""
    y = b.conv(x, 8)
    value, gate = (Slice(y, (0, c, 0, 0), (1, c + 4, 8, 8), (1, 1, 1, 1)) for c in (0, 4))
    return b.conv(Mul(value, Sigmoid(gate)), 3, kernel=1)


def _normalized_input(b: Builder, x: Op) -> Op:
    """Mean and deviation inside the model, and scalar arithmetic on channels."""
    y = Div(Sub(x, b.parameter(3, 1, 1)), Constant(np.full((3, 1, 1), 0.5, FLOAT)))
    return b.norm(Mul(b.conv(y, 4), b.parameter(4, 1, 1)))


def _shared_weight(b: Builder, x: Op) -> Op:
    """One weight for two layers, and one value for three users."""
    weight, window = b.parameter(3, 3, 3, 3, spread=0.2), Window((3, 3), pads=(1, 1, 1, 1))
    y = Relu(Conv(x, weight, None, window))
    return Add(Add(Conv(y, weight, None, window), y), y)


def _one_channel(b: Builder, x: Op) -> Op:
    """A map of one channel, as detectors and denoisers end in."""
    return b.conv(Relu(b.conv(x, 4)), 1)


def _upsampled(b: Builder, x: Op) -> Op:
    """Linear interpolation of a convolution's rows, for another convolution."""
    y, places = Relu(b.conv(x, 4)), np.arange(16)
    below, above = (np.clip((places + step) // 2, 0, 7) for step in (-1, 1))
    weights = np.where(places % 2, 0.75, 0.25).astype(FLOAT).reshape(-1, 1)
    terms = (
        Mul(Gather(y, Constant(index), 2), Constant(weight))
        for index, weight in ((below, weights), (above, 1 - weights))
    )
    return b.conv(Add(*terms), 3)


def _sub_pixel(b: Builder, x: Op) -> Op:
    """A transposed convolution by phases, and its normalization."""
    y = Reshape(b.conv(x, 16, bias=False), (1, 4, 2, 2, 8, 8))
    spread = Reshape(Transpose(y, (0, 1, 4, 2, 5, 3)), (1, 4, 16, 16))
    return b.conv(Relu(b.norm(Slice(spread, (0, 0, 1, 1), (1, 4, 15, 15), (1, 1, 1, 1)))), 2)


_GRAPHS = (
    _conv_bn_relu, _residual, _depthwise, _squeeze_excite, _branches, _pools, _mlp, _silu, _gelu,
    _shortcut_pad, _softmax_head, _attention, _normalized_input, _shared_weight,
    _fused_attention, _gated, _windows, _causal,
    _spelled_out, _group_norm, _one_channel, _upsampled, _sub_pixel,
)  # fmt: skip


def tiny_graphs() -> list[Example]:
    """Whole graphs in the real language on images of at most 8x8, seeded by their position.

    Also a graph with two inputs and two outputs, one of which feeds the other, and one whose
    second input is a mask.
    """
    found = []
    for seed, build in enumerate(_GRAPHS):
        builder = Builder(seed)
        x = builder.image()
        name = build.__name__.lstrip("_")
        graph = Graph((x,), {"y": build(builder, x)}, name)
        found.append(Example(name, graph, (Values(-2.0, 2.0),)))
    return [*found, _two_of_each(), _padded(), *form_graphs(), *annotated_graphs()]


def _two_of_each() -> Example:
    builder = Builder(99)
    a, b = (Input(TensorType(FLOAT, (2, 3, 4, 4)), name=name) for name in ("a", "b"))
    features = Relu(Add(builder.conv(a, 4), builder.conv(b, 4, kernel=1)))
    graph = Graph((a, b), {"features": features, "logits": builder.head(features)}, "two_of_each")
    return Example("two_of_each", graph, (Values(-2.0, 2.0), Values(0.0, 1.0)))


def _padded() -> Example:
    """Attention to the tokens that a mask of the caller's keeps: x + (1 − mask)·(−10000)."""
    b = Builder(98)
    tokens = Input(TensorType(FLOAT, (2, 8, 6)), name="x")
    given = Input(TensorType("int64", (2, 8)), name="mask")
    mask = Cast(Reshape(given, (2, 1, 8)), FLOAT)
    term = Mul(Sub(scalar(1, FLOAT), mask), scalar(-10000, FLOAT))
    q, k, v = (b.linear(tokens, 4) for _ in range(3))
    weights = Softmax(Add(MatMul(q, Transpose(k, (0, 2, 1))), term), 2)
    graph = Graph((tokens, given), {"y": b.linear(MatMul(weights, v), 3)}, "padded")
    return Example("padded", graph, (Values(-2.0, 2.0), Values(0, 1, (0, 1))))
