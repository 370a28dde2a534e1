"""Products with known weights: the same reals from other weights, and what is no such product."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import Conv, MatMul, Mul, Relu, Window
from qcompiler.passes import EqualizeCrossLayer
from qcompiler.passes.fold_batch_norm import fold_factor
from qcompiler.passes.linear import dense, linear
from qcompiler.types import FLOAT, TensorType

RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(FLOAT)


def constant(*shape: int) -> Constant:
    return Constant(numbers(*shape))


def value(*shape: int, name: str = "x") -> Input:
    return Input(TensorType(FLOAT, shape), name=name)


IMAGE, ROWS = value(1, 2, 4, 4), value(2, 3, 5)
PRODUCTS: dict[str, Callable[[Op | None], Op]] = {
    "conv": lambda bias: Conv(IMAGE, constant(6, 2, 3, 3), bias, Window((3, 3))),
    "groups": lambda bias: Conv(IMAGE, constant(6, 1, 1, 1), bias, Window((1, 1)), 2),
    "matmul": lambda bias: MatMul(ROWS, constant(5, 6), bias),
}


def evaluated(node: Op, x: Input, array: np.ndarray) -> np.ndarray:
    return evaluate(Graph((x,), {"y": node}), {"x": array})["y"]


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("name", PRODUCTS)
def test_scaled_by_output_channel(name: str, biased: bool) -> None:
    node = PRODUCTS[name](constant(6) if biased else None)
    product, factors = linear(node), numbers(6)
    assert product is not None
    x = product.x
    assert isinstance(x, Input)
    array = numbers(*x.type.shape)
    shape = (-1, 1, 1) if isinstance(node, Conv) else (-1,)
    want = evaluated(node, x, array) * factors.reshape(shape)
    np.testing.assert_allclose(evaluated(product.scaled(factors), x, array), want, atol=1e-5)


@pytest.mark.parametrize("biased", [True, False])
def test_compensated_takes_factors_and_terms_of_the_operand_back(biased: bool) -> None:
    node = MatMul(ROWS, constant(5, 6), constant(6) if biased else None)
    product = dense(node)
    assert product is not None
    factors, terms = np.abs(numbers(5)) + 0.5, numbers(5)
    array = numbers(2, 3, 5)
    new = product.compensated(ROWS, factors, terms)
    want = evaluated(node, ROWS, array)
    np.testing.assert_allclose(evaluated(new, ROWS, array / factors + terms), want, atol=1e-5)


@pytest.mark.parametrize(
    "node",
    [
        MatMul(ROWS, value(5, 6), None),
        MatMul(ROWS, constant(5, 6), value(6)),
        Conv(IMAGE, value(6, 2, 1, 1), None, Window((1, 1))),
        Relu(ROWS),
    ],
    ids=["weight", "bias", "conv", "relu"],
)
def test_computed_weights_and_other_ops_are_no_linear_products(node: Op) -> None:
    assert linear(node) is None


def test_dense_is_a_matrix_of_weights() -> None:
    assert dense(MatMul(ROWS, constant(2, 5, 6))) is None
    assert dense(PRODUCTS["conv"](None)) is None


def test_equalization_leaves_a_product_with_a_computed_bias_alone() -> None:
    bias = value(2, name="bias")
    first = Conv(IMAGE, Constant(numbers(2, 2, 1, 1) * np.float32(50)), None, Window((1, 1)))
    graph = Graph(
        (IMAGE, bias), {"y": Conv(Relu(first), constant(2, 2, 1, 1), bias, Window((1, 1)))}
    )
    assert EqualizeCrossLayer()(graph) is graph


def test_factors_of_channels_go_into_the_weights_and_no_others() -> None:
    weight, factors = numbers(5, 6), numbers(6)
    product = MatMul(ROWS, Constant(weight))
    match fold_factor({}, Mul(product, Constant(factors))):
        case MatMul(x, Constant(array=folded), None):
            assert x is ROWS
            assert (folded == weight * factors).all()
        case other:
            pytest.fail(str(other))
    assert fold_factor({}, Mul(product, constant(3, 1))) is None
    assert fold_factor({product: 2}, Mul(product, Constant(factors))) is None
