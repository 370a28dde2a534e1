"""torch models: the same graph as through an ONNX file, torch's numbers, and every refusal."""

from __future__ import annotations

import importlib.util
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

import qcompiler
from qcompiler.errors import (
    FileError,
    QcompilerError,
    ShapeError,
    UnsupportedError,
    UsageError,
)

if importlib.util.find_spec("torch") is None:
    pytest.skip("needs torch", allow_module_level=True)

import torch
from torch import Tensor, nn

SHAPE = (2, 3, 16, 16)


class Cnn(nn.Module):
    """Convolutions with batch normalization, a pool, a residual sum, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.pool(self.stem(image))
        x = x + torch.relu(self.body(x))
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    """A block of a vision transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.5), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Patches, a class token, positions, two blocks."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width))
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x - 2 * y


def made(kind: type[nn.Module]) -> nn.Module:
    """A network in evaluation mode whose normalizations are not trivial."""
    torch.manual_seed(0)
    module = kind()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        module(torch.randn(8, *SHAPE[1:]))  # running statistics
    return module.eval()


def image() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


def written(module: nn.Module, path: Path) -> Path:
    """The ONNX file that torch writes when nothing but the path is asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (image(),), path, dynamo=True, verbose=False)
    return path


def program(module: nn.Module, **options: object) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module, (image(),), **options)


@pytest.fixture(scope="module")
def dynamic_file(tmp_path_factory) -> Path:
    """A .pt2 file with an open batch dimension."""
    path = tmp_path_factory.mktemp("torch") / "cnn.pt2"
    shapes = {"image": {0: torch.export.Dim("batch")}}
    torch.export.save(program(made(Cnn), dynamic_shapes=shapes), path)
    return path


def output(graph: qcompiler.Graph, **feeds: Tensor) -> np.ndarray:
    """The only output."""
    arrays = {name: x.numpy() for name, x in feeds.items()}
    (result,) = qcompiler.evaluate(graph, arrays).values()
    return result


@pytest.mark.parametrize("kind", [Cnn, Vit])
def test_module_program_and_onnx_file_give_one_integer_graph(kind, tmp_path):
    module = made(kind)
    rng = np.random.default_rng(0)
    samples = {"image": rng.standard_normal((16, *SHAPE[1:])).astype(np.float32)}
    file = qcompiler.import_onnx(written(module, tmp_path / "model.onnx"))
    imported = qcompiler.import_torch(module, image())

    expected = str(qcompiler.quantize(file, samples))
    assert str(qcompiler.quantize(imported, samples)) == expected
    assert str(qcompiler.import_torch(program(module))) == str(imported)
    assert "int8" in expected
    with torch.no_grad():
        reference = module(image()).numpy()
    np.testing.assert_allclose(output(imported, image=image()), reference, rtol=0, atol=1e-4)


def test_nodes_are_named_after_modules():
    found = [s for op in qcompiler.import_torch(made(Vit), image()).ops for s in op.sources]
    for name in ("patch/Conv", "blocks.1.mlp.1/Gelu", "blocks.0.attention/Softmax", "head/Gemm"):
        assert name in found
    assert {"blocks.0/Add", "blocks.0/Add_1"} <= set(found)


def test_inputs_of_half_and_double_keep_their_dtype():
    for dtype in (torch.float16, torch.float64):
        module = made(Cnn).to(dtype)
        graph = qcompiler.import_torch(module, image().to(dtype))
        assert f"torch.{graph.inputs[0].type.dtype}" == str(dtype)


def test_arguments_by_name_and_by_position():
    x, y = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 7.0]])
    for given in ((x, y), [x, y], {"y": y, "x": x}):
        graph = qcompiler.import_torch(Sum(), given)
        assert output(graph, x=x, y=y).tolist() == [[-9.0, -12.0]]


def test_training_mode_is_exported_as_evaluation_and_kept():
    module = made(Vit)
    expected = qcompiler.import_torch(module, image())
    module.train()
    module.blocks[0].eval()
    modes = [part.training for part in module.modules()]
    assert str(qcompiler.import_torch(module, image())) == str(expected)
    assert [part.training for part in module.modules()] == modes


def test_ambiguous_strides_leave_no_trace():
    """With one channel, these strides say channels last as well, and torch would trace a gather."""
    module = nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    x = torch.randn(1, 8, 8, 1).permute(0, 3, 1, 2)
    graph = qcompiler.import_torch(module, x)
    assert str(graph) == str(qcompiler.import_torch(module, torch.randn(1, 1, 8, 8)))
    with torch.no_grad():
        np.testing.assert_allclose(output(graph, input=x), module(x).numpy(), atol=1e-5)


def test_an_open_batch_is_one_sample(dynamic_file):
    graph = qcompiler.import_torch(dynamic_file)
    assert (str(graph.inputs[0].type), graph.open_batch) == ("float32[1x3x16x16]", {"image": 0})


def test_file_bytes_and_fixed_dimensions(dynamic_file):
    by_shape = {"image": SHAPE}
    expected = str(qcompiler.import_torch(dynamic_file, input_shapes=by_shape))
    assert "float32[2x3x16x16]" in expected
    data = dynamic_file.read_bytes()
    assert str(qcompiler.import_torch(data, image())) == expected
    assert str(qcompiler.import_torch(str(dynamic_file), {"image": image()})) == expected


def test_compile_takes_modules_and_files(tmp_path):
    torch.manual_seed(0)
    module, x = nn.Linear(4, 3), torch.randn(8, 4)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "linear.pt2")
    samples = x.numpy()

    compiled = qcompiler.compile(module, "cpu", samples, example_inputs=x)
    (y,) = compiled(samples).values()
    (other,) = qcompiler.compile(tmp_path / "linear.pt2", "cpu", samples)(samples).values()
    assert y.tolist() == other.tolist()
    np.testing.assert_allclose(y, module(x).detach().numpy(), atol=0.05)

    again = qcompiler.compile(module, "cpu", samples, example_inputs=x)
    assert again.metadata.source_sha256 == compiled.metadata.source_sha256
    with torch.no_grad():
        module.bias += 1
    shifted = qcompiler.compile(module, "cpu", samples, example_inputs=x)
    assert shifted.metadata.source_sha256 != compiled.metadata.source_sha256


TALKATIVE = """
import torch, qcompiler
class Flow(torch.nn.Module):
    def forward(self, x):
        print("stdout is where graphs go")
        return x if x.sum() > 0 else -x
