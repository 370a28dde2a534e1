"""Instruments of the pass manager: time, dump and compare what passes do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qcompiler.errors import ContractError, OutputError
from qcompiler.files import atomic_path
from qcompiler.graph import Graph
from qcompiler.interpret import evaluate
from qcompiler.passes.base import Instrument, Pass


@dataclass(frozen=True)
class Time(Instrument):
    """Reports the wall time of each pass, and what it did to the number of ops.

    Attributes:
        report: Called with one line per pass.
    """

    report: Callable[[str], None] = print

    def after(self, step: Pass, before: Graph, after: Graph, seconds: float) -> None:
        """Report one pass."""
        change = "unchanged" if after is before else f"{len(before.ops)} → {len(after.ops)} ops"
        self.report(f"{step.title():<24}{seconds:8.3f} s   {change}")


@dataclass(frozen=True)
class DumpIr(Instrument):
    """Writes the text of the graphs behind passes.

    Attributes:
        passes: Titles of the passes to dump behind; None: all, and in front of the first one.
        folder: Made if need be; gets a file `<number>-<pass>.txt` per dump, numbered in the order
            of running.  None: the text goes to `show`.
        show: Called with a heading and the text.
    """

    passes: frozenset[str] | None = None
    folder: Path | None = None
    show: Callable[[str], None] = print
    _dumped: list[str] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.folder}: cannot be made ({error.strerror}): name a folder for the dumps"
            ) from None

    def before(self, step: Pass, graph: Graph) -> None:
        """Dump the graph that the first pass gets."""
        if self.passes is None and not self._dumped:
            self._dump("start", graph)

    def after(self, step: Pass, before: Graph, after: Graph, seconds: float) -> None:
        """Dump the graph behind a pass."""
        if self.passes is None or step.title() in self.passes:
            self._dump(step.title(), after)

    def _dump(self, title: str, graph: Graph) -> None:
        number = len(self._dumped)
        self._dumped.append(title)
        if self.folder is None:
            self.show(f"// {title}\n{graph}")
            return
        with atomic_path(self.folder / f"{number:02}-{title}.txt") as path:
            path.write_text(f"{graph}\n", "utf-8")


@dataclass(frozen=True)
class KeepInput(Instrument):
    """Keeps the graph that the last pass was given, for whoever reports that it failed.

    In front of other instruments, so that a pass whose contract the graph breaks counts.

    Attributes:
        latest: The pass and the graph; empty before the first pass.
    """

    latest: list[tuple[Pass, Graph]] = field(default_factory=list, repr=False, compare=False)

    def before(self, step: Pass, graph: Graph) -> None:
        """Keep this graph instead of the last."""
        self.latest[:] = [(step, graph)]


def described(step: Pass) -> str:
    """A pass in the form of `--passes`: its name, and options that are not the default's."""
    options = {f.name: (getattr(step, f.name), f.default) for f in dataclasses.fields(step)}
    chosen = [
        f"{name}={value}"
        for name, (value, default) in options.items()
        if isinstance(value, (bool, int, float, str)) and value != default
    ]
    return f"{step.title()}{{{','.join(chosen)}}}" if chosen else step.title()


@dataclass(frozen=True)
class Compare(Instrument):
    """Evaluates before and after each pass and holds it to what it says that it preserves.

    Attributes:
        feeds: Input name → array, in the shapes of the graph's inputs.
        tolerance: Of passes that preserve reals: the largest difference of an element, relative to
            the largest magnitude in the output.
    """

    feeds: Mapping[str, np.ndarray]
    tolerance: float = 1e-4

    def after(self, step: Pass, before: Graph, after: Graph, seconds: float) -> None:
        """Compare all outputs.

        Raises:
            ContractError: an output differs by more than the pass allows itself.
        """
        if after is before or step.preserves == "nothing":
            return
        expected, found = evaluate(before, self.feeds), evaluate(after, self.feeds)
        for name, want in expected.items():
            self._check(step, name, want, found[name])

    def _check(self, step: Pass, name: str, want: np.ndarray, got: np.ndarray) -> None:
        where = f"pass {step.title()} preserves {step.preserves}, but output {name!r}"
        if (want.dtype, want.shape) != (got.dtype, got.shape):
            raise ContractError(
                f"{where} was {want.dtype}{list(want.shape)} and is {got.dtype}{list(got.shape)}"
            )
        if np.array_equal(want, got, equal_nan=want.dtype.kind == "f"):
            return
        difference = np.abs(want.astype(np.float64) - got.astype(np.float64)).max()
        allowed = 0.0
        if step.preserves == "reals":
            allowed = self.tolerance * float(np.abs(want.astype(np.float64)).max())
        if not difference <= allowed:
            raise ContractError(
                f"{where} differs by {difference:.3g}, more than the allowed {allowed:.3g}"
            )
