"""`qcompile bench LIB`: latency of a compiled library, and time per kernel."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qcompiler.cli.boundary import guarded
from qcompiler.errors import TargetError

if TYPE_CHECKING:
    from rich.table import Table

    from qcompiler.artifact import CompiledModel
    from qcompiler.report.latency import Latency, Peaks

PIPE_WIDTH = 140
"""Columns of a table that no terminal limits."""


@guarded
def bench_command(
    library: Annotated[
        Path, typer.Argument(metavar="LIB", help="Compiled library.", show_default=False)
    ],
    runs: Annotated[int, typer.Option(min=1, help="Runs to measure.")] = 50,
    threads: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="By default what LIB says, else all cores."),
    ] = None,
    limits: Annotated[
        bool,
        typer.Option(
            help="Measure what the machine can do at most, and hold the kernels against it."
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")] = False,
    verbose: Annotated[
        int,
        typer.Option(
            "-v", "--verbose", count=True, show_default=False, help="-vv: tracebacks of errors."
        ),
    ] = 0,
) -> None:
    """Measure a compiled library on random inputs: latency, time per kernel, and its limit.

    A kernel cannot be faster than its multiply-accumulates at the machine's peak (of this project's
    own int8 product on cached operands) or its bytes at the speed of a copy as large as the model;
    "of limit" is the greater of the two over the measured time.
    """
    from qcompiler.artifact import load
    from qcompiler.report.latency import measure

    model = load(library, threads)
    found = measure(model, runs, _peaks(model) if limits else None)
    if as_json:
        typer.echo(json.dumps({"library": str(library), **found.to_dict()}, indent=2))
        return
    typer.echo(
        f"{library}: median {found.median_ms:.3f} ms, least {found.least_ms:.3f} ms, "
        f"90 % within {found.p90_ms:.3f} ms ({found.runs} runs, {found.threads} threads)"
    )
    if found.peaks is not None:
        typer.echo(
            f"peaks: {found.peaks.macs_per_second / 1e9:.0f} GMAC/s int8, "
            f"{found.peaks.bytes_per_second / 1e9:.1f} GB/s copied"
        )
    if found.kernels:
        from rich.console import Console

        width = None if sys.stdout.isatty() else PIPE_WIDTH
        Console(highlight=False, width=width).print(_table(found))


def _peaks(model: CompiledModel) -> Peaks | None:
    from qcompiler.report.latency import Peaks

    threads = getattr(model.runner, "threads", None)
    if threads is None:
        return None
    from qcompiler.backends.cpu.peaks import bytes_per_second, macs_per_second

    working_set = model.metadata.weight_bytes + model.metadata.workspace_bytes
    try:
        return Peaks(macs_per_second(threads), bytes_per_second(working_set, threads))
    except TargetError as error:
        typer.echo(f"qcompile: warning: no limits: {error}", err=True)
        return None


def _table(found: Latency) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("kernel", no_wrap=True, overflow="ellipsis", min_width=24)
    table.add_column("implementation", no_wrap=True)
    columns = ("calls", "ms", "share", "MMAC", "MB", "limit ms", "of limit")
    for name in columns if found.peaks else columns[:5]:
        table.add_column(name, justify="right", no_wrap=True)
    for k in found.kernels:
        cells = [str(k.calls), f"{k.ms:.3f}", f"{k.share:.1%}", f"{k.macs / 1e6:.1f}"]
        cells.append(f"{k.nbytes / 1e6:.2f}")
        if k.least_ms is not None and k.of_limit is not None:
            cells += [f"{k.least_ms:.3f}", f"{k.of_limit:.0%}"]
        table.add_row(k.symbol, k.implementation, *cells)
    return table
