"""`qcompile inspect FILE`: what is in a float model or a compiled library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from qcompiler.cli import options as cli
from qcompiler.cli.arguments import input_shapes, input_values
from qcompiler.cli.boundary import guarded
from qcompiler.cli.facts import graph_facts, is_library, kernel_line, library_facts, model_facts
from qcompiler.errors import FileError


@guarded
def inspect_command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL|LIB", help="Model, saved graph or library.", show_default=False
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")] = False,
    input_shape: cli.InputShapes = None,
    input_value: cli.InputValues = None,
    verbose: Annotated[
        int,
        typer.Option(
            "-v", "--verbose", count=True, show_default=False, help="-vv: tracebacks of errors."
        ),
    ] = 0,
) -> None:
    """Show what a model holds and what of it would stay in float, or how a library was compiled.

    Nothing of an ONNX model or a library is executed; torch runs what a .pt2 file holds.
    """
    if not file.is_file():
        raise FileError(f"{file}: no such file: expected a float model or a compiled library")
    from qcompiler.graph.archive import is_saved

    if is_library(file):
        facts = library_facts(file)
    elif is_saved(file):
        facts = graph_facts(file)
    else:
        shapes, values = input_shapes(input_shape or []), input_values(input_value or [])
        facts = model_facts(file, shapes, values)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        _show(name, value)


def _show(name: str, value: Any) -> None:
    title = name.replace("_", " ")
    if name in ("features", "gpus", "programs"):
        value = " ".join(value)
    if name == "batch":
        value = value and f"{', '.join(map(str, value))}: any number of samples is cut into these"
    if name == "states":
        value = ", ".join(f"{x} becomes {y}" for x, y in value.items())
    if name == "lengths":
        value = value and f"{', '.join(map(str, value))}: sequences are padded to the next one"
    if isinstance(value, dict):
        value = [f"{count:>6}  {what}" for what, count in value.items()]
    if not isinstance(value, list):
        shown = "—" if value in (None, "") else value
        typer.echo(f"{title:<20}{shown}")
        return
    typer.echo(f"{title:<20}{len(value)}")
    for item in value:
        typer.echo(f"  {_line(item) if isinstance(item, dict) else item}")


def _line(item: dict[str, Any]) -> str:
    """A value or a kernel in one line."""
    from qcompiler.metadata import KernelInfo

    if "symbol" in item:
        return kernel_line(KernelInfo(**item))
    shape = "x".join("?" if d is None else str(d) for d in item["shape"] or ())
    line = f"{item['name']}: {item['dtype']}[{shape}]"
    if (q := item.get("quantization")) is None:
        return line
    per = f" per index of axis {q['axis']}" if q["axis"] is not None else ""
    return f"{line} = {q['scale'][0]:.6g}·({q['storage']} − {q['zero_point'][0]}){per}"
