"""What the metadata says about kernels, inputs and outputs, on every device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from qcompiler.backends.tvm.lower import Call, Program
from qcompiler.graph import Graph, Input, Op, toposort
from qcompiler.invariants import converts
from qcompiler.metadata import KernelInfo, Value
from qcompiler.metadata import Program as ProgramInfo
from qcompiler.ops import Cast, Concat, Dequantize, Fused, Movement, Quantize, macs, skeleton
from qcompiler.programs import Programs
from qcompiler.types import Quantization

Users = Mapping[Op, Sequence[Op]]


def program_infos(
    named: Programs,
    programs: Sequence[Program],
    kernels: Sequence[KernelInfo],
    workspace_bytes: Sequence[int],
) -> tuple[ProgramInfo, ...]:
    """Describe the programs of a library.

    Args:
        named: What they compute.
        programs: The calls of each, on the first architecture.
        kernels: Of the library.
        workspace_bytes: That a running call of each needs.
    """
    numbers = {k.symbol: i for i, k in enumerate(kernels)}
    return tuple(
        ProgramInfo(
            name,
            tuple(Value(str(x.name), x.type, _entry(graph, x)) for x in graph.inputs),
            tuple(Value(name, y.type, _exit(y)) for name, y in graph.outputs.items()),
            tuple(numbers[call.kernel.symbol] for call in program.calls),
            size,
            tuple(
                (place, list(graph.outputs).index(graph.states[str(x.name)]))
                for place, x in enumerate(graph.inputs)
                if str(x.name) in graph.states
            ),
        )
        for (name, graph), program, size in zip(
            named.graphs.items(), programs, workspace_bytes, strict=True
        )
    )


def kernel_infos(programs: Iterable[Program], counts: Mapping[str, int]) -> tuple[KernelInfo, ...]:
    """Describe the kernels of all programs.

    Args:
        programs: Of every graph, and for every architecture that a library has code for.
        counts: Symbol → floating-point instructions.
    """
    programs = list(programs)
    graphs = dict.fromkeys(program.graph for program in programs)
    names = {node: name for graph in graphs for node, name in graph.names.items()}
    users = {node: found for graph in graphs for node, found in graph.users.items()}
    nbytes = {call.kernel: _nbytes(call) for program in programs for call in program.calls}
    return tuple(
        KernelInfo(
            k.symbol,
            k.implementation,
            tuple(dict.fromkeys(names.get(node, node.kind()) for node in k.nodes)),
            _role(users, k.nodes),
            counts[k.symbol],
            macs(k.nodes[0]),
            nbytes[k],
        )
        for k in dict.fromkeys(k for program in programs for k in program.kernels)
    )


def _nbytes(call: Call) -> int:
    """Operands and result, each once."""
    values = {id(x): x for x in (*call.arguments, call.result)}.values()
    return sum(x.nbytes if isinstance(x, np.ndarray) else x.type.nbytes for x in values)


def _role(users: Users, nodes: Sequence[Op]) -> str:
    """What a kernel is to the integer world: see `KernelInfo.role`."""
    if all(_crosses(x, Quantize) and _only_moves(toposort(x.operands)) for x in nodes):
        return "entry"
    if all(_crosses(x, Dequantize) and _only_moves(_used_by(users, x)) for x in nodes):
        return "exit"
    shared = skeleton(nodes[0]).graph  # equal for all that share a kernel
    primitives = [x for x in shared.ops if not isinstance(x, Input)]
    if all(isinstance(x, (Movement, Concat)) for x in primitives):
        return "move"
    return "float" if any(x.type.is_float for x in primitives) else "integer"


def _crosses(node: Op, kind: type[Quantize] | type[Dequantize]) -> bool:
    """Whether a kernel only goes from one language to the other, or changes widths of floats."""
    inside = node.region.ops if isinstance(node, Fused) else (node,)
    others = [x for x in inside if not isinstance(x, kind)]
    return _only_moves(others) and any(isinstance(x, kind) or converts(x) for x in inside)


def _quantize(node: Op) -> Quantize | None:
    """The Quantize in a kernel that does nothing else but move codes."""
    inside = node.region.ops if isinstance(node, Fused) else (node,)
    found = [x for x in inside if isinstance(x, Quantize)]
    others = [x for x in inside if not isinstance(x, (Input, Quantize))]
    return found[0] if len(found) == 1 and _only_moves(others) else None


def _only_moves(ops: Iterable[Op]) -> bool:
    return all(isinstance(x, (Input, Movement)) or converts(x) for x in ops)


def _used_by(users: Users, node: Op) -> list[Op]:
    """Everything that is computed from the value."""
    found: dict[Op, None] = {}
    waiting = [node]
    while waiting:
        fresh = [x for x in users.get(waiting.pop(), ()) if x not in found]
        found.update(dict.fromkeys(fresh))
        waiting.extend(fresh)
    return list(found)


def _entry(graph: Graph, x: Op) -> Quantization | None:
    """What the codes mean that an input is quantized to."""
    for user in graph.users[x]:
        if (quantize := _quantize(user)) is not None:
            return quantize.quantization
        if converts(user):
            return _entry(graph, user)
    return x.type.quantization


def _exit(y: Op) -> Quantization | None:
    root = y.root if isinstance(y, Fused) else y
    if isinstance(root, Cast) and converts(root):
        root = root.x
    return root.x.type.quantization if isinstance(root, Dequantize) else y.type.quantization
