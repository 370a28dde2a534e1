"""Normalization with its requantization in one kernel, bit for bit, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tvm")

from x86 import X86

from qcompiler.backends.cpu.build import build
from qcompiler.backends.targets import target
from qcompiler.errors import TargetError
from qcompiler.graph import Constant, Graph, Input
from qcompiler.interpret import evaluate
from qcompiler.ops import NormalizeInteger, Requantize
from qcompiler.passes import Fuse
from qcompiler.types import Quantization, TensorType

SHAPES = [
    ((1, 17, 192), "int16"),
    ((2, 9, 97), "int16"),
    ((3, 5, 63), "uint8"),
    ((1, 1, 50), "int8"),
    ((7, 16), "int16"),
    ((2, 1, 33), "uint16"),
    ((1, 11, 768), "int16"),
]
FORMS = [(0.3, "uint8", True), (0.0, "int8", False), (1e4, "int16", True)]
OTHERS = [((3, 15), "int16"), ((2, 3, 2048), "int16")]  # short, and too long for 32 bits


def rows(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Wide, narrow, constant and extreme rows."""
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max, (int(np.prod(shape[:-1])), shape[-1]), dtype, True)
    for i in range(0, len(x), 5):
        x[i] = info.min if i % 2 else info.max
        x[i + 1 : i + 2] = 7
        x[i + 2 : i + 3] = x[i + 2 : i + 3] % 3
        x[i + 3 : i + 4] = np.where(np.arange(shape[-1]) % 2, info.min, info.max)
    return x.reshape(shape)


def graph(shapes: list[tuple[tuple[int, ...], str]]) -> Graph:
    rng = np.random.default_rng(0)
    inputs, outputs = [], {}
    for i, (shape, dtype) in enumerate(shapes):
        codes = Quantization.per_tensor(dtype, 0.01)
        x = Input(TensorType(dtype, shape, codes), name=f"x{i}")
        inputs.append(x)
        epsilon, q, each = FORMS[i % len(FORMS)]
        size = shape[-1] if each else ()
        outputs[f"y{i}"] = Requantize(
            (NormalizeInteger(x, (len(shape) - 1,), epsilon),),
            (Constant(rng.integers(-(2**30), 2**30, size, dtype=np.int32)),),
            Constant(rng.integers(-(2**59), 2**59, size)),
            58 - np.iinfo(q).bits,  # some codes are clamped
            Quantization.per_tensor(q, 0.1, 0),
        )
    return Graph(tuple(inputs), outputs)


@pytest.mark.parametrize("name", X86)
def test_the_kernel_has_the_bits_of_numpy(name: str):
    original = graph(SHAPES)
    model = build(Fuse()(original), target(name), threads=2)
    rng = np.random.default_rng(1)
    for _ in range(4):
        feeds = {str(x.name): rows(rng, x.type.shape, x.type.dtype) for x in original.inputs}
        try:
            found = model(feeds)
        except TargetError as error:
            pytest.skip(str(error))
        for key, value in evaluate(original, feeds).items():
            np.testing.assert_array_equal(found[key], value)


def test_which_rows_have_the_kernel():
    for shapes, name in ((SHAPES, "cpu normalization"), (OTHERS, "generic")):
        model = build(Fuse()(graph(shapes)), target("cpu"), threads=1)
        assert {k.implementation for k in model.metadata.kernels} == {name}
