"""Graphs of ops, and rewriting."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from qcompiler.errors import TypingError
from qcompiler.graph import archive
from qcompiler.graph.base import Input, Op, origin, rebuilt, toposort
from qcompiler.graph.text import to_text

if TYPE_CHECKING:
    import networkx as nx

Rule = Callable[[Op], "Op | None"]


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """Named outputs, the ops that compute them, and the inputs that a caller feeds.

    Attributes:
        inputs: In the order of the model, used or not.
        outputs: Output name → value, in the order of the model.
        name: The model's name.
        open_batch: Input name → the axis that counts samples, where the model leaves their number
            open; 1 is what the types say.
        open_length: Input name → the axis of sequences, where the model leaves their length open.
        states: Input name → name of the output that replaces it in the next call.
    """

    inputs: tuple[Input, ...]
    outputs: Mapping[str, Op]
    name: str = "graph"
    open_batch: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, str] = field(default_factory=dict)
    open_length: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [x.name for x in self.inputs]
        if len(set(names)) != len(names) or None in names:
            raise TypingError(f"graph {self.name}: expected distinct input names, found {names}")
        strangers = [x for x in self.ops if isinstance(x, Input) and x not in self.inputs]
        if strangers:
            raise TypingError(f"graph {self.name}: values of another graph: {strangers}")

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """Every op that an output needs (and every input), operands first."""
        return tuple(toposort([*self.inputs, *self.outputs.values()]))

    @cached_property
    def users(self) -> Mapping[Op, tuple[Op, ...]]:
        """Op → the distinct ops that use it, in order; outputs of the graph do not count."""
        users: dict[Op, dict[Op, None]] = {node: {} for node in self.ops}
        for node in self.ops:
            for x in node.operands:
                users[x][node] = None
        return {node: tuple(found) for node, found in users.items()}

    @cached_property
    def names(self) -> Mapping[Op, str]:
        """Op → a unique, stable name: the user's where there is one.

        An output's name is taken by no other op than that output, or an input.
        """
        reserved = {**self.outputs, **{str(x.name): x for x in self.inputs}}
        taken: set[str] = set()
        counts: dict[str, int] = {}
        names: dict[Op, str] = {}
        for given in (True, False):  # the user's names first
            for node in self.ops:
                if (node.name is None) == given or node in names:
                    continue
                name = base = node.name or node.kind()
                while name in taken or reserved.get(name, node) is not node:
                    counts[base] = counts.get(base, 0) + 1
                    name = f"{base}_{counts[base]}"
                taken.add(name)
                names[node] = name
        return names

    def find(self, name: str) -> Op:
        """The op of that name in `names`.

        Raises:
            KeyError: there is none.
        """
        for node, given in self.names.items():
            if given == name:
                return node
        raise KeyError(name)

    def is_output(self, node: Op) -> bool:
        """Whether the value is returned to the caller."""
        return any(node is y for y in self.outputs.values())

    def only_user(self, node: Op) -> Op | None:
        """The op that alone uses the value; None where there are others, or the caller gets it."""
        users = self.users[node]
        return users[0] if len(users) == 1 and not self.is_output(node) else None

    def rewrite(self, *rules: Rule, uses: dict[Op, int] | None = None) -> Graph:
        """Apply rules bottom-up until none matches; the same graph when nothing changed.

        A rule takes an op and returns its replacement, of equal type up to quantization, or None.
        The replacement of an op takes over its name and its sources.

        Args:
            rules: Tried in order on each op, its operands rewritten already.
            uses: Filled on the way: how many ops and outputs use each finished op, for rules that
                would otherwise compute again what others use as well.
        """
        env: dict[Op, Op] = {}
        known: dict[Op, None] = {}
        for old in self.ops:
            node = rebuilt(old, [env[x] for x in old.operands])
            known[node] = None
            with origin(old.sources):
                while (new := _first(rules, node)) is not None:
                    if new not in known:
                        new = _inherit(new, node)
                    known.update(dict.fromkeys(toposort([new], known)))
                    node = new
            env[old] = node
            if uses is not None:
                uses[node] = len(self.users[old]) + self.is_output(old)
        return self.with_outputs(env)

    def with_outputs(self, mapping: Mapping[Op, Op]) -> Graph:
        """The graph with its outputs replaced by the mapping; itself when nothing changed."""
        outputs = {name: mapping.get(y, y) for name, y in self.outputs.items()}
        if all(
            new is old for new, old in zip(outputs.values(), self.outputs.values(), strict=True)
        ):
            return self
        return dataclasses.replace(self, outputs=outputs)

    def to_networkx(self) -> nx.DiGraph:
        """Ops as nodes, an edge from each operand to its user."""
        import networkx as nx  # takes 20 MiB and longer than loading a library

        graph = nx.DiGraph()
        graph.add_nodes_from(self.ops)
        graph.add_edges_from((x, node) for node in self.ops for x in node.operands)
        return graph

    def save(self, path: str | os.PathLike[str], note: str = "") -> None:
        """Write the graph to one file, from which `load` makes an equal one.

        Args:
            path: The file to write.  It takes the place of another as a whole.
            note: What the graph is saved for, such as a pass that fails on it.

        Raises:
            OutputError: the file cannot be written.
        """
        archive.write(self, path, note)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Graph:
        """An equal graph to the one saved: text, structure and bits; what was shared is shared.

        Raises:
            FileError: the file is missing, or no whole saved graph.
        """
        return archive.read(path, cls)

    def __str__(self) -> str:
        return to_text(self)

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self.ops)} ops>"


def _first(rules: tuple[Rule, ...], node: Op) -> Op | None:
    for rule in rules:
        if (new := rule(node)) is not None and new is not node:
            return new
    return None


def _inherit(new: Op, old: Op) -> Op:
    sources = tuple(dict.fromkeys((*new.sources, *old.sources)))
    if new.name == old.name and new.sources == sources:
        return new
    return dataclasses.replace(new, name=old.name, sources=sources)
