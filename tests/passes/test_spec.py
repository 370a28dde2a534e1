"""What `spec` says that integers compute, `InsertQdq` and `Integerize` make integers of."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import numpy as np
import pytest
from op_examples import examples
from spec_ops import COUNT, OPS, SHAPE, X, function, numbers

import qcompiler
from qcompiler.config import QuantizationConfig, Rule
from qcompiler.graph import Constant, Graph, Input, Op, origin
from qcompiler.interpret import evaluate
from qcompiler.invariants import float_ops
from qcompiler.ops import (
    Add,
    Div,
    FakeQuantize,
    MatMul,
    MaxPool,
    Mul,
    Normalize,
    Relu,
    Softmax,
    Sub,
    Tanh,
    Window,
    scalar,
)
from qcompiler.passes import InsertQdq, Integerize, RoundWeights
from qcompiler.passes.spec import Form, form_of, spec
from qcompiler.types import FLOAT, Quantization, TensorType

FIELDS: dict[str, tuple[object, ...]] = {
    "activations": ("int16", "int8", "int4", "uint4"),
    "weights": ("int4", "int2"),
    "residuals": ("int8", "uint8", "int12", "uint16", "int24", "int32"),
    "outputs": ("uint8", "int8", "int16", "int32"),
    "table_scales": (1, 32),
    "rounding": ("balanced",),
    "method": ("mse",),
    "softmax": ("shift", "log2"),
    "softmax_bits": (4,),
    "softmax_base": ("adaptive",),
    "gelu": ("shift",),
    "normalization": ("i-vit",),
}
CHOICES = [{field: value} for field, values in FIELDS.items() for value in values]
CHOICES += [
    {"activations": "int16", "residuals": "uint16"},
    {"activations": "int16", "gelu": "shift"},
]


@dataclasses.dataclass(frozen=True)
class AnyRange:
    """Ranges for whom only the structure of the result counts."""

    def range(self, name: str, storage: str, method: str) -> tuple[float, float]:
        return -1.5, 2.0

    def knows(self, name: str) -> bool:
        return True

    def channels(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return -np.array([1.5, 0.5, 0.1, 0.02]), np.array([2.0, 0.5, 0.1, 0.01])


def quantized(names: Sequence[str], config: QuantizationConfig) -> Graph:
    """Ops one behind the other, in the quantized language; sources are their places."""
    y: Op = X
    for place, name in enumerate(names):
        with origin((f"op {place}",)):
            y = OPS[name](y)
    graph = InsertQdq(AnyRange(), config=config)(Graph((X, COUNT), {"y": y}))
    return RoundWeights("nearest", config=config)(graph)


def left(names: Sequence[str], config: QuantizationConfig) -> list[str]:
    """What stays in float."""
    graph = Integerize(config=config)(quantized(names, config))
    return [node.label() for node in float_ops(graph)]


def some(length: int, count: int) -> list[tuple[str, ...]]:
    """As many random rows of ops, the same each time."""
    draw = random.Random(length)
    return [tuple(draw.choices(list(OPS), k=length)) for _ in range(count)]


def label(choice: dict[str, object]) -> str:
    return ",".join(f"{field}={value}" for field, value in choice.items())


def test_every_field_is_here() -> None:
    fields = {f.name for f in dataclasses.fields(QuantizationConfig)}
    assert fields - {"rules"} == set(FIELDS)
    assert set(FIELDS) <= {f.name for f in dataclasses.fields(Rule)}


def test_every_op_of_the_table_is_here() -> None:
    wanted = {type(e.op) for e in examples() if spec(e.op) is not None and e.op.operands}
    graphs = [Graph((X, COUNT), {"y": build(X)}) for build in OPS.values()]
    assert wanted <= {type(node) for graph in graphs for node in graph.ops}


def test_every_form_is_met() -> None:
    found = {form_of(node) for name in OPS for node in quantized((name,), QuantizationConfig()).ops}
    assert found - {None} == set(Form)


def test_ops_become_integers() -> None:
    assert {name: found for name in OPS if (found := left((name,), QuantizationConfig()))} == {}


@pytest.mark.parametrize(("number", "choice"), [*enumerate(CHOICES)], ids=[*map(label, CHOICES)])
def test_ops_become_integers_as_chosen(number: int, choice: dict[str, object]) -> None:
    """Every other op, and with the next choice those between."""
    config, names = QuantizationConfig(**choice), list(OPS)[number % 2 :: 2]
    assert {name: found for name in names if (found := left((name,), config))} == {}


@pytest.mark.parametrize("choice", [{}, {"activations": "int16"}], ids=label)
def test_rows_of_ops_become_integers(choice: dict[str, object]) -> None:
    config, rows = QuantizationConfig(**choice), [*some(2, 300), *some(3, 150)]
    assert {names: found for names in rows if (found := left(names, config))} == {}


@pytest.mark.parametrize("choice", CHOICES, ids=label)
def test_rules_leave_integers(choice: dict[str, object]) -> None:
    for place in range(2):
        config = QuantizationConfig(rules=(Rule(f"op {place}", **choice),))
        assert {names: found for names in some(2, 25) if (found := left(names, config))} == {}


V = Input(TensorType(FLOAT, SHAPE), name="v")
ASYMMETRIC = Quantization.per_tensor("uint8", 0.02, 60)
POOL = Window((2, 2), (1, 1), (1, 1, 0, 0))


def _itself(x: Op) -> Op:
    return MatMul(x, x)


def _many_channels() -> Op:
    x = MatMul(X, Constant(np.linspace(-1, 1, 160, dtype=FLOAT).reshape(4, 40)))
    return Mul(function(x, Tanh), numbers(40))


MENDED: dict[str, tuple[Op, QuantizationConfig]] = {
    "values of attention with a zero point": (
        MatMul(Softmax(X, 3), FakeQuantize(V, ASYMMETRIC)),
        QuantizationConfig(),
    ),
    "a softmax times itself": (_itself(Softmax(X, 3)), QuantizationConfig()),
    "a zero point in front of a mean square": (
        Normalize(FakeQuantize(X, ASYMMETRIC), (3,), 1e-5, False),
        QuantizationConfig(),
    ),
    "quotients far coarser than their codes": (
        Div(MaxPool(X, POOL), Add(V, scalar(4, FLOAT))),
        QuantizationConfig(outputs="int32"),
    ),
    "more tables than memory": (_many_channels(), QuantizationConfig(activations="int16")),
    "16 bits behind a maximum": (
        Softmax(MaxPool(X, POOL), 3),
        QuantizationConfig(activations="int16"),
    ),
    "24 bits in front of a normalization": (
        Normalize(Add(X, V), (3,), 1e-5),
        QuantizationConfig(residuals="int24"),
    ),
    "a product of unsigned 16 bits": (
        Mul(Relu(Add(X, V)), Relu(Sub(X, V))),
        QuantizationConfig(residuals="uint16"),
    ),
    "unsigned codes of an output that is a factor": (
        MatMul(X, Relu(V)),
        QuantizationConfig(outputs="uint8"),
    ),
}


@pytest.mark.parametrize("name", MENDED)
def test_values_that_no_op_can_read_are_converted(name: str) -> None:
    y, config = MENDED[name]
    outputs = {"y": y, "factor": y.operands[1]} if "factor" in name else {"y": y}
    graph = Graph((X, V), outputs)
    rng = np.random.default_rng(0)
    feeds = [{k: rng.uniform(-1, 1, SHAPE).astype(FLOAT) for k in ("x", "v")} for _ in range(8)]
    integer = qcompiler.quantize(graph, feeds, options=qcompiler.Options(config=config))
    assert list(float_ops(integer)) == []
    for feed in feeds:
        real, codes = evaluate(graph, feed)["y"], evaluate(integer, feed)["y"]
        assert np.abs(real - codes).max() <= 0.02 * np.abs(real).max()
