"""Kernels and program, linked to a shared library."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tvm
from tvm.target import Target

from qcompiler.backends.cpu import machine
from qcompiler.backends.cpu.program import CONSTANTS, PIPELINE, Main, plain
from qcompiler.backends.tvm.lower import Program
from qcompiler.errors import TargetError
from qcompiler.host import c_compiler

LIBRARY = "model.so"


def write_library(programs: Iterable[Program], final: Main, target: Target, folder: Path) -> Any:
    """Write `LIBRARY`, without metadata, into the folder; returns TVM's module of the kernels.

    Raises:
        TargetError: there is no C compiler to link with, or it refuses.
    """
    used = dict.fromkeys(k for program in programs for k in program.kernels)
    functions = {k.symbol: plain(k.function, k.symbol) for k in used}
    kernels = tvm.compile(tvm.IRModule(functions), target, tir_pipeline=PIPELINE).mod
    kernels.write_to_file(str(folder / "kernels.o"))
    with (folder / CONSTANTS).open("wb") as file:
        for offset, array in final.constants:
            file.seek(offset)
            file.write(array.data)
    (folder / "main.c").write_text(final.source, "utf-8")
    _link(folder, machine.target_architecture(target))
    return kernels


def _link(folder: Path, architecture: str) -> None:
    compiler = c_compiler(architecture)
    command = [compiler, "-shared", "-fPIC", "-O2", "-std=gnu11", "-fvisibility=hidden"]
    command += ["-Wl,-Bsymbolic", "-Wl,-z,noexecstack", "-Wl,--no-undefined", "-pthread"]
    command += ["-o", LIBRARY, "kernels.o", "main.c", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TargetError(f"{compiler} cannot link the library for {architecture}: {reason}")
    for name in ("kernels.o", "main.c", CONSTANTS):
        (folder / name).unlink()