for module in (torch.nn.Linear(4, 2), torch.nn.Linear(3, 2), Flow()):
    try: qcompiler.import_torch(module, torch.zeros(1, 4))
    except qcompiler.QcompilerError: print("refused")
"""


def test_torch_says_nothing():
    command = [sys.executable, "-c", TALKATIVE]  # its handlers write where stderr was at first
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("refused\n" * 2, "")


def test_logging_and_warnings_are_as_before():
    filters = list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qcompiler.import_torch(made(Cnn), image())
    assert warnings.filters == filters
    loggers = [logging.getLogger(name) for name in sorted(logging.root.manager.loggerDict)]
    handlers = [h for log in loggers if log.name.startswith("torch") for h in log.handlers]
    assert handlers
    assert all(handler.level <= logging.CRITICAL for handler in handlers)


class Svd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svd(x)[1]


class Stubborn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise NotImplementedError("no copies")


def refused(kind: type[QcompilerError], *words: str, **arguments: object) -> None:
    """An import that must fail in one line with these words."""
    with pytest.raises(kind) as caught:
        qcompiler.import_torch(**arguments)
    assert type(caught.value) is kind
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 450
    for word in words:
        assert word in text, text


def test_refusals_of_modules():
    module, x = made(Cnn), image()
    refused(UsageError, "example_inputs", "missing", model=module)
    refused(UsageError, "example_inputs", "ndarray", model=module, example_inputs=x.numpy())
    refused(UsageError, "torch.nn.Module", "Cnn", model=Cnn, example_inputs=x)
    refused(UnsupportedError, "training mode", "no copies", model=Stubborn(), example_inputs=x)
    refused(UnsupportedError, "linalg_svd", "report=True", model=Svd(), example_inputs=x)
    refused(UnsupportedError, "argument: 'y'", model=Sum(), example_inputs=x)
    words = ("'head.weight'", "meta", "expected cpu")
    module.head.to("meta")
    refused(UsageError, *words, model=module, example_inputs=x)
    words = ("example_inputs['image']", "meta", "expected cpu")
    refused(UsageError, *words, model=made(Cnn), example_inputs={"image": x.to("meta")})
    shapes = {"image": (4, 3, 16, 16)}
    refused(ShapeError, "fixes 2x3", model=made(Cnn), example_inputs=x, input_shapes=shapes)


def test_refusals_of_programs(dynamic_file):
    refused(UsageError, "2 tensors", model=dynamic_file, example_inputs=(image(), image()))
    refused(ShapeError, "1x3x8x8", model=dynamic_file, example_inputs=torch.zeros(1, 3, 8, 8))
    training = program(made(Cnn).train())
    refused(UnsupportedError, "training mode", "eval()", model=training)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decomposed = training.run_decompositions()
    refused(UnsupportedError, "training mode", "eval()", model=decomposed)


def test_momentum_is_not_taken_for_training_mode():
    module = made(Cnn)
    module.stem[1].momentum = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decomposed = program(module).run_decompositions()
    assert qcompiler.import_torch(decomposed).inputs[0].type.shape == SHAPE


def test_refusals_of_files(dynamic_file, tmp_path):
    wanted = "expected a file of torch.export.save"
    refused(FileError, "gone.pt2: no such file", wanted, model=tmp_path / "gone.pt2")
    refused(FileError, "not a regular file", wanted, model=tmp_path)
    cut = tmp_path / "cut.pt2"
    cut.write_bytes(dynamic_file.read_bytes()[:-1000])
    refused(FileError, "cut.pt2: holds no program", wanted, model=cut)
    weights = tmp_path / "weights.bin"
    torch.save(made(Cnn).state_dict(), weights)
    with pytest.raises(FileError, match=r"weights\.bin: holds no program"):
        qcompiler.compile(weights)


def test_example_inputs_of_what_is_not_torch():
    with pytest.raises(UsageError, match="only for torch models, found ModelProto"):
        qcompiler.compile(onnx.ModelProto(), example_inputs=image())


def test_without_torch_the_error_says_what_to_install(dynamic_file):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import qcompiler\n"
        "try: qcompiler.compile(sys.argv[1])\n"
        "except qcompiler.QcompilerError as error: print(error)\n"
    )
    command = [sys.executable, "-I", "-c", program, str(dynamic_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r".*cnn\.pt2: .*pip install 'qcompiler\[torch\]'\n", done.stdout)


def test_command_line(dynamic_file, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from qcompiler.cli import app

    monkeypatch.chdir(tmp_path)
    np.savez("samples.npz", image=image().numpy())
    fixed = ["--input-shape", "image:2x3x16x16"]

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    calib = ["--calib", "samples.npz"]
    text = run(dynamic_file, *fixed, *calib, "--stop-after", "integerize", "-q")
    assert "mat_mul_integer" in text
    facts = run("inspect", dynamic_file, *fixed)
    assert re.search(r"macs +\d", facts)
    assert "image: float32[s" in facts
    assert re.search(r"2  Conv", facts)
    assert "top-1" in run("compare", dynamic_file, *fixed, *calib, "--data", "samples.npz")
