"""`activations: int16`: products with weights read 16 bits, as two products of 8."""

import numpy as np
import pytest
from tiny import tiny_graphs

import qcompiler
from qcompiler.config import QuantizationConfig, Rule
from qcompiler.interpret import evaluate
from qcompiler.invariants import float_ops
from qcompiler.ops import Conv, ConvInteger, MatMul, MatMulInteger

GRAPHS = {e.name: e for e in tiny_graphs()}
NAMES = ("conv_bn_relu", "depthwise", "mlp", "gelu", "group_norm", "attention")


def quantized(name: str, config: QuantizationConfig):
    example = GRAPHS[name]
    rng = np.random.default_rng(3)
    feeds = [example.feeds(rng) for _ in range(4)]
    options = qcompiler.Options(config=config)
    return example.graph, qcompiler.quantize(example.graph, feeds, options=options), feeds


def noise(graph, integer, feeds) -> float:
    """Root of the mean square error, relative to the largest output."""
    found = []
    for feed in feeds:
        for key, y in evaluate(graph, feed).items():
            error = y.astype(np.float64) - evaluate(integer, feed)[key]
            found.append(np.sqrt(np.mean(error**2)) / np.abs(y).max())
    return max(found)


@pytest.mark.parametrize("name", NAMES)
def test_less_is_lost(name):
    graph, narrow, feeds = quantized(name, QuantizationConfig())
    _, wide, _ = quantized(name, QuantizationConfig(activations="int16"))
    assert list(float_ops(wide)) == []
    assert noise(graph, wide, feeds) < max(0.6 * noise(graph, narrow, feeds), 0.004)


def test_both_halves_are_multiplied():
    graph, wide, _ = quantized("mlp", QuantizationConfig(activations="int16"))
    products = [x for x in graph.ops if isinstance(x, (Conv, MatMul))]
    integer = [x for x in wide.ops if isinstance(x, (ConvInteger, MatMulInteger))]
    assert len(integer) == 2 * len(products)
    assert {x.x.type.dtype for x in integer} == {"int8", "uint8"}


def test_a_rule_widens_one_value():
    rules = (Rule("x", activations="int16"),)
    _, wide, _ = quantized("conv_bn_relu", QuantizationConfig(rules=rules))
    assert [x.type.dtype for x in wide.ops].count("int16") == 1


def test_other_storages_of_16_bits_are_refused():
    with pytest.raises(qcompiler.QcompilerError, match="activations: expected at most 8 bits"):
        QuantizationConfig(activations="uint16")
