"""Progress on stderr: a bar on a terminal, one line elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress(title: str, total: int | None, enabled: bool) -> Iterator[Callable[[], None]]:
    """A function to call after each step, while its effect shows on stderr.

    Args:
        title: What is being done.
        total: Number of steps, or None where it is not known.
        enabled: False shows nothing.
    """
    if not enabled:
        yield lambda: None
        return
    if not sys.stderr.isatty():
        yield from _line(title)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def _line(title: str) -> Iterator[Callable[[], None]]:
    start = time.monotonic()
    steps = 0

    def tick() -> None:
        nonlocal steps
        steps += 1

    yield tick
    print(f"{title}: {steps} batches in {time.monotonic() - start:.1f} s", file=sys.stderr)
