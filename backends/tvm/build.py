"""From a graph to one shared library: kernels, program, weights and metadata."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tvm
from tvm.target import Target as TvmTarget

from qcompiler.artifact import CompiledModel, KernelInfo, Metadata, Value, seal
from qcompiler.backends.target import Target, load_kernels
from qcompiler.backends.tvm import machine
from qcompiler.backends.tvm.assembly import float_instructions
from qcompiler.backends.tvm.lower import Call, Program, lower
from qcompiler.backends.tvm.program import CONSTANTS, PIPELINE, Main, main, plain
from qcompiler.errors import TargetError
from qcompiler.graph import Graph, Input, Op, toposort
from qcompiler.ops import Concat, Dequantize, Fused, Movement, Quantize, skeleton
from qcompiler.report.summary import macs
from qcompiler.types import Quantization

LIBRARY = "model.so"


def check(target: Target) -> None:
    """Refuse what `build` would refuse whatever the graph is.

    Raises:
        TargetError: there is no C compiler to link with.
    """
    c_compiler(_architecture(machine.tvm_target(target)))


def build(
    graph: Graph,
    target: Target,
    *,
    source_sha256: str | None = None,
    threads: int | None = None,
) -> CompiledModel:
    """Compile a graph to a library that lies in a temporary folder until it is saved.

    Args:
        graph: In any language.
        target: What to compile for; a foreign CPU's library can be saved but not called here.
        source_sha256: Digest of the model's file, for the metadata.
        threads: How many threads a call uses by default; None for the cores of the machine that
            runs it.

    Raises:
        TargetError: the target's kernel tables are missing, or there is no C compiler to link with.
    """
    chosen = machine.tvm_target(target)
    program = lower(graph, chosen, load_kernels(target))
    final = main(program)
    folder = tempfile.TemporaryDirectory(prefix="qcompiler-")
    place = Path(folder.name)
    counts = _compile(program, final, chosen, place)
    _link(place, target, _architecture(chosen))
    metadata = _metadata(program, final, target, chosen, source_sha256, threads, counts)
    library = place / LIBRARY
    seal(library, metadata)
    return CompiledModel(library, metadata, owner=folder)


def _compile(program: Program, final: Main, target: TvmTarget, folder: Path) -> dict[str, int]:
    """Write the objects to link; returns the floating-point instructions of each kernel."""
    functions = {k.symbol: plain(k.function, k.symbol) for k in program.kernels}
    kernels = tvm.compile(tvm.IRModule(functions), target, tir_pipeline=PIPELINE).mod
    kernels.write_to_file(str(folder / "kernels.o"))
    with (folder / CONSTANTS).open("wb") as file:
        for offset, array in final.constants:
            file.seek(offset)
            file.write(array.data)
    (folder / "main.c").write_text(final.source, "utf-8")
    return float_instructions(kernels.inspect_source("s"), functions, _architecture(target))


def _link(folder: Path, target: Target, architecture: str) -> None:
    compiler = c_compiler(architecture)
    command = [compiler, "-shared", "-fPIC", "-O2", "-std=gnu11", "-fvisibility=hidden"]
    command += ["-Wl,-Bsymbolic", "-Wl,-z,noexecstack", "-Wl,--no-undefined", "-pthread"]
    command += ["-o", LIBRARY, "kernels.o", "main.c", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TargetError(f"target {target.name!r}: {compiler} cannot link the library: {reason}")
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
    names = graph.names
    nbytes = {call.kernel: _nbytes(call) for call in program.calls}
    kernels = tuple(
        KernelInfo(
            k.symbol,
            k.implementation,
            tuple(names.get(node, node.kind()) for node in k.nodes),
            _role(graph, k.nodes),
            counts[k.symbol],
            _macs(k.nodes[0]),
            nbytes[k],
        )
        for k in program.kernels
    )
    return Metadata(
        model=graph.name,
        inputs=tuple(Value(str(x.name), x.type, _entry(graph, x)) for x in graph.inputs),
        outputs=tuple(Value(name, y.type, _exit(y)) for name, y in graph.outputs.items()),
        target=target.name,
        architecture=_architecture(chosen),
        cpu=str(chosen.attrs["mcpu"]),
        features=machine.code_features(chosen),
        qcompiler=version("qcompiler"),
        tvm=version("apache-tvm"),
        source_sha256=source,
        kernels=kernels,
        calls=tuple(program.kernels.index(call.kernel) for call in program.calls),
        threads=threads,
        weight_bytes=final.constant_bytes,
        workspace_bytes=final.workspace_bytes,
    )


def _macs(node: Op) -> int:
    return sum(map(_macs, node.region.ops)) if isinstance(node, Fused) else macs(node)


def _nbytes(call: Call) -> int:
    """Operands and result, each once."""
    values = {id(x): x for x in (*call.arguments, call.result)}.values()
    return sum(x.nbytes if isinstance(x, np.ndarray) else x.type.nbytes for x in values)


def _role(graph: Graph, nodes: list[Op]) -> str:
    """What a kernel is to the integer world: see `KernelInfo.role`."""
    if all(_quantize(x) is not None and _only_moves(toposort(x.operands)) for x in nodes):
        return "entry"
    if all(isinstance(x, Dequantize) and _only_moves(_users(graph, x)) for x in nodes):
        return "exit"
    shared = skeleton(nodes[0]).graph  # equal for all that share a kernel
    primitives = [x for x in shared.ops if not isinstance(x, Input)]
    if all(isinstance(x, (Movement, Concat)) for x in primitives):
        return "move"
    return "float" if any(x.type.is_float for x in primitives) else "integer"


def _quantize(node: Op) -> Quantize | None:
    """The Quantize in a kernel that does nothing else but move codes."""
    inside = node.region.ops if isinstance(node, Fused) else (node,)
    found = [x for x in inside if isinstance(x, Quantize)]
    others = [x for x in inside if not isinstance(x, (Input, Quantize))]
    return found[0] if len(found) == 1 and _only_moves(others) else None


def _only_moves(ops: Iterable[Op]) -> bool:
    return all(isinstance(x, (Input, Movement)) for x in ops)


def _users(graph: Graph, node: Op) -> list[Op]:
    """Everything that is computed from the value."""
    found: dict[Op, None] = {}
    waiting = [node]
    while waiting:
        fresh = [x for x in graph.users.get(waiting.pop(), ()) if x not in found]
        found.update(dict.fromkeys(fresh))
        waiting.extend(fresh)
    return list(found)


def _entry(graph: Graph, x: Op) -> Quantization | None:
    """What the codes mean that an input is quantized to."""
    for user in graph.users[x]:
        if (quantize := _quantize(user)) is not None:
            return quantize.quantization
    return x.type.quantization


def _exit(y: Op) -> Quantization | None:
    root = y.root if isinstance(y, Fused) else y
    return root.x.type.quantization if isinstance(root, Dequantize) else y.type.quantization
