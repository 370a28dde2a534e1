"""On a real GPU: numpy's bits for every op and for whole networks, from host and device memory.

Run with `pytest -m gpu`; under compute-sanitizer too:
`compute-sanitizer --error-exitcode 1 python -m pytest -m gpu -k ops`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from tiny import examples
from vit_tiny import FOLDER, images, needs_vit_tiny

import qcompiler
from qcompiler.artifact import CompiledModel
from qcompiler.backends.cuda import installed
from qcompiler.backends.cuda.build import build
from qcompiler.backends.targets import target
from qcompiler.graph import Graph
from qcompiler.interpret import evaluate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not installed.architectures(), reason="needs an NVIDIA GPU"),
]

ROOT = Path(__file__).parent.parent.parent
LIBRARY_OPS = 24
EXAMPLES = list(examples())
GROUPS = [EXAMPLES[i : i + LIBRARY_OPS] for i in range(0, len(EXAMPLES), LIBRARY_OPS)]


@pytest.mark.parametrize("group", range(len(GROUPS)))
def test_ops(group: int) -> None:
    members = GROUPS[group]
    inputs = tuple(x for e in members for x in e.graph.inputs)
    model = build(Graph(inputs, {e.name: e.op for e in members}), target("cuda"))
    rng = np.random.default_rng(group)
    for _ in range(2):
        own = {k: v for e in members for k, v in e.feeds(rng).items()}
        found = model(own)
        for e in members:
            expected = evaluate(e.graph, {str(x.name): own[str(x.name)] for x in e.graph.inputs})
            if expected["y"].dtype.kind == "f":
                np.testing.assert_allclose(found[e.name], expected["y"], rtol=1e-5, atol=1e-5)
            else:
                np.testing.assert_array_equal(found[e.name], expected["y"], e.name)


def compiled(model: Any, samples: Any, **options: Any) -> tuple[Graph, CompiledModel]:
    done = qcompiler.compile_model(model, "cuda", samples, options=qcompiler.Options(**options))
    return done.integer, done.model


def assert_bits(integer: Graph, model: CompiledModel, feeds: dict[str, np.ndarray]) -> None:
    found = model(feeds)
    for name, expected in evaluate(integer, feeds).items():
        np.testing.assert_array_equal(
            found[name].view(np.uint8), expected.view(np.uint8), err_msg=name
        )


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_demo_networks(name: str) -> None:
    folder = ROOT / "models" / "digits"
    samples = np.load(folder / "calib.npz")
    integer, model = compiled(folder / f"{name}.onnx", folder / "calib.npz")
    for i in range(8):
        assert_bits(integer, model, {k: samples[k][i : i + 1] for k in samples.files})


@needs_vit_tiny
def test_vit_tiny() -> None:
    integer, model = compiled(
        FOLDER / "model.onnx", {"x": images("calib", 32)}, require_integer=True
    )
    for x in images("val", 16):
        assert_bits(integer, model, {"x": x[None]})


@pytest.mark.parametrize("name", ["deit_s", "swin_t", "resnet50"])
@pytest.mark.parametrize("batch", [1, 8])
def test_architectures(name: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights, as tools/bench_cuda.py measures them."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(ROOT / "models"))
    import architectures

    feeds = architectures.example_inputs(name, batch)
    module = architectures.build(name)
    done = qcompiler.compile_model(
        module,
        "cuda",
        {k: x.numpy() for k, x in feeds.items()},
        example_inputs=tuple(feeds.values()),
    )
    names = [str(x.name) for x in done.integer.inputs]
    own = {n: x.numpy() for n, x in zip(names, feeds.values(), strict=True)}
    assert_bits(done.integer, done.model, own)


def test_torch_tensors_stay_on_the_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs torch with CUDA")
    folder = ROOT / "models" / "digits"
    samples = np.load(folder / "calib.npz")
    integer, model = compiled(folder / "vit.onnx", folder / "calib.npz")
    stream = torch.cuda.Stream()
    for chosen in (None, stream):
        for i in range(4):
            feeds = {k: samples[k][i : i + 1] for k in samples.files}
            tensors = {k: torch.from_numpy(x).cuda() for k, x in feeds.items()}
            found = model(tensors, stream=chosen)
            for name, expected in evaluate(integer, feeds).items():
                assert found[name].is_cuda
                np.testing.assert_array_equal(found[name].cpu().numpy(), expected)
