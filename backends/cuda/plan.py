"""What a call enqueues: launches with addresses, in an order that memory allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qcompiler.backends.cuda.launches import Launch, Launches
from qcompiler.backends.tvm.lower import Program
from qcompiler.backends.tvm.memory import Lifetime, plan
from qcompiler.graph import Op

CONSTANTS, WORKSPACE, INPUT, OUTPUT = range(4)
"""Where an argument lies; `enum qc_space` of the runtime."""


@dataclass(frozen=True)
class Argument:
    """An address: bytes into constants or workspace, or the number of an input or output."""

    space: int
    place: int


@dataclass(frozen=True)
class Node:
    """A launch in the graph.

    Attributes:
        launch: What is called.
        arguments: With what.
        after: Earlier nodes that it waits for; what those wait for is left out.
    """

    launch: Launch
    arguments: tuple[Argument, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Nodes in the order of the program, and the memory that they need."""

    nodes: tuple[Node, ...]
    workspace_bytes: int


class Constants(Protocol):
    """Where constants are stored."""

    def offset(self, array: np.ndarray) -> int:
        """The place of an array."""
        ...


@dataclass(frozen=True)
class _Temporary:
    """Memory of a call between its launches."""

    call: int
    number: int


@dataclass(frozen=True)
class _Step:
    """A launch whose arguments are values; `writes` are the indices that it may write."""

    launch: Launch
    arguments: tuple[Op | np.ndarray | _Temporary, ...]
    writes: frozenset[int]


def make_plan(program: Program, kernels: Mapping[str, Launches], constants: Constants) -> Plan:
    """Flatten the calls to launches, and place their values.

    Args:
        program: What to run.
        kernels: The launches of each kernel, by symbol.
        constants: Gets the constants.
    """
    steps, sizes = _steps(program, kernels)
    places: dict[Op | _Temporary, Argument] = {}
    for i, x in enumerate(program.graph.inputs):
        places[x] = Argument(INPUT, i)
    for i, y in enumerate(program.results):
        places[y] = Argument(OUTPUT, i)
    values = [value for value in sizes if value not in places]
    offsets, total = plan(_lifetimes(steps, values, sizes))
    for value, offset in zip(values, offsets, strict=True):
        places[value] = Argument(WORKSPACE, offset)
    nodes = []
    order = _Order()
    for step in steps:
        arguments = tuple(
            Argument(CONSTANTS, constants.offset(x)) if isinstance(x, np.ndarray) else places[x]
            for x in step.arguments
        )
        touched = [
            (argument, sizes.get(x, 0), i in step.writes)
            for i, (x, argument) in enumerate(zip(step.arguments, arguments, strict=True))
            if not isinstance(x, np.ndarray) and argument.space in (WORKSPACE, OUTPUT)
        ]
        nodes.append(Node(step.launch, arguments, order.after(touched)))
    return Plan(tuple(nodes), total)


def _steps(
    program: Program, kernels: Mapping[str, Launches]
) -> tuple[list[_Step], dict[Op | _Temporary, int]]:
    """Every launch, and the bytes of every value that is written."""
    steps: list[_Step] = []
    sizes: dict[Op | _Temporary, int] = {}
    for index, call in enumerate(program.calls):
        kernel = kernels[call.kernel.symbol]
        temporaries = [_Temporary(index, i) for i in range(len(kernel.temporaries))]
        sizes |= dict(zip(temporaries, kernel.temporaries, strict=True))
        sizes[call.result] = call.result.type.nbytes
        operands = (*call.arguments, call.result, *temporaries)
        for launch in kernel.sequence:
            arguments = tuple(operands[i] for i in launch.arguments)
            writes = {j for j, i in enumerate(launch.arguments) if i >= len(call.arguments)}
            steps.append(_Step(launch, arguments, frozenset(writes)))
    return steps, sizes


def _lifetimes(
    steps: list[_Step],
    values: list[Op | _Temporary],
    sizes: Mapping[Op | _Temporary, int],
) -> list[Lifetime]:
    first: dict[Op | _Temporary, int] = {}
    last: dict[Op | _Temporary, int] = {}
    for i, step in enumerate(steps):
        for x in step.arguments:
            if not isinstance(x, np.ndarray):
                first.setdefault(x, i)
                last[x] = i
    return [Lifetime(first[x], last[x], sizes[x]) for x in values]


@dataclass(frozen=True)
class _Access:
    step: int
    space: int
    start: int
    end: int
    writes: bool

    def meets(self, other: _Access) -> bool:
        overlap = self.start < other.end and other.start < self.end
        return self.space == other.space and overlap and (self.writes or other.writes)

    def covers(self, other: _Access) -> bool:
        same = self.space == other.space
        return same and self.writes and self.start <= other.start and other.end <= self.end


class _Order:
    """Which earlier steps each step must wait for: those that touch the same memory.

    Values that share memory one after the other are kept apart by this too.
    """

    def __init__(self) -> None:
        self._accesses: list[_Access] = []
        self._before: list[int] = []  # for each step, the set of all that precede it, as bits

    def after(self, touched: list[tuple[Argument, int, bool]]) -> tuple[int, ...]:
        """The next step's predecessors.

        Args:
            touched: Address, bytes and whether it may be written.
        """
        step = len(self._before)
        own = [_access(step, *x) for x in touched]
        met = {old.step for old in self._accesses for new in own if new.meets(old)}
        kept, covered = [], 0
        for earlier in sorted(met, reverse=True):
            if not covered >> earlier & 1:
                kept.append(earlier)
                covered |= self._before[earlier] | 1 << earlier
        self._before.append(covered)
        self._accesses = [
            old for old in self._accesses if not any(new.covers(old) for new in own)
        ] + own
        return tuple(sorted(kept))


def _access(step: int, at: Argument, nbytes: int, writes: bool) -> _Access:
    if at.space == OUTPUT:  # memory of its own
        return _Access(step, OUTPUT, at.place, at.place + 1, writes)
    return _Access(step, WORKSPACE, at.place, at.place + nbytes, writes)
