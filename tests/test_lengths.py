"""Sequences of any length: programs for a few, padding that a mask hides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_models import Builder

from qcompiler.artifact import CompiledModel, load
from qcompiler.driver import Options, compile_model
from qcompiler.errors import ShapeError, UsageError
from qcompiler.frontends.onnx import import_onnx

pytest.importorskip("tvm")

CAPACITIES = (4, 12)
RNG = np.random.default_rng(0)


def encoder(masked: bool = True, symbol: str = "sequence") -> onnx.ModelProto:
    """One head of attention over embeddings, its first place, and all of them."""
    b = Builder()
    ids = b.input("ids", ["batch", symbol], TensorProto.INT64)
    mask = b.input("mask", ["batch", symbol], TensorProto.INT64)
    rng = np.random.default_rng(1)

    def product(x: str, name: str) -> str:
        return b.node("MatMul", x, b.constant(name, rng.standard_normal((8, 8)).astype("f") / 3))

    table = b.constant("table", rng.standard_normal((20, 8)).astype(np.float32))
    x = b.node("Gather", table, ids)
    key = b.node("Transpose", product(x, "k"), perm=[0, 2, 1])
    scores = b.node("MatMul", product(x, "q"), key)
    if masked:
        one, many = (b.constant(n, np.array(v, np.float32)) for n, v in (("o", 1), ("m", -1e4)))
        hidden = b.node("Sub", one, b.node("Cast", mask, to=TensorProto.FLOAT))
        row = b.node("Unsqueeze", b.node("Mul", hidden, many), b.constant("a", np.array([1])))
        scores = b.node("Add", scores, row)
    y = b.node("MatMul", b.node("Softmax", scores, axis=-1), product(x, "v"), outputs=("y",))
    first = b.node("Gather", y, b.constant("zero", np.array(0)), axis=1, outputs=("first",))
    return b.model(y, first)


def feeds(length: int, samples: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(length)
    mask = np.ones((samples, length), np.int64)
    mask[:, length - length // 3 :] = 0
    return {"ids": rng.integers(0, 20, (samples, length)), "mask": mask}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    options = Options(lengths=CAPACITIES, batches=(1, 2), threads=1)
    calibration = feeds(CAPACITIES[-1], 32)
    done = compile_model(encoder(), "cpu", calibration, options=options)
    path = tmp_path_factory.mktemp("lengths") / "m.so"
    done.model.save(path)
    return load(path)


def test_programs_for_each_capacity(model: CompiledModel) -> None:
    names = [program.name for program in model.metadata.programs]
    assert names == ["batch-1-of-4", "batch-2-of-4", "batch-1-of-12", "batch-2-of-12"]
    lengths = model.metadata.lengths
    assert lengths is not None
    assert (lengths.capacities, lengths.inputs, lengths.outputs) == (CAPACITIES, (1, 1), (1, None))


@pytest.mark.parametrize("samples", [1, 3])
def test_padding_changes_no_bit(model: CompiledModel, samples: int) -> None:
    """Whoever pads to the largest capacity gets what the library gives for the length itself."""
    for length in range(1, CAPACITIES[-1] + 1):
        own = feeds(length, samples)
        more = CAPACITIES[-1] - length
        padded = {name: np.pad(x, ((0, 0), (0, more))) for name, x in own.items()}
        found, expected = model(own), model(padded)
        assert found["y"].shape == (samples, length, 8)
        np.testing.assert_array_equal(found["y"], expected["y"][:, :length])
        np.testing.assert_array_equal(found["first"], expected["first"])


def test_feeds_that_do_not_fit(model: CompiledModel) -> None:
    with pytest.raises(UsageError, match=r"'ids': expected int64\[1x12\], found int64\[1x13\]"):
        model(feeds(13))
    with pytest.raises(UsageError, match=r"'mask': expected int64\[1x5\], found int64\[1x6\]"):
        model({"ids": feeds(5)["ids"], "mask": feeds(6)["mask"]})


def test_refusals(tmp_path: Path) -> None:
    options = Options(lengths=CAPACITIES)
    calibration = feeds(CAPACITIES[-1], 8)
    with pytest.raises(ShapeError, match=r"padding 2 places to .* changes output 'y'"):
        compile_model(encoder(masked=False), "cpu", calibration, options=options)
    fixed = Options(lengths=(4,), input_shapes={"ids": (1, 6)})
    with pytest.raises(ShapeError, match=r"open dimension besides .*, found none"):
        fixed.imported(encoder())
    b = Builder()
    b.input("x", ["batch", "height", "width"])
    image = b.model(b.node("Relu", "x", outputs=("y",)))
    with pytest.raises(ShapeError, match=r"one open dimension .*, found x 1xheightxwidth"):
        import_onnx(image, length=4)


def test_one_length_of_the_graph() -> None:
    graph = Options(lengths=(4, 12)).imported(encoder())
    with pytest.raises(ShapeError, match="found a graph of length 12"):
        Options(lengths=(4,)).imported(graph)
    assert [x.type.shape for x in graph.inputs] == [(1, 12), (1, 12)]
    assert graph.open_length == {"ids": 1, "mask": 1}
