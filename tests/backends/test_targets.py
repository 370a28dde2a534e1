"""Targets as data."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from qcompiler.backends import targets as module
from qcompiler.backends.cpu import machine
from qcompiler.backends.cpu.targets import X86, cpu_target
from qcompiler.backends.target import load_kernels
from qcompiler.backends.targets import TARGETS, target
from qcompiler.errors import TargetError


@pytest.mark.parametrize("name", [name for name in TARGETS if name.startswith("cpu")])
def test_llvm_knows_the_targets(name: str) -> None:
    features = machine.code_features(machine.tvm_target(target(name)))
    assert features == tuple(sorted(set(features)))
    assert any(f in features for f in ("sse2", "neon", "fp-armv8"))


def test_native_code_runs_here() -> None:
    assert all(
        machine.host_features().get(f)
        for f in machine.code_features(machine.tvm_target(target("cpu")))
    )


def test_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(TargetError) as error:
        target("cpu:cascadelak")
    message = str(error.value)
    assert "unknown target 'cpu:cascadelak'" in message
    assert "cpu:haswell" in message
    assert "did you mean cpu:cascadelake?" in message


def test_importing_targets_does_not_import_tvm() -> None:
    code = "import sys, qcompiler.backends.targets; assert 'tvm' not in sys.modules"
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


THEIRS = cpu_target("theirs", X86, "haswell")
NOT_A_TARGET = SimpleNamespace()


def entry(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    found = EntryPoint("board", value, module.GROUP)
    monkeypatch.setattr(module, "entry_points", lambda group: [found])
    monkeypatch.setitem(sys.modules, "their_package", sys.modules[__name__])


def test_third_parties_add_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    entry(monkeypatch, "their_package:THEIRS")
    assert target("board").name == "board"
    assert target("board").tvm == THEIRS.tvm
    with pytest.raises(TargetError, match=r"cpu:generic.*board"):
        target("nothing")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("their_package:NOT_A_TARGET", "expected a Target"),
        ("their_package:ABSENT", "cannot be loaded"),
        ("absent_package:THEIRS", "cannot be loaded"),
    ],
)
def test_broken_packages_are_named(monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
    entry(monkeypatch, value)
    with pytest.raises(TargetError, match=words):
        target("board")


def test_a_cpu_of_a_third_party_has_all_cpu_kernels() -> None:
    assert load_kernels(THEIRS) == load_kernels(target("cpu")) != ()


def test_a_kernel_table_that_is_not_there() -> None:
    with pytest.raises(TargetError, match="no kernel table absent:TABLE"):
        load_kernels(replace(THEIRS, kernels=("absent:TABLE",)))
