"""From a graph to one shared library: kernels, program, weights and metadata."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tvm
from tvm.target import Target as TvmTarget

from qcompiler.artifact import CompiledModel, Metadata, seal
from qcompiler.backends.target import Target, load_kernels
from qcompiler.backends.tvm import machine
from qcompiler.backends.tvm.assembly import float_instructions
from qcompiler.backends.tvm.describe import inputs, kernel_infos, outputs
from qcompiler.backends.tvm.lower import Program, lower
from qcompiler.backends.tvm.program import CONSTANTS, PIPELINE, Main, main, plain
from qcompiler.errors import TargetError
from qcompiler.graph import Graph

LIBRARY = "model.so"


def check(target: Target, *, tune: bool = False) -> None:
    """Refuse what `build` would refuse whatever the graph is.

    Raises:
        TargetError: there is no C compiler to link with; `tune`, and this machine cannot run code
            for the target.
    """
    chosen = machine.tvm_target(target)
    c_compiler(_architecture(chosen))
    if tune:
        from qcompiler.backends.tvm.tuning import check_tunable

        check_tunable(chosen)


def build(
    graph: Graph,
    target: Target,
    *,
    source_sha256: str | None = None,
    threads: int | None = None,
    tune: int = 0,
) -> CompiledModel:
    """Compile a graph to a library that lies in a temporary folder until it is saved.

    Args:
        graph: In any language.
        target: What to compile for; a foreign CPU's library can be saved but not called here.
        source_sha256: Digest of the model's file, for the metadata.
        threads: How many threads a call uses by default; None for the cores of the machine that
            runs it.
        tune: How many tiles to try for each product on this machine; see `tuning`.

    Raises:
        TargetError: the target's kernel tables are missing, or there is no C compiler to link with.
    """
    chosen = machine.tvm_target(target)
    rules = load_kernels(target)
    if tune:
        from qcompiler.backends.tvm.tuning import tuned

        rules = tuned(rules, chosen, tune, threads)
    program = lower(graph, chosen, rules)
    final = main(program)
    folder = tempfile.TemporaryDirectory(prefix="qcompiler-")
    place = Path(folder.name)
    kernels = write_library(program, final, chosen, place)
    symbols = [k.symbol for k in program.kernels]
    counts = float_instructions(kernels.inspect_source("s"), symbols, _architecture(chosen))
    metadata = _metadata(program, final, target, chosen, source_sha256, threads, counts)
    library = place / LIBRARY
    seal(library, metadata)
    return CompiledModel(library, metadata, owner=folder)


def write_library(program: Program, final: Main, target: TvmTarget, folder: Path) -> Any:
    """Write `LIBRARY`, without metadata, into the folder; returns TVM's module of the kernels.

    Raises:
        TargetError: there is no C compiler to link with, or it refuses.
    """
    functions = {k.symbol: plain(k.function, k.symbol) for k in program.kernels}
    kernels = tvm.compile(tvm.IRModule(functions), target, tir_pipeline=PIPELINE).mod
    kernels.write_to_file(str(folder / "kernels.o"))
    with (folder / CONSTANTS).open("wb") as file:
        for offset, array in final.constants:
            file.seek(offset)
            file.write(array.data)
    (folder / "main.c").write_text(final.source, "utf-8")
    _link(folder, _architecture(target))
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


def c_compiler(architecture: str) -> str:
    """The C compiler to link libraries of that architecture with.

    Raises:
        TargetError: there is none.
    """
    names = ["cc", "gcc", "clang"]
    if architecture != machine.architecture():
        names = [f"{architecture}-linux-gnu-gcc"]
    for name in (os.environ.get("CC"), *names):
        if name and (found := shutil.which(name)):
            return found
    raise TargetError(
        f"no C compiler to link the library with: install {' or '.join(names)}, or set CC"
    )


def _architecture(target: TvmTarget) -> str:
    triple = str(target.attrs.get("mtriple", ""))
    return triple.partition("-")[0] or machine.architecture()


def _metadata(
    program: Program,
    final: Main,
    target: Target,
    chosen: TvmTarget,
    source: str | None,
    threads: int | None,
    counts: dict[str, int],
) -> Metadata:
    graph = program.graph
    return Metadata(
        model=graph.name,
        inputs=inputs(graph),
        outputs=outputs(graph),
        target=target.name,
        architecture=_architecture(chosen),
        cpu=str(chosen.attrs["mcpu"]),
        features=machine.code_features(chosen),
        qcompiler=version("qcompiler"),
        tvm=version("apache-tvm"),
        source_sha256=source,
        kernels=kernel_infos([program], counts),
        calls=tuple(program.kernels.index(call.kernel) for call in program.calls),
        threads=threads,
        weight_bytes=final.constant_bytes,
        workspace_bytes=final.workspace_bytes,
    )
