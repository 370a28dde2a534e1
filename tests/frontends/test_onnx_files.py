"""Files that are no models, and external data: refused in one line, nothing else is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto
from onnx_models import linear, refused

from qcompiler.errors import (
    FileError,
    ModelError,
    QcompilerError,
    UsageError,
)
from qcompiler.frontends import is_torch
from qcompiler.frontends.onnx import import_onnx

DIGITS = Path(__file__).parents[2] / "models/digits/cnn.onnx"


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", FileError, "is empty"),
        (b"# a text file\nwith lines\n", FileError, "is not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\n", FileError, "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), FileError, "is not an ONNX model"),
        (b"\x08\x0a", FileError, "holds no graph"),
        (DIGITS.read_bytes()[:5000], ModelError, "truncated or damaged"),
    ],
)
def test_files_that_are_no_models(
    content: bytes, kind: type[QcompilerError], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(kind, path, str(path), words)
    refused(kind, str(path), str(path), words)
    if content:
        with pytest.raises(QcompilerError):
            import_onnx(content)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    refused(FileError, tmp_path / "none.onnx", "none.onnx", "no such file")
    refused(FileError, tmp_path, "is a directory")
    refused(FileError, "a\0b", "a?b: ")
    refused(FileError, "a" * 400, "cannot be read")
    refused(FileError, os.devnull, "not a regular file")
    refused(UsageError, 3, "expected a path", "int")


def test_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    refused(FileError, path, "cannot be read")


def test_what_nobody_can_read_is_not_torchs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m"
    assert not any(is_torch(x) for x in (path, tmp_path, "a\0b"))
    path.write_bytes(b"PK\x03\x04")
    assert is_torch(path)

    def refuse(*args: Any) -> None:
        raise PermissionError

    monkeypatch.setattr("builtins.open", refuse)
    assert not is_torch(path)


@pytest.fixture
def external(tmp_path: Path) -> Callable[..., Path]:
    """A model in a folder of its own, whose weight lies where the test says."""

    def save(location: str, data: int | None = 48, **entries: int) -> Path:
        model = linear().model("y")
        (weight,) = model.graph.initializer
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            weight.external_data.add(key=key, value=str(value))
        folder = tmp_path / "folder"
        folder.mkdir()
        onnx.save(model, folder / "m.onnx")
        if data is not None:
            (folder / location).resolve().write_bytes(bytes(data))
        return folder / "m.onnx"

    return save


def test_external_data_is_read(external: Any) -> None:
    assert import_onnx(external("w.bin")).outputs["y"].type.shape == (2, 4)


def test_missing_external_data(external: Any) -> None:
    refused(FileError, external("w.bin", None), "'w'", "w.bin", "missing")


def test_external_data_of_a_model_in_memory(external: Any) -> None:
    data = external("w.bin").read_bytes()
    refused(ModelError, data, "w.bin", "import the model by its path")


def test_external_data_outside_the_folder(external: Any, tmp_path: Path) -> None:
    refused(ModelError, external("../w.bin"), "../w.bin", "outside the model's folder")


def test_external_data_at_an_absolute_path(external: Any, tmp_path: Path) -> None:
    location = str(tmp_path / "folder" / "w.bin")
    refused(ModelError, external(location), "outside the model's folder")


def test_external_data_behind_a_link(external: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(48))
    path = external("w.bin", None)
    (path.parent / "w.bin").symlink_to(tmp_path / "secret")
    refused(ModelError, path, "outside the model's folder")


@pytest.mark.parametrize(
    ("data", "entries", "words"),
    [
        (47, {}, "ends at byte 47: expected 48"),
        (48, {"offset": 8}, "ends at byte 48: expected 56"),
        (48, {"length": 44}, "44 bytes"),
        (48, {"offset": -4}, "offset"),
    ],
)
def test_external_data_of_another_size(
    external: Any, data: int, entries: dict[str, int], words: str
) -> None:
    refused(ModelError, external("w.bin", data, **entries), words)
