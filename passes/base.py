"""What a pass is, the pass manager, and the instruments that watch it work."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import yaml

from qcompiler.errors import ContractError, UsageError
from qcompiler.graph import Graph, Rule
from qcompiler.invariants import Invariant

if TYPE_CHECKING:
    from typing_extensions import Self

    from qcompiler.passes.evidence import Evidence

MOST_SWEEPS = 200
"""Rewriting that has not come to rest by then never will."""

GIVEN: Mapping[str, Any] = {"given": True}
"""Metadata of the fields of a pass that are no options: `Pass.prepared` completes them."""

Preserves = Literal["bits", "reals", "nothing"]


@dataclass(frozen=True)
class Pass:
    """A function from graph to graph; its fields are its options.

    The docstring of a pass is its documentation and specification (equation and source) and, by
    its before/after IR, its golden test.  A pass returns, never mutates; the same object means
    that nothing changed, and a second run changes nothing.

    Attributes:
        requires: Invariants of the graphs that it takes.
        ensures: Invariants of the graphs that it returns.
        preserves: What evaluation before and after have in common: all bits, real numbers to
            within a tolerance, or nothing.
    """

    requires: ClassVar[tuple[Invariant, ...]] = ()
    ensures: ClassVar[tuple[Invariant, ...]] = ()
    preserves: ClassVar[Preserves] = "bits"

    def prepared(self, graph: Graph, evidence: Evidence) -> Self:
        """The pass, completed for the graph that it will get with what it asks of the evidence.

        What it was given explicitly stays as it is.
        """
        return self

    def run(self, graph: Graph) -> Graph:
        """The transformed graph, or the same object."""
        raise NotImplementedError(f"{type(self).__name__}.run")

    def __call__(self, graph: Graph) -> Graph:
        """Run the pass alone, its contract checked.

        Raises:
            ContractError: the graph breaks an invariant that the pass requires or ensures.
        """
        return PassManager((self,), (Verify(),))(graph)

    @classmethod
    def title(cls) -> str:
        """The name on the command line: `FoldBatchNorm` → `fold-batch-norm`."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class RewritePass(Pass):
    """A pass made of local rules, applied bottom-up until none matches."""

    def run(self, graph: Graph) -> Graph:
        """Rewrite until nothing changes."""
        rules = self.rules()
        for _ in range(MOST_SWEEPS):
            if (new := graph.rewrite(*rules)) is graph:
                return graph
            graph = new
        raise ContractError(f"pass {self.title()}: its rules undo each other on {graph.name}")

    def rules(self) -> tuple[Rule, ...]:
        """The rules, tried in order."""
        raise NotImplementedError(f"{type(self).__name__}.rules")


@dataclass(frozen=True)
class Instrument:
    """Watches a pass manager; overrides what it wants to see."""

    def before(self, step: Pass, graph: Graph) -> None:
        """Called with the graph that a pass will get."""

    def after(self, step: Pass, before: Graph, after: Graph, seconds: float) -> None:
        """Called with what a pass made of it."""


@dataclass(frozen=True)
class Verify(Instrument):
    """Checks `requires` and `ensures`; the default instrument."""

    def before(self, step: Pass, graph: Graph) -> None:
        """Check what the pass requires."""
        _check(step, "requires", step.requires, graph)

    def after(self, step: Pass, before: Graph, after: Graph, seconds: float) -> None:
        """Check what the pass ensures."""
        _check(step, "must ensure", step.ensures, after)


def _check(step: Pass, verb: str, invariants: tuple[Invariant, ...], graph: Graph) -> None:
    for invariant in invariants:
        offender = next(iter(invariant(graph)), None)
        if offender is not None:
            raise ContractError(f"pass {step.title()} {verb} {invariant.__name__}: {offender}")


@dataclass(frozen=True)
class PassManager:
    """Runs passes in order under instruments.

    Attributes:
        passes: In the order of running.
        instruments: Called around every pass.
        evidence: What passes may ask for just before they run, for the graph that they will get,
            so that ranges are never stale; None: they run as they are.
    """

    passes: tuple[Pass, ...]
    instruments: tuple[Instrument, ...] = (Verify(),)
    evidence: Evidence | None = None

    def __call__(self, graph: Graph) -> Graph:
        """Run all passes.

        Raises:
            ContractError: a graph breaks an invariant that a pass requires or ensures.
        """
        return self.run(graph)

    def run(self, graph: Graph) -> Graph:
        """Run all passes; no graph is held longer than until the next is there.

        (The arguments of a call of the manager itself are, by the interpreter.)
        """
        import time

        for step in self.passes:
            for instrument in self.instruments:
                instrument.before(step, graph)
            if self.evidence is not None:  # behind the contract: minutes may go by on samples
                step = step.prepared(graph, self.evidence)
            start = time.perf_counter()
            new = step.run(graph)
            seconds = time.perf_counter() - start
            for instrument in self.instruments:
                instrument.after(step, graph, new, seconds)
            graph = new
        return graph


def parse_pass(text: str, known: Iterable[type[Pass]]) -> Pass:
    """A pass from its command-line form: `name` or `name{field=value,...}` (YAML values).

    Raises:
        UsageError: an unknown pass or field, or a value that is no YAML.
    """
    passes = {p.title(): p for p in known}
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\{(.*)\})?\s*", text)
    if match is None:
        raise UsageError(f"pass {text!r}: expected name or name{{field=value,...}}")
    name, options = match.groups()
    if name not in passes:
        raise UsageError(f"unknown pass {name!r}: expected one of {', '.join(sorted(passes))}")
    kind = passes[name]
    return kind(**dict(_options(kind, options or "")))


def _options(kind: type[Pass], text: str) -> Iterable[tuple[str, Any]]:
    fields = [f.name for f in dataclasses.fields(kind) if not f.metadata.get("given")]
    for item in filter(None, map(str.strip, re.split(r",(?![^\[\(]*[\]\)])", text))):
        field, equals, value = map(str.strip, item.partition("="))
        if field not in fields or not equals:
            expected = ", ".join(f"{f}=…" for f in fields) or "no options"
            raise UsageError(f"pass {kind.title()}: found {item!r}, expected {expected}")
        try:
            yield field, yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"pass {kind.title()}: {field}={value!r} is no YAML value") from None


def place_of(passes: Sequence[Pass], name: str, asked: str = "passes") -> int:
    """Where a pipeline has a pass (the first of that name): where to cut it.

    Args:
        passes: In the order of running.
        name: The pass's title.
        asked: What asks for it; the message of the error begins with that.

    Raises:
        UsageError: none of them has the name.
    """
    titles = [p.title() for p in passes]
    if name not in titles:
        raise UsageError(f"{asked} {name}: no such pass here; expected one of {', '.join(titles)}")
    return titles.index(name)


def without(passes: Sequence[Pass], disabled: Iterable[str]) -> tuple[Pass, ...]:
    """The passes less those of the given names.

    Raises:
        UsageError: a name that none of them has.
    """
    gone = {passes[place_of(passes, name, "--disable-pass")].title() for name in disabled}
    return tuple(p for p in passes if p.title() not in gone)
