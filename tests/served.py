"""Which rule serves each op of a network: planned only, nothing is scheduled, compiled or run."""

from __future__ import annotations

from collections import Counter

from tvm.target import Target

from qcompiler.backends.cpu.machine import tvm_target
from qcompiler.backends.target import load_kernels
from qcompiler.backends.targets import target
from qcompiler.backends.tvm import lower as lowering
from qcompiler.graph import Graph


def lowered(graph: Graph, chosen: str) -> lowering.Program:
    found = target(chosen)
    gpu = Target({**found.tvm, "arch": chosen.partition(":")[2]}) if found.architectures else None
    machine = gpu or tvm_target(found)
    return lowering.lower(graph, machine, load_kernels(found), lambda function: function)


def served(program: lowering.Program) -> dict[str, object]:
    """How many ops each rule serves, and under "generic" what is left to the generic kernel."""
    kernels = [call.kernel for call in program.calls]
    counts = Counter(k.implementation for k in kernels if k.implementation != lowering.GENERIC)
    left = {k.symbol.split("_", 2)[2] for k in kernels if k.implementation == lowering.GENERIC}
    return {**counts, "generic": ", ".join(sorted(left))}
