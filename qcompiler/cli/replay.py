"""`--save-on-error FILE`: what a pass failed on, to be sent, replayed and reduced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qcompiler.cli.arguments import check_writable
from qcompiler.cli.boundary import DEFECT, explained
from qcompiler.errors import ContractError, OutputError, TypingError

if TYPE_CHECKING:
    from qcompiler.graph import Graph
    from qcompiler.passes import Instrument, Pass

DEFECTS = (DEFECT, ContractError.exit_code, TypingError.exit_code)
"""Exit codes of failures that are neither the user's nor the machine's fault."""


@contextmanager
def saved_on_error(path: Path | None, *sources: Path) -> Iterator[tuple[Instrument, ...]]:
    """Save the graph that the last pass was given, where the block fails by a defect.

    The error's notes say what was saved.

    Args:
        path: The file to write; None: nothing is ever saved.
        sources: Files that must not be overwritten.

    Yields:
        Instruments to run passes under, in front of all others.

    Raises:
        OutputError: the file cannot be written; found out before the work.
    """
    if path is None:
        yield ()
        return
    check_writable(path, *sources)
    from qcompiler.passes.instruments import KeepInput

    kept = KeepInput()
    try:
        yield (kept,)
    except Exception as error:
        if explained(error)[1] in DEFECTS:
            note = f"{type(error).__name__}: {error}"
            error.__notes__ = [_saved(kept.latest, path, note)]
        raise


def _saved(latest: list[tuple[Pass, Graph]], path: Path, why: str) -> str:
    if not latest:
        return "no pass had begun, so no graph is saved"
    from qcompiler.passes.instruments import described

    ((step, graph),) = latest
    try:
        graph.save(path, f"{step!r}\n{why}")
    except OutputError as error:
        return f"no graph is saved: {error}"
    return f"{path} holds the graph that pass {described(step)} was given, for tools/reduce.py"
