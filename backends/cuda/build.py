"""From graphs to one shared library for NVIDIA GPUs."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from tvm.target import Target as TvmTarget

from qcompiler import host
from qcompiler.artifact import CompiledModel, seal
from qcompiler.backends.cuda import installed
from qcompiler.backends.cuda.compiler import Code, Compiler
from qcompiler.backends.cuda.launches import Launches, launches, source
from qcompiler.backends.cuda.library import Variant, link
from qcompiler.backends.cuda.plan import Plan, make_plan
from qcompiler.backends.cuda.ptx import float_instructions
from qcompiler.backends.cuda.schedule import schedule
from qcompiler.backends.cuda.targets import DEFAULT
from qcompiler.backends.cuda.toolkit import find_compiler
from qcompiler.backends.target import Target, load_kernels
from qcompiler.backends.tvm.describe import kernel_infos, program_infos
from qcompiler.backends.tvm.lower import Kernel, Program, lower
from qcompiler.backends.tvm.memory import Constants
from qcompiler.errors import TargetError
from qcompiler.graph import Graph
from qcompiler.metadata import Metadata
from qcompiler.programs import Programs


def check(target: Target, *, tune: bool = False) -> None:
    """Refuse what cannot be compiled for, whatever the graph is.

    Raises:
        TargetError: there is no CUDA compiler, no C compiler, or it does not know the GPU; `tune`.
    """
    if tune:
        raise TargetError(f"--tune: only for CPUs, not for target {target.name!r}: leave it out")
    host.c_compiler(host.architecture())
    _architectures(target, find_compiler())


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
        target: What to compile for; no GPU need be there.
        source_sha256: Digest of the model's file, for the metadata.
        threads: For the metadata; GPUs do not count them.
        tune: Only for CPUs; `check` refuses it.

    Raises:
        TargetError: the target's kernel tables are missing, or a compiler is, or it refuses.
    """
    compiler = find_compiler()
    architectures = _architectures(target, compiler)
    named = Programs.of(graphs)
    programs = _lower(named.graphs.values(), target, architectures)
    kernels = {k.symbol: k for own in programs.values() for p in own for k in p.kernels}
    lowered = {symbol: launches(k.function, symbol) for symbol, k in kernels.items()}
    codes = _compile(compiler, programs, lowered)
    constants = Constants()
    plans: dict[tuple[tuple[str, tuple[int, ...]], ...], Plan] = {}

    def planned(program: Program) -> Plan:
        key = tuple((c.kernel.symbol, tuple(map(id, c.arguments))) for c in program.calls)
        if key not in plans:  # architectures with equal programs share a plan
            plans[key] = make_plan(program, lowered, constants)
        return plans[key]

    variants = [
        Variant(architecture, codes[architecture].cubin, tuple(map(planned, own)))
        for architecture, own in programs.items()
    ]
    folder = tempfile.TemporaryDirectory(prefix="qcompiler-")
    library = link(
        Path(folder.name),
        host.c_compiler(host.architecture()),
        variants,
        constants.arrays,
        [
            ([x.type for x in graph.inputs], [y.type for y in graph.outputs.values()])
            for graph in named.graphs.values()
        ],
    )
    infos = kernel_infos(
        (program for own in programs.values() for program in own),
        _floats(codes.values(), lowered),
    )
    sizes = [
        max(plan.workspace_bytes for plan in own)
        for own in zip(*(v.plans for v in variants), strict=True)
    ]
    metadata = Metadata(
        model=named.first.name,
        programs=program_infos(named, next(iter(programs.values())), infos, sizes),
        batch=named.batch,
        lengths=named.lengths,
        target=target.name,
        architecture=host.architecture(),
        cpu="",
        features=(),
        qcompiler=version("qcompiler"),
        tvm=version("apache-tvm"),
        source_sha256=source_sha256,
        kernels=infos,
        threads=threads,
        weight_bytes=constants.nbytes,
        device="cuda",
        runner=target.runner,
        gpus=architectures,
        toolkit=compiler.version,
    )
    seal(library, metadata)
    return CompiledModel(library, metadata, owner=folder)


def _architectures(target: Target, compiler: Compiler) -> tuple[str, ...]:
    """What the library gets code for.

    Raises:
        TargetError: the compiler does not know one that is asked for.
    """
    known = compiler.architectures()
    chosen = target.architectures or installed.architectures()
    for architecture in chosen:
        if architecture.rstrip("af") not in known:
            raise TargetError(
                f"target {target.name!r}: {compiler.version} does not know {architecture}, only "
                f"{', '.join(known)}: install another CUDA toolkit, or choose one of these GPUs"
            )
    return chosen or tuple(a for a in DEFAULT if a in known) or known[-1:]


def _lower(
    graphs: Iterable[Graph], target: Target, architectures: Sequence[str]
) -> dict[str, list[Program]]:
    """The programs of each architecture; kernels that several use are built once."""
    rules = load_kernels(target)
    kernels: dict[Hashable, Kernel] = {}
    targets = {a: TvmTarget({**target.tvm, "arch": a}) for a in architectures}
    found: dict[str, list[Program]] = {architecture: [] for architecture in architectures}
    for graph in graphs:
        for architecture, programs in found.items():
            programs.append(lower(graph, targets[architecture], rules, schedule, kernels))
    return found


def _compile(
    compiler: Compiler, programs: Mapping[str, Sequence[Program]], lowered: Mapping[str, Launches]
) -> dict[str, Code]:
    """Compile every architecture, as many at once as there are cores."""
    sources = {}
    for architecture, own in programs.items():
        symbols = dict.fromkeys(k.symbol for program in own for k in program.kernels)
        sources[architecture] = source(lowered[symbol] for symbol in symbols)
    with ThreadPoolExecutor(host.cores()) as pool:
        codes = pool.map(lambda item: compiler.compile(item[1], item[0]), sources.items())
        return dict(zip(sources, codes, strict=True))


def _floats(codes: Iterable[Code], lowered: Mapping[str, Launches]) -> dict[str, int]:
    """Floating-point instructions of each kernel, on the architecture with the most."""
    counts = dict.fromkeys(lowered, 0)
    for code in codes:
        found = float_instructions(code.ptx)
        for symbol, kernel in lowered.items():
            own = {launch.symbol for launch in kernel.sequence} & found.keys()
            counts[symbol] = max(counts[symbol], sum(found[name] for name in own))
    return counts
