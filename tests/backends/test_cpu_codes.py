"""CPU kernels without products, bit for bit, on every instruction set that runs here."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tvm")

from x86 import X86

from qcompiler.backends.cpu.build import build
from qcompiler.backends.targets import target
from qcompiler.errors import TargetError
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.ops import Dequantize, Pad, Quantize, Requantize, Transpose
from qcompiler.passes import Fuse
from qcompiler.types import Quantization, TensorType

TO_LAST = (0, 2, 3, 1)


def check(graph: Graph, name: str, implementation: str | None, seed: int = 0) -> None:
    """The compiled graph gives the reference's bits, with a kernel of that implementation."""
    model = build(Fuse()(graph), target(name))
    found = {k.implementation for k in model.metadata.kernels}
    assert implementation is None or implementation in found, found
    try:
        model.runner  # noqa: B018
    except TargetError:
        pytest.skip(f"this CPU cannot run {name}")
    rng = np.random.default_rng(seed)
    feeds = {str(x.name): _feed(x, rng) for x in graph.inputs}
    expected, results = evaluate(graph, feeds), model(feeds)
    for output, value in expected.items():
        assert len(np.unique(value)) > 2, f"{graph}: a test that sees nothing"
        np.testing.assert_array_equal(results[output], value, str(graph))


def _feed(x: Op, rng: np.random.Generator) -> np.ndarray:
    if x.type.is_float:
        values = rng.normal(0, 3, x.type.shape).astype(np.float32)
        values.flat[:: max(values.size // 7, 1)] = np.nan
        values.flat[1 :: max(values.size // 5, 2)] = np.inf
        return values
    info = np.iinfo(x.type.dtype)
    return rng.integers(info.min, info.max, x.type.shape, x.type.dtype, endpoint=True)


def entry(shape: tuple[int, ...], pads: tuple[int, int, int, int] | None, q: Quantization) -> Graph:
    x = Input(TensorType("float32", shape), name="x")
    codes: Op = Quantize(x, q)
    if pads is not None:
        top, left, bottom, right = pads
        codes = Pad(codes, (0, 0, top, left), (0, 0, bottom, right), q.zero_point[0])
    return Graph((x,), {"y": Transpose(codes, TO_LAST)})


UINT8 = Quantization.per_tensor("uint8", 0.03, 117)
INT8 = Quantization.per_tensor("int8", 0.02)
ENTRIES = (
    ((1, 3, 31, 225), (1, 2, 0, 3), UINT8),
    ((2, 3, 5, 64), None, UINT8),
    ((9, 3, 3, 9), (3, 3, 3, 3), UINT8),
    ((3, 2, 4, 40), (0, 1, 2, 0), INT8),
    ((1, 4, 6, 33), (1, 1, 1, 1), INT8),
    ((1, 3, 8, 70), (0, 0, 1, 1), Quantization.per_tensor("int16", 0.001)),
    ((1, 3, 120, 128), (3, 3, 3, 3), Quantization.per_channel("uint8", [0.1, 0.2, 0.3], 1)),
)


@pytest.mark.parametrize("name", X86)
def test_entry(name: str) -> None:
    for shape, pads, q in ENTRIES:
        if q.axis is not None:
            pads = None  # codes of one scale each have no common zero
        check(entry(shape, pads, q), name, "cpu entry")


@pytest.mark.parametrize("shape", [(1, 3, 9, 5), (1, 1, 16, 16), (1, 5, 9, 16)])
def test_other_images_take_the_generic_kernel(shape: tuple[int, ...]) -> None:
    check(entry(shape, (1, 1, 1, 1), UINT8), "cpu", "generic")


def test_an_entry_keeps_its_role_and_meaning() -> None:
    graph = entry((1, 3, 16, 16), (1, 1, 1, 1), UINT8)
    (codes,) = graph.outputs.values()
    graph = Graph(graph.inputs, {"y": Dequantize(codes)})
    metadata = build(Fuse()(graph), target("cpu")).metadata
    assert [k.role for k in metadata.kernels] == ["entry", "exit"]
    assert metadata.inputs[0].quantization == UINT8


def requantize(
    rng: np.random.Generator, shape: tuple[int, ...], dtypes: tuple[str, ...], along: bool
) -> Graph:
    """A sum of values of these dtypes, with parameters along the last axis or for all."""
    inputs = tuple(Input(TensorType(d, shape), name=f"x{i}") for i, d in enumerate(dtypes))
    size = shape[-1] if along else ()
    multipliers = []
    for dtype in dtypes:
        bits = 31 if dtype == "int32" else np.iinfo(dtype).bits
        high = 2 ** min(47 - bits, 30)
        multipliers.append(Constant(np.asarray(rng.integers(-high, high, size), np.int32)))
    offset = Constant(np.asarray(rng.integers(0, 2**46, size)))
    codes = Requantize(inputs, tuple(multipliers), offset, 39, UINT8)
    return Graph(inputs, {"y": codes})


REQUANTIZED = (
    ((3, 5, 7, 33), ("int16",), True),
    ((1, 9, 9, 64), ("int16", "int32"), True),
    ((9, 131), ("uint8", "int8", "int16"), True),
    ((2, 3, 17), ("int32",), False),
    ((5, 4096, 3), ("int16",), False),
    ((1, 64, 70, 24), ("int16",), True),
)


@pytest.mark.parametrize("name", X86)
def test_requantize(name: str) -> None:
    for seed, (shape, dtypes, along) in enumerate(REQUANTIZED):
        graph = requantize(np.random.default_rng(seed), shape, dtypes, along)
        check(graph, name, "cpu requantize", seed)


@pytest.mark.parametrize("shape", [(3, 4, 5), (70, 3)])
def test_short_lines_take_the_generic_kernel(shape: tuple[int, ...]) -> None:
    check(requantize(np.random.default_rng(0), shape, ("int16",), True), "cpu", "generic")
