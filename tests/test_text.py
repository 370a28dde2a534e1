"""The printed form: golden, stable from run to run, and unique."""

from __future__ import annotations

import numpy as np

from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.ops import (
    Add,
    Clip,
    Concat,
    Conv,
    Map,
    MatMul,
    Mul,
    Quantize,
    Sigmoid,
    Transpose,
    Window,
    scalar,
)
from qcompiler.types import FLOAT, Quantization, TensorType


def build() -> Graph:
    x = Input(TensorType(FLOAT, (1, 2, 4, 4)), name="x")
    weight = Constant(np.arange(36, dtype=FLOAT).reshape(2, 2, 3, 3))
    window = Window((3, 3), (2, 2), (1, 1, 1, 1))
    conv = Conv(x, weight, None, window, name="/features/conv", sources=("node 1",))
    inner = Input(conv.type, name="v")
    silu = Map(conv, Graph((inner,), {"y": Mul(inner, Sigmoid(inner))}))
    clipped = Clip(Concat((silu, silu), 1), 0.0, 1 / 6)
    codes = Quantize(clipped, Quantization.per_tensor("uint8", 0.02, 3))
    channels = Quantization("int6", (0.1, 0.25), (0, 1), 1)
    return Graph((x,), {"codes": codes, "p": Quantize(Transpose(silu, (0, 1, 3, 2)), channels)})


GOLDEN = """\
graph(%x: float32[1x2x4x4]) {
  %/features/conv: float32[1x2x2x2] = conv(%x, float32[2x2x3x3]#b91fb62c, window=3x3/2x2+1,1,1,1)
  %map: float32[1x2x2x2] = map(%/features/conv) (%v: float32[1x2x2x2]) {
    %sigmoid: float32[1x2x2x2] = sigmoid(%v)
    %mul: float32[1x2x2x2] = mul(%v, %sigmoid)
    return y=%mul
  }
  %concat: float32[1x4x2x2] = concat(%map, %map, axis=1)
  %clip: float32[1x4x2x2] = clip(%concat, low=0, high=0.166667)
  %quantize: uint8[1x4x2x2]@0.02:3 = quantize(%clip)
  %transpose: float32[1x2x2x2] = transpose(%map, permutation=[0, 1, 3, 2])
  %quantize_1: int8[1x2x2x2]@int6:0.1…0.25/1 = quantize(%transpose)
  return codes=%quantize, p=%quantize_1
}"""


def test_golden() -> None:
    assert str(build()) == GOLDEN


def test_equal_graphs_print_alike() -> None:
    assert str(build()) == str(build())


def test_scalars_are_inline_and_arrays_have_digests() -> None:
    x = Input(TensorType(FLOAT, (2, 2)), name="x")
    y: Op = MatMul(x, Constant(np.eye(2, dtype=FLOAT)))
    text = str(Graph((x,), {"y": Mul(Add(y, scalar(0.5, FLOAT)), Constant(np.ones(1, FLOAT)))}))
    assert "%add: float32[2x2] = add(%mat_mul, 0.5)" in text
    assert "mat_mul(%x, float32[2x2]#a666c95f)" in text
    changed = np.eye(2, dtype=FLOAT)
    changed[0, 1] = 1e-30
    other = str(Graph((x,), {"y": MatMul(x, Constant(changed))}))
    assert "float32[2x2]#a666c95f" not in other


def test_what_is_unused_is_not_printed() -> None:
    x = Input(TensorType(FLOAT, (2,)), name="x")
    unused = Input(TensorType("uint8", ()), name="unused")
    assert str(Graph((x, unused), {"x": x})) == (
        "graph(%x: float32[2], %unused: uint8[]) {\n  return x=%x\n}"
    )
