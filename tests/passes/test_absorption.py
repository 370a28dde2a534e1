"""Absorption: how much of a sum stays in accumulators."""

from __future__ import annotations

from qcompiler.graph import Graph, Input, Op
from qcompiler.ops import Add, MatMul
from qcompiler.passes.absorption import MAX_TERMS, Absorption
from qcompiler.types import FLOAT, TensorType


def value(name: str) -> Input:
    return Input(TensorType(FLOAT, (4, 4)), name=name)


def absorbed(y: Op, *inputs: Input) -> set[Op]:
    return set(Absorption(Graph(inputs, {"y": y}), (), lambda node: False).values)


def test_a_sum_has_so_many_terms() -> None:
    inputs = [value(f"x{i}") for i in range(2 * MAX_TERMS)]
    sums: list[Op] = [inputs[0]]
    for x in inputs[1:]:
        sums.append(Add(sums[-1], x))
    # The sum of MAX_TERMS is rounded; with its codes the next one begins.
    first, second = sums[1 : MAX_TERMS - 1], sums[MAX_TERMS : 2 * MAX_TERMS - 2]
    assert absorbed(sums[-1], *inputs) == {*first, *second}


def test_of_two_products_one_is_rounded() -> None:
    a, b, c = value("a"), value("b"), value("c")
    product, other = MatMul(a, b), MatMul(b, c)
    assert absorbed(Add(product, a), a, b) == {product}
    assert absorbed(Add(product, other), a, b, c) == {other}
