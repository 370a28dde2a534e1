"""CollapseUnary: what becomes part of a function, and what stays in front of it."""

from __future__ import annotations

from qcompiler.graph import Graph, Input
from qcompiler.ops import Map, Mul, Relu, Sigmoid, scalar
from qcompiler.passes import CollapseUnary
from qcompiler.types import FLOAT, TensorType


def test_what_is_linear_in_front_of_a_function_stays_there() -> None:
    x = Input(TensorType(FLOAT, (1, 4)), name="x")
    clamped = Relu(Mul(x, scalar(2, FLOAT)))
    after = CollapseUnary()(Graph((x,), {"y": Mul(clamped, Sigmoid(clamped))})).outputs["y"]
    assert isinstance(after, Map)
    assert after.x is clamped
    assert [type(node) for node in after.region.ops] == [Input, Sigmoid, Mul]
