"""From a graph to one shared library: kernels, program, weights and metadata."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path

from tvm.target import Target as TvmTarget

from qcompiler.artifact import CompiledModel, Metadata, seal
from qcompiler.backends.cpu import machine
from qcompiler.backends.cpu.assembly import float_instructions
from qcompiler.backends.cpu.library import LIBRARY, write_library
from qcompiler.backends.cpu.program import Main, main
from qcompiler.backends.cpu.schedule import schedule
from qcompiler.backends.cpu.tuning import check_tunable, tuned
from qcompiler.backends.target import Target, load_kernels
from qcompiler.backends.tvm.describe import inputs, kernel_infos, outputs
from qcompiler.backends.tvm.lower import Program, lower
from qcompiler.graph import Graph
from qcompiler.host import c_compiler


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
        rules = tuned(rules, chosen, tune, threads)
    program = lower(graph, chosen, rules, schedule)
    final = main(program)
    folder = tempfile.TemporaryDirectory(prefix="qcompiler-")
    place = Path(folder.name)
    kernels = write_library(program, final, chosen, place)
    symbols = [k.symbol for k in program.kernels]
    counts = float_instructions(
        kernels.inspect_source("s"), symbols, machine.target_architecture(chosen)
    )
    metadata = _metadata(program, final, target, chosen, source_sha256, threads, counts)
    library = place / LIBRARY
    seal(library, metadata)
    return CompiledModel(library, metadata, owner=folder)


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
        architecture=machine.target_architecture(chosen),
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
        device="cpu",
        runner=target.runner,
    )
