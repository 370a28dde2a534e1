"""A comparison as JSON for programs, and as one HTML page for people."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from qcompiler.report.comparison import Comparison, Row
from qcompiler.report.comparison_table import cells, headings, output_lines, worst_rows

FULL_BAR = 60.0
"""dB at which the bar of a row is full."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
  color: #1c2733; background: #fff; }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; } p { margin: .2rem 0; color: #52606d; }
table { border-collapse: collapse; margin-top: 1.2rem; width: 100%; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #9aa5b1; position: sticky; top: 0; background: #fff; }
td { border-bottom: 1px solid #e4e7eb; font-variant-numeric: tabular-nums; }
th.name, td.name { text-align: left; white-space: normal; overflow-wrap: anywhere; }
tr.worst td { background: #fdecea; } tr.worst td.name { font-weight: 600; }
.bar { width: 9rem; } .bar div { height: .7rem; background: #3d7ea6; }
tr.worst .bar div { background: #c0392b; }
"""


def to_json(comparison: Comparison, rows: Sequence[Row]) -> str:
    """The comparison with these rows; the keys are the names of the dataclasses' fields.

    JSON has no infinity: a number that is not finite is null.  An SQNR of null with a `max_abs` of
    0 means that both values are equal, with any other that the float value is 0 or not finite.
    """
    facts = dataclasses.asdict(dataclasses.replace(comparison, rows=tuple(rows)))
    return json.dumps(_finite(facts), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if not math.isfinite(value):
            return None
    return value


def to_html(comparison: Comparison, rows: Sequence[Row]) -> str:
    """The comparison with these rows as a page that needs no other file."""
    title = f"{escape(comparison.model)}: float against integer"
    outputs = "\n".join(
        f"<p><b>{escape(name)}</b>: {escape(figures)}</p>"
        for name, figures in output_lines(comparison)
    )
    names = ("value", "nodes", "op", "codes")
    head = "".join(f'<th class="name">{name}</th>' for name in names)
    head += "".join(f"<th>{escape(name)}</th>" for name in headings(comparison))
    marked = worst_rows(comparison)
    body = "\n".join(_html_row(comparison, row, row in marked) for row in rows)
    shown = f"{len(rows)} of {len(comparison.rows)} values, {comparison.runs} runs"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{outputs}
<p>{shown}; the bar is full at {FULL_BAR:.0f} dB: of the outputs when only this value is rounded,
or else of the value in the integer network.</p>
<table>
<thead><tr>{head}<th></th></tr></thead>
<tbody>
{body}
</tbody>
</table>
</body>
</html>
"""


def _html_row(comparison: Comparison, row: Row, marked: bool) -> str:
    texts = (row.name, ", ".join(row.nodes), row.kind, row.storage)
    data = "".join(f'<td class="name">{escape(text)}</td>' for text in texts)
    data += "".join(f"<td>{escape(text)}</td>" for text in cells(comparison, row))
    full = 100 * min(max(row.quality / FULL_BAR, 0.0), 1.0)
    data += f'<td class="bar"><div style="width: {full:.0f}%"></div></td>'
    return f'<tr class="worst">{data}</tr>' if marked else f"<tr>{data}</tr>"
