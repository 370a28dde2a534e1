"""The figures of a compilation as a short table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from qcompiler.report.summary import Summary

SHOWN = 8
"""How many of the ops that stayed in float are named."""


def summary_table(summary: Summary, output: str) -> Table:
    """The summary with one figure per line.

    Args:
        summary: Of the compilation.
        output: Path of what was written.
    """
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(summary, output):
        table.add_row(Text(name), Text(value))  # Text: names may look like markup
    return table


def _rows(summary: Summary, output: str) -> list[tuple[str, str]]:
    rows = [
        ("operators", f"{summary.operators_integer} integer, {summary.operators_float} float"),
    ]
    if summary.float_names:
        rows.append(("left in float", shortened(summary.float_names)))
    rows += [
        ("MACs", _macs(summary)),
        ("constants", f"{size(summary.bytes_before)} → {size(summary.bytes_after)}"),
    ]
    if summary.file_bytes:
        rows.append(("library", size(summary.file_bytes)))
        rows.append(("memory", f"{size(summary.workspace_bytes)} of values at the peak of a call"))
    if summary.batches:
        sizes = ", ".join(map(str, summary.batches))
        rows.append(("batch", f"any; programs for {sizes}"))
    if summary.lengths:
        capacities = ", ".join(map(str, summary.lengths))
        rows.append(("length", f"up to {summary.lengths[-1]}; programs for {capacities}"))
    if summary.gpus:
        rows.append(("GPUs", f"{', '.join(summary.gpus)}: nothing is compiled when it is loaded"))
    stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in summary.seconds.items())
    return [*rows, ("time", stages), ("output", output)]


def _macs(summary: Summary) -> str:
    if not summary.macs:
        return "none"
    share = 100 * summary.macs_integer / summary.macs
    return f"{share:.1f} % integer of {summary.macs / 1e6:,.2f} million"


def shortened(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def size(nbytes: int) -> str:
    """Bytes for people, in powers of 1024."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
