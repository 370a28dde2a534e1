"""The command line in process, small models, and what every refusal has in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from qcompiler.cli import app


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, both streams, and the files of its folder."""

    code: int
    out: str
    err: str
    files: frozenset[str]


Qcompile = Callable[..., Result]


@pytest.fixture
def qcompile(tmp_path, monkeypatch) -> Qcompile:
    """Run a command in an empty folder, where relative paths lead."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def run(*arguments: object) -> Result:
        result = runner.invoke(app, [str(a) for a in arguments], prog_name="qcompile")
        files = frozenset(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
        return Result(result.exit_code, result.stdout, result.stderr, files)

    return run


@pytest.fixture
def refused(qcompile, tmp_path):
    """Run a command that must fail: one line on stderr with these words, nothing written."""

    def run(code: int, *arguments: object, words: tuple[str, ...]) -> None:
        before = frozenset(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
        result = qcompile(*arguments)
        assert result.code == code, result.err
        assert re.fullmatch(r"qcompile: error: [^\n]+\n", result.err), result.err
        for word in words:
            assert word in result.err, result.err
        assert result.out == ""
        assert result.files == before

    return run


@pytest.fixture
def tiny(tmp_path):
    """Write `y = relu(x · w)` to tiny.onnx, with one thing different."""

    def write(
        change: Callable[[onnx.ModelProto], None] | None = None,
        *,
        shape: tuple[int | str, ...] = (1, 4),
        op: str = "Relu",
        domain: str = "",
        weight: np.ndarray | None = None,
    ) -> Path:
        if weight is None:
            weight = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
        graph = helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
                helper.make_node(op, ["h"], ["y"], name="last", domain=domain),
            ],
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, (shape[0], 3))],
            [numpy_helper.from_array(weight, "w")],
        )
        opsets = [helper.make_opsetid("", 20)]
        if domain:
            opsets.append(helper.make_opsetid(domain, 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        if change is not None:
            change(model)
        path = tmp_path / "tiny.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


@pytest.fixture
def samples(tmp_path):
    """Write arrays, by default eight samples for `tiny`, to calib.npz."""

    def write(**arrays: np.ndarray) -> Path:
        path = tmp_path / "calib.npz"
        rng = np.random.default_rng(0)
        if not arrays:
            arrays = {"x": rng.standard_normal((8, 4)).astype(np.float32)}
        np.savez(path, **arrays)
        return path

    return write


@pytest.fixture(scope="session")
def digits() -> Path:
    """The folder of the demo models and their data."""
    return Path(__file__).parents[2] / "models" / "digits"


@pytest.fixture(scope="session")
def library(tmp_path_factory, digits) -> Path:
    """The digits CNN, compiled once for all tests."""
    path = tmp_path_factory.mktemp("library") / "cnn.so"
    arguments = [digits / "cnn.onnx", "--calib", digits / "calib.npz", "-o", path]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.stderr
    return path
