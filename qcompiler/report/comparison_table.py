"""A comparison as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from qcompiler.report.comparison import (
    Comparison,
    IsolatedDeviation,
    LibraryOutput,
    Output,
    Row,
)
from qcompiler.report.deviation import Deviation

WORST = 3
"""How many rows are highlighted."""

NOTHING = "–"

CUMULATIVE = ("SQNR dB", "cosine", "max error", "saturated")
ISOLATED = ("alone dB", "output dB", "agreement")
"""Own SQNR when only this value is rounded, SQNR and top-1 agreement of the outputs then."""


def comparison_tables(comparison: Comparison, rows: Sequence[Row]) -> Group:
    """The rows, and below them the outputs.

    Args:
        comparison: What they are part of.
        rows: Those to show, in the order to show them.
    """
    parts: list[Table | Text] = []
    if rows:
        parts.append(_rows_table(comparison, rows))
    if len(rows) < len(comparison.rows):
        parts.append(Text(f"{len(rows)} of {len(comparison.rows)} values"))
    parts.append(_outputs_table(comparison))
    return Group(*parts)


def worst_rows(comparison: Comparison) -> frozenset[Row]:
    """The rows to highlight: the worst ones, unless they are perfect."""
    found = comparison.ordered("sqnr", WORST)
    return frozenset(row for row in found if row.quality < math.inf)


def headings(comparison: Comparison) -> list[str]:
    """Of the columns with figures."""
    found = [] if comparison.mode == "isolated" else list(CUMULATIVE)
    return found if comparison.mode == "cumulative" else [*found, *ISOLATED]


def cells(comparison: Comparison, row: Row) -> list[str]:
    """The figures of a row, one per heading."""
    found = [] if comparison.mode == "isolated" else _own(row.cumulative)
    return found if comparison.mode == "cumulative" else [*found, *_alone(row.isolated)]


def _own(found: Deviation | None) -> list[str]:
    if found is None:
        return [NOTHING] * len(CUMULATIVE)
    saturation = NOTHING if found.saturation is None else percent(found.saturation)
    return [decibels(found.sqnr), f"{found.cosine:.5f}", f"{found.max_abs:.3g}", saturation]


def _alone(found: IsolatedDeviation | None) -> list[str]:
    if found is None:
        return [NOTHING] * len(ISOLATED)
    agreements = [y.deviation.agreement for y in found.outputs]
    known = [share for share in agreements if share is not None]
    agreement = percent(min(known)) if known else NOTHING
    return [decibels(found.value.sqnr), decibels(found.effect), agreement]


def decibels(value: float) -> str:
    """A ratio in dB."""
    if math.isfinite(value):
        return f"{value:.1f}"
    return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"


def percent(share: float) -> str:
    """A share of 0…1, with as many digits as tell it from none and from all."""
    if share and share < 0.0005:
        return "<0.1 %"
    return ">99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.1f} %"


def output_lines(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Heading and figures of each output."""
    for y in comparison.outputs:
        yield f"output {y.name}", _figures(y)
    for y in comparison.library:
        yield f"library, {y.name}", f"{_figures(y)}{_bits(y)}"


def _figures(output: Output) -> str:
    found = output.deviation
    text = f"{decibels(found.sqnr)} dB, cosine {found.cosine:.5f}, max error {found.max_abs:.3g}"
    if found.agreement is not None:
        text += f", top-1 agreement {percent(found.agreement)}"
    return text


def _bits(output: LibraryOutput) -> str:
    if output.differing is None:
        return ""
    if not output.differing:
        return f"; the bits of all {output.elements} elements are those of the integer graph"
    return f"; {output.differing} of {output.elements} elements differ from the integer graph"


def _rows_table(comparison: Comparison, rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("value", overflow="fold")
    table.add_column("op", overflow="fold")
    table.add_column("codes")
    shown = [i for i, name in enumerate(headings(comparison)) if not _is_wide(comparison, name)]
    for i in shown:
        table.add_column(headings(comparison)[i], justify="right", no_wrap=True)
    marked = worst_rows(comparison)
    for row in rows:
        figures = cells(comparison, row)
        texts = (row.name, row.kind, row.storage, *(figures[i] for i in shown))
        style = "bold red" if row in marked else None
        table.add_row(*map(Text, texts), style=style)  # Text: names may look like markup
    return table


def _is_wide(comparison: Comparison, heading: str) -> bool:
    """Whether a column is left to the files, so that both modes fit 80 characters."""
    return comparison.mode == "both" and heading in ("cosine", "max error")


def _outputs_table(comparison: Comparison) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", overflow="fold")
    table.add_column(overflow="fold")
    for name, figures in output_lines(comparison):
        table.add_row(Text(name), Text(figures))
    table.add_row(Text("runs"), Text(str(comparison.runs)))
    return table
