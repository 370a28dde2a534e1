"""Instruments: time, dump and compare."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from qcompiler.errors import ContractError, OutputError
from qcompiler.graph import Graph, Input
from qcompiler.ops import Add, Relu, Slice, scalar
from qcompiler.passes.base import Pass, PassManager, Preserves
from qcompiler.passes.instruments import Compare, DumpIr, Time
from qcompiler.types import FLOAT, TensorType

FEEDS = {"x": np.array([-1.0, 2.0], np.float32)}


def graph() -> Graph:
    x = Input(TensorType(FLOAT, (2,)), name="x")
    return Graph((x,), {"y": Relu(Relu(x))})


@dataclass(frozen=True)
class KeepAll(Pass):
    """Changes nothing."""

    def run(self, graph: Graph) -> Graph:
        return graph


@dataclass(frozen=True)
class Shift(Pass):
    """Adds a constant to every output."""

    by: float = 1e-6
    preserves: ClassVar[Preserves] = "reals"

    def run(self, graph: Graph) -> Graph:
        shifted = {y: Add(y, scalar(self.by, FLOAT)) for y in graph.outputs.values()}
        return graph.with_outputs(shifted)


@dataclass(frozen=True)
class ShiftBits(Shift):
    """The same, but says that it does not."""

    preserves: ClassVar[Preserves] = "bits"


@dataclass(frozen=True)
class ShiftFreely(Shift):
    """The same, and promises nothing."""

    preserves: ClassVar[Preserves] = "nothing"


def test_time_reports_every_pass():
    lines: list[str] = []
    PassManager((KeepAll(), Shift()), (Time(lines.append),))(graph())
    assert re.fullmatch(r"keep-all +\d+\.\d{3} s   unchanged", lines[0])
    assert re.fullmatch(r"shift +\d+\.\d{3} s   3 → 5 ops", lines[1])


def test_dump_shows_the_start_and_every_pass():
    shown: list[str] = []
    g = graph()
    done = PassManager((KeepAll(), Shift()), (DumpIr(show=shown.append),))(g)
    assert shown == [f"// start\n{g}", f"// keep-all\n{g}", f"// shift\n{done}"]


def test_dump_after_one_pass_numbers_files_across_managers(tmp_path):
    dump = DumpIr(frozenset(["shift"]), tmp_path / "made" / "here")
    first = PassManager((KeepAll(), Shift()), (dump,))(graph())
    second = PassManager((Shift(2.0),), (dump,))(first)
    folder = tmp_path / "made" / "here"
    assert sorted(p.name for p in folder.iterdir()) == ["00-shift.txt", "01-shift.txt"]
    assert (folder / "00-shift.txt").read_text("utf-8") == f"{first}\n"
    assert (folder / "01-shift.txt").read_text("utf-8") == f"{second}\n"


def test_dump_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file: cannot be made"):
        DumpIr(folder=tmp_path / "file")


def test_compare_accepts_what_passes_promise():
    PassManager((KeepAll(), Shift(), ShiftFreely(1.0)), (Compare(FEEDS),))(graph())


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (ShiftBits(), r"pass shift-bits preserves bits, but output 'y' differs by .*"),
        (Shift(1.0), r"pass shift preserves reals, but output 'y' differs by 1, .* 0\.0002"),
        (Shift(float("nan")), r"pass shift preserves reals, but output 'y' differs by nan"),
    ],
)
def test_compare_refuses_what_they_do_not(step, message):
    with pytest.raises(ContractError, match=message):
        PassManager((step,), (Compare(FEEDS),))(graph())


def test_compare_tolerance_is_relative_to_the_output():
    PassManager((Shift(0.1),), (Compare(FEEDS, tolerance=0.06),))(graph())
    with pytest.raises(ContractError, match=r"differs by 0\.1"):
        PassManager((Shift(0.1),), (Compare(FEEDS, tolerance=0.04),))(graph())


@dataclass(frozen=True)
class DropOne(Pass):
    """Returns the first element only, and promises nothing less than the same bits."""

    def run(self, graph: Graph) -> Graph:
        return graph.with_outputs({y: Slice(y, (0,), (1,), (1,)) for y in graph.outputs.values()})


def test_compare_refuses_another_type():
    with pytest.raises(ContractError, match=r"float32\[2\] and is float32\[1\]"):
        PassManager((DropOne(),), (Compare(FEEDS),))(graph())
