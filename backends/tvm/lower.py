"""From a graph to a list of kernel calls.

Each op becomes one call of one kernel: of a rule in the target's table where one matches, else of
the generic TE form of its skeleton under the default schedule.  All numbers are arguments, so ops
with equal skeletons share a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

import numpy as np
from tvm import te, tirx
from tvm.target import Target

import qcompiler.backends.tvm.te as t
from qcompiler.backends.tvm.table import KernelRule
from qcompiler.graph import Constant, Graph, Input, Op, fold, toposort
from qcompiler.ops import Cast, Composite, Fused, Reshape, Skeleton, skeleton

GENERIC = "generic"

Schedule = Callable[[tirx.PrimFunc], tirx.PrimFunc]
"""From what `te.create_prim_func` makes to what a device runs."""


@dataclass(eq=False)
class Kernel:
    """A function that several ops may share.

    Attributes:
        symbol: Its name in the library.
        function: Buffer parameters in the order of the arguments, the result last.
        implementation: Name of the rule that it comes from.
        nodes: The ops that it computes.
    """

    symbol: str
    function: tirx.PrimFunc
    implementation: str
    nodes: list[Op] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    """One op: `result` is what `kernel` computes from values and constants."""

    kernel: Kernel
    arguments: tuple[Op | np.ndarray, ...]
    result: Op


@dataclass(frozen=True)
class Program:
    """A graph as calls in order.

    Attributes:
        graph: What it computes.
        kernels: Each once.
        calls: Operands before users.
        alias: Value → the value whose memory it shares (reshapes).
        results: For each output of the graph, the value that is written to the caller's memory.
    """

    graph: Graph
    kernels: tuple[Kernel, ...]
    calls: tuple[Call, ...]
    alias: dict[Op, Op]
    results: tuple[Op, ...]


def lower(
    graph: Graph,
    target: Target,
    rules: Iterable[KernelRule],
    default_schedule: Schedule,
    kernels: dict[Hashable, Kernel] | None = None,
) -> Program:
    """Choose a kernel for every op.

    Args:
        graph: In any language; ops that nothing integer replaced run in float.
        target: What the kernels are for.
        rules: The target's kernel table.
        default_schedule: For ops that no rule serves.
        kernels: What lowering other graphs, or for other targets, made; gets what is new.
    """
    lowering = _Lowering(target, tuple(rules), default_schedule, {} if kernels is None else kernels)
    for node in graph.ops:
        if not isinstance(node, (Input, Constant)):
            lowering.op(node)
    results: list[Op] = []
    for y in graph.outputs.values():
        value = lowering.memory(y)
        if isinstance(value, (Input, Constant)) or value in results:
            value = Cast(y, y.type.dtype)  # the caller gets memory of its own
            lowering.call(value)
        results.append(value)
    return Program(
        graph,
        tuple(dict.fromkeys(call.kernel for call in lowering.calls)),
        tuple(lowering.calls),
        lowering.alias,
        tuple(results),
    )


class _Lowering:
    def __init__(
        self,
        target: Target,
        rules: tuple[KernelRule, ...],
        default_schedule: Schedule,
        kernels: dict[Hashable, Kernel],
    ) -> None:
        self.target = target
        self.rules = rules
        self.schedule = default_schedule
        self.kernels = kernels
        self.calls: list[Call] = []
        self.alias: dict[Op, Op] = {}

    def memory(self, node: Op) -> Op:
        return self.alias.get(node, node)

    def op(self, node: Op) -> None:
        if isinstance(node, Reshape):
            self.alias[node] = self.memory(node.x)
        else:
            self.call(node)

    def call(self, node: Op) -> None:
        if node.type.size == 0:
            return  # nothing to compute
        found = skeleton(node)
        for rule in self.rules:
            if (match := rule.match(found, self.target)) is not None:
                key, arguments = (rule.name, match.key), match.arguments
                kernel = self.kernels.get(key) or self._add(key, node, match.build(), rule.name)
                break
        else:
            if isinstance(node, Composite) and _is_decomposed(node):
                self.apart(node)
                return
            arguments = found.leaves
            kernel = self.kernels.get(found.key) or self._add(
                found.key, node, generic(found, self.schedule), GENERIC
            )
        kernel.nodes.append(node)
        sources = tuple(self._argument(x) for x in arguments)
        self.calls.append(Call(kernel, sources, node))

    def apart(self, node: Composite) -> None:
        """One call for each op of the body: this target has no kernel that spans them."""
        root = node.expansion
        for x in toposort([root], dict.fromkeys(node.operands)):
            if x not in node.operands and not isinstance(x, Constant):
                self.op(x)
        self.alias[node] = self.memory(root)

    def _argument(self, x: Op | np.ndarray) -> Op | np.ndarray:
        if isinstance(x, np.ndarray):
            return x
        value = self.memory(x)
        return value.array if isinstance(value, Constant) else value

    def _add(self, key: Hashable, node: Op, function: tirx.PrimFunc, implementation: str) -> Kernel:
        symbol = f"qc_{len(self.kernels)}_{_what(node)}"
        self.kernels[key] = Kernel(symbol, function, implementation)
        return self.kernels[key]


def _is_decomposed(node: Composite) -> bool:
    inside = node.region.ops if isinstance(node, Fused) else (node,)
    return any(isinstance(x, Composite) and x.decomposed for x in inside)


def generic(found: Skeleton, default_schedule: Schedule) -> tirx.PrimFunc:
    """The kernel that follows from the ops' TE forms alone."""
    leaves: dict[Op, t.Tensor] = {
        x: te.placeholder(x.type.shape, x.type.dtype, x.name) for x in found.graph.inputs
    }
    (root,) = found.graph.outputs.values()
    result = fold([root], dict(leaves), lambda node, xs: node.te(t, *xs))[root]
    return default_schedule(te.create_prim_func([*leaves.values(), result]))


def _what(node: Op) -> str:
    """The kinds of the ops inside, for symbols that a profiler shows."""
    if not isinstance(node, Fused):
        return node.kind()
    inside = [x.kind() for x in node.region.ops if not isinstance(x, (Input, Constant))]
    return "_".join(inside[:4])
