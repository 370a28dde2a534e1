"""Damaged files: what commands do with them is judged by exit code, line and folder."""

from __future__ import annotations

import os  # noqa: F401  # for the programs below
import signal  # noqa: F401
import sys
from pathlib import Path

import fuzz_files
import numpy as np
import onnx
import pytest
from fuzz import sound_library
from fuzz_damage import damage_job
from fuzz_damage_models import CHANGES, damaged_model
from fuzz_files import KINDS, damage


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "sound.so"
    sound_library(path)
    return path


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_writes_files_of_every_kind(kind, library: Path, tmp_path) -> None:
    for seed in range(20):
        folder = tmp_path / str(seed)
        folder.mkdir()
        files = kind(np.random.default_rng(seed), folder, library)
        assert any(name in files.command for name in ("model.onnx", "model.so"))
        assert any(folder.iterdir())


def test_a_seed_is_one_damage(library: Path, tmp_path) -> None:
    contents = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        damage(3, folder, library)
        contents.append({p.name: p.read_bytes() for p in folder.iterdir()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_change_something(change) -> None:
    changed = 0
    for seed in range(20):
        model = onnx.load_from_string(damaged_model(np.random.default_rng(seed))[0])
        before = model.SerializeToString()
        change(np.random.default_rng(seed), model)
        changed += model.SerializeToString() != before
    assert changed > 5


@pytest.fixture
def yaml(monkeypatch) -> None:
    monkeypatch.setattr(fuzz_files, "KINDS", ((fuzz_files.configuration, 1.0),))


@pytest.mark.usefixtures("yaml")
def test_documented_outcomes_pass(library: Path) -> None:
    found = [damage_job(seed, library, 20.0, None) for seed in range(3)]
    assert {o.kind for o in found} == {"exit"}, found


@pytest.mark.usefixtures("yaml")
@pytest.mark.parametrize(
    ("end", "kind", "what"),
    [
        ("sys.exit(70)", "crash", "exit 70"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died", "SIGSEGV"),
        ("for _ in iter(int, 1): pass", "timeout", "SIGXCPU"),
        ("Path('half').touch(); refuse()", "died", "partial files"),
        ("Path('out.onnx').touch(); refuse()", "died", "partial files"),
        ("Path('model.onnx').write_text('')", "died", "input was changed"),
        ("pass", "died", "partial files"),  # exit code 0 and no output
        ("sys.exit(3)", "refusal", "without a line"),
        ("refuse(); refuse()", "refusal", "more than one line"),
        ("print('note', file=sys.stderr); refuse()", "refusal", "more than one line"),
        ("refuse()", "exit", "3 (YAML)"),
    ],
)
def test_other_outcomes_fail(
    end: str, kind: str, what: str, library: Path, tmp_path, monkeypatch
) -> None:
    def refuse() -> None:
        print("qcompile: error: no", file=sys.stderr)
        codes.append(3)

    codes: list[int] = []

    def app(*arguments: object, **options: object) -> None:
        exec(end, globals(), {"refuse": refuse})
        sys.exit(codes[0] if codes else 0)

    monkeypatch.setattr("qcompiler.cli.app", app)
    found = damage_job(0, library, 1.0, tmp_path)
    assert (found.kind, what in found.what) == (kind, True), found
    assert (tmp_path / "damage0" / "model.onnx").exists() == found.failed
