"""From graphs to one shared library: kernels, program, weights and metadata."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable
from importlib.metadata import version
from pathlib import Path

from qcompiler.artifact import CompiledModel, seal
from qcompiler.backends.cpu import machine
from qcompiler.backends.cpu.assembly import float_instructions
from qcompiler.backends.cpu.library import LIBRARY, write_library
from qcompiler.backends.cpu.program import main
from qcompiler.backends.cpu.schedule import schedule
from qcompiler.backends.cpu.tuning import check_tunable, tuned
from qcompiler.backends.target import Target, load_kernels
from qcompiler.backends.tvm.describe import kernel_infos, program_infos
from qcompiler.backends.tvm.lower import Kernel, lower
from qcompiler.graph import Graph
from qcompiler.host import c_compiler
from qcompiler.metadata import Metadata
from qcompiler.programs import Programs


def check(target: Target, *, tune: bool = False) -> None:
    """Refuse what `build` would refuse whatever the graph is.

    Raises:
        TargetError: there is no C compiler to link with; `tune`, and this machine cannot run code
            for the target.
    """
    chosen = machine.tvm_target(target)
    c_compiler(machine.target_architecture(chosen))
    if tune:
        check_tunable(chosen)


def build(
    graphs: Graph | Programs,
    target: Target,
    *,
    source_sha256: str | None = None,
    threads: int | None = None,
    tune: int = 0,
) -> CompiledModel:
    """Compile graphs to a library that lies in a temporary folder until it is saved.

    Args:
        graphs: In any language.
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
        rules = tuned(rules, chosen, tune, threads)
    named = Programs.of(graphs)
    known: dict[Hashable, Kernel] = {}
    programs = [lower(graph, chosen, rules, schedule, known) for graph in named.graphs.values()]
    final = main(programs)
    folder = tempfile.TemporaryDirectory(prefix="qcompiler-")
    place = Path(folder.name)
    kernels = write_library(programs, final, chosen, place)
    architecture = machine.target_architecture(chosen)
    symbols = [k.symbol for k in known.values()]
    counts = float_instructions(kernels.inspect_source("s"), symbols, architecture)
    infos = kernel_infos(programs, counts)
    metadata = Metadata(
        model=named.first.name,
        programs=program_infos(named, programs, infos, final.workspace_bytes),
        batch=named.batch,
        lengths=named.lengths,
        target=target.name,
        architecture=architecture,
        cpu=str(chosen.attrs["mcpu"]),
        features=machine.code_features(chosen),
        qcompiler=version("qcompiler"),
        tvm=version("apache-tvm"),
        source_sha256=source_sha256,
        kernels=infos,
        threads=threads,
        weight_bytes=final.constant_bytes,
        device="cpu",
        runner=target.runner,
    )
    library = place / LIBRARY
    seal(library, metadata)
    return CompiledModel(library, metadata, owner=folder)
