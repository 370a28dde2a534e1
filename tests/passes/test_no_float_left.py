"""Heads and masks of transformers, spelled as exporters spell them, become integers throughout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import qcompiler
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.invariants import float_ops
from qcompiler.ops import (
    Add,
    Cast,
    Div,
    Equal,
    Expand,
    GreaterEqual,
    MatMul,
    Maximum,
    Mul,
    Not,
    ReduceMean,
    Reshape,
    Select,
    Softmax,
    Sqrt,
    Sub,
    Transpose,
    scalar,
)
from qcompiler.types import FLOAT, TensorType

N, TOKENS, WIDTH = 2, 6, 8
X = Input(TensorType(FLOAT, (N, TOKENS, WIDTH)), name="x")
Y = Input(TensorType(FLOAT, (N, TOKENS, WIDTH)), name="y")
MASK = Input(TensorType("int64", (N, TOKENS)), name="mask")
RNG = np.random.default_rng(0)
WEIGHT = Constant(0.2 * RNG.standard_normal((WIDTH, WIDTH), np.float32))
VECTOR = Constant(RNG.standard_normal((1, 1, WIDTH), np.float32))


def f(value: float) -> Constant:
    return scalar(value, FLOAT)


def feeds(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, TOKENS + 1, (N, 1))
    return {
        "x": rng.standard_normal((N, TOKENS, WIDTH), np.float32),
        "y": rng.standard_normal((N, TOKENS, WIDTH), np.float32),
        "mask": (np.arange(TOKENS) < counts).astype(np.int64),
    }


def _sum(x: Op, axes: tuple[int, ...]) -> Op:
    mean = ReduceMean(x, axes)
    return Mul(mean, f(mean.count))


def mean_of_kept_tokens() -> Op:
    """Sentence-BERT: Σ m·x / max(Σ m, 10⁻⁹)."""
    kept = Cast(Expand(Reshape(MASK, (N, TOKENS, 1)), (N, TOKENS, WIDTH)), FLOAT)
    return Div(_sum(Mul(X, kept), (1,)), Maximum(_sum(kept, (1,)), f(1e-9)))


def similarities() -> Op:
    """CLIP: products of two normalized values."""
    normal = (Div(v, Sqrt(_sum(Mul(v, v), (2,)))) for v in (MatMul(X, WEIGHT), Y))
    first, second = normal
    return Mul(MatMul(first, Transpose(second, (0, 2, 1))), f(14.3))


def learned_query() -> Op:
    """SigLIP: one constant query attends to all tokens."""
    query = Expand(Constant(VECTOR.array), (N, 1, WIDTH))
    scores = Mul(MatMul(query, Transpose(MatMul(X, WEIGHT), (0, 2, 1))), f(WIDTH**-0.5))
    return MatMul(Softmax(scores, 2), X)


def dynamic_convolution() -> Op:
    """ConvBERT: windows of tokens times a softmax over their elements, which are computed."""
    taps = Softmax(Reshape(Y, (N * TOKENS, WIDTH, 1)), 1)
    windows = Reshape(X, (N * TOKENS, 1, WIDTH))
    return MatMul(windows, taps)


def padded_causal_attention() -> Op:
    """A mask of zeros and ones, times one of places, chosen between 0 and the lowest number."""
    places = Constant(np.tril(np.ones((TOKENS, TOKENS), bool)))
    seen = Not(Equal(Reshape(MASK, (N, 1, TOKENS)), scalar(0, "int64")))
    lowest = f(float(np.finfo(np.float32).min))
    term = Add(Select(places, f(0), lowest), Select(seen, f(0), lowest))
    scores = Mul(MatMul(X, Transpose(Y, (0, 2, 1))), f(0.3))
    return MatMul(Softmax(Add(scores, term), 2), Y)


def alibi() -> Op:
    """BLOOM: the terms of places count the tokens that the mask keeps."""
    ones = Cast(MASK, FLOAT)
    triangle = Constant(np.triu(np.ones((TOKENS, TOKENS), np.float32)))
    places = Mul(Sub(MatMul(Reshape(ones, (N, 1, TOKENS)), triangle), f(1)), f(0.25))
    scores = Mul(MatMul(X, Transpose(Y, (0, 2, 1))), f(0.3))
    kept = GreaterEqual(Reshape(MASK, (N, 1, TOKENS)), scalar(1, "int64"))
    return MatMul(Softmax(Add(scores, places), 2, kept), Y)


def spread_function() -> Op:
    """Flax: the gain of a normalization over another axis than its statistics."""
    variance = ReduceMean(Mul(X, X), (1,))
    gain = Constant(RNG.standard_normal((1, TOKENS, 1)).astype(np.float32))
    return Mul(X, Mul(Div(f(1), Sqrt(Add(variance, f(1e-3)))), gain))


@pytest.mark.parametrize(
    "build",
    [
        spread_function,
        mean_of_kept_tokens,
        similarities,
        learned_query,
        dynamic_convolution,
        padded_causal_attention,
        alibi,
    ],
)
def test_no_float_is_left(build: Callable[[], Op]) -> None:
    graph = Graph((X, Y, MASK), {"out": build()})
    integer = qcompiler.quantize(graph, [feeds(seed) for seed in range(16)])
    assert not list(float_ops(integer))
    reals, codes = (
        np.stack([evaluate(g, feeds(100 + seed))["out"] for seed in range(4)])
        for g in (graph, integer)
    )
    error = np.square(reals - codes).sum() / np.square(reals).sum()
    assert error < 10**-2.5  # 25 dB
