"""Every op compiled by TVM against the numpy reference, bit for bit on integers."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from tiny import Example, examples, tiny_graphs

from qcompiler.artifact import CompiledModel
from qcompiler.backends.cpu.build import build
from qcompiler.backends.targets import target
from qcompiler.graph import Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import Dequantize, Quantize
from qcompiler.types import Quantization, TensorType

LIBRARY_OPS = 12  # examples that are compiled into one library, to save time


EXAMPLES = list(examples())
GROUPS = [EXAMPLES[i : i + LIBRARY_OPS] for i in range(0, len(EXAMPLES), LIBRARY_OPS)]


@functools.cache
def library(group: int) -> CompiledModel:
    members = GROUPS[group]
    inputs = tuple(x for e in members for x in e.graph.inputs)
    return build(Graph(inputs, {e.name: e.op for e in members}), target("cpu"))


def assert_agrees(expected: np.ndarray, found: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("i", range(len(EXAMPLES)), ids=lambda i: EXAMPLES[i].name)
def test_op(i: int) -> None:
    example = EXAMPLES[i]
    model = library(i // LIBRARY_OPS)
    rng = np.random.default_rng(i)
    feeds = {k: v for e in GROUPS[i // LIBRARY_OPS] for k, v in e.feeds(rng).items()}
    for own in (example.feeds(rng), example.feeds(rng), *example.corners()):
        mixed = {**feeds, **own}
        found = model({v.name: mixed[v.name] for v in model.inputs})[example.name]
        assert_agrees(evaluate(example.graph, own)["y"], found)


@pytest.mark.parametrize("example", tiny_graphs(), ids=lambda e: e.name)
def test_float_graph(example: Example) -> None:
    feeds = example.feeds(np.random.default_rng(0))
    found = build(example.graph, target("cpu"))(feeds)
    for output, expected in evaluate(example.graph, feeds).items():
        np.testing.assert_allclose(found[output], expected, rtol=1e-4, atol=1e-4)


HARD_SCALE = 0.012  # 1/s is such that −s/2 tells an FMA from a product and a sum


def ends(storage: str, scale: float, zero_point: int) -> tuple[Graph, np.ndarray]:
    """A graph that quantizes and dequantizes, and reals that are hard to round."""
    q = Quantization.per_tensor(storage, scale, zero_point)
    steps = np.arange(-300, 300, 0.5)
    exact = (steps * scale).astype(np.float32)
    hard = np.concatenate(
        [
            exact,
            np.nextafter(exact, np.float32(np.inf)),
            np.nextafter(exact, np.float32(-np.inf)),
            np.float32([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -1e-45, 0.0, -0.0]),
        ]
    ).astype(np.float32)
    x = Input(TensorType("float32", hard.shape), name="x")
    code: Op = Quantize(x, q)
    return Graph((x,), {"code": code, "real": Dequantize(code)}), hard


@pytest.mark.parametrize("target_name", ["cpu", "cpu:haswell", "cpu:generic"])
@pytest.mark.parametrize(
    ("storage", "scale", "zero_point"),
    [("uint8", HARD_SCALE, 128), ("int8", 1 / 3, 0), ("uint4", 0.7, 3), ("int16", 1e-3, -7)],
)
def test_ends_have_numpys_bits(
    storage: str, scale: float, zero_point: int, target_name: str
) -> None:
    graph, hard = ends(storage, scale, zero_point)
    model = build(graph, target(target_name))
    try:
        _ = model.runner
    except Exception as error:
        pytest.skip(str(error))
    expected, found = evaluate(graph, {"x": hard}), model(hard)
    np.testing.assert_array_equal(found["code"], expected["code"])
    np.testing.assert_array_equal(found["real"].view(np.int32), expected["real"].view(np.int32))


def test_hard_reals_tell_one_rounding_from_two() -> None:
    """The test above could not fail if no element distinguished FMA from two roundings."""
    _, hard = ends("uint8", HARD_SCALE, 128)
    finite = hard[np.isfinite(hard) & (np.abs(hard) < 1e6)]
    inverse = np.float32(1 / HARD_SCALE)
    two = np.floor(finite * inverse + np.float32(0.5))
    one = np.floor((finite.astype(np.float64) * float(inverse) + 0.5).astype(np.float32))
    assert (one != two).any()
