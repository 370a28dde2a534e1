"""The command line as a whole."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from qcompiler.cli.bench import bench_command
from qcompiler.cli.compare import compare_command
from qcompiler.cli.compile import compile_command
from qcompiler.cli.group import DefaultGroup
from qcompiler.cli.inspect import inspect_command
from qcompiler.cli.run import run_command

EXAMPLES = """
[bold]Examples[/bold]

  qcompile model.onnx --calib samples.npz       # model.so, for this machine
  qcompile model.onnx --calib photos/ --mean 0.5,0.5,0.5 --std 0.2,0.2,0.2
  qcompile model.onnx --calib data.py:samples --emit onnx  # integer ONNX
  qcompile run model.so --input test.npz --output result.npz
  qcompile inspect model.so
  qcompile bench model.so                       # latency, and time per kernel
  qcompile compare model.onnx --calib samples.npz --data test.npz --html report.html

[bold]qcompile compile --help[/bold] lists the options of a compilation; the word
[bold]compile[/bold] may be left out.
"""

app = typer.Typer(
    cls=DefaultGroup,
    no_args_is_help=True,
    subcommand_metavar="MODEL | COMMAND [ARGS]...",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXAMPLES,
)
app.command("compile")(compile_command)
app.command("run")(run_command)
app.command("inspect")(inspect_command)
app.command("bench")(bench_command)
app.command("compare")(compare_command)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"qcompile {version('qcompiler')}")
        raise typer.Exit


@app.callback()
def qcompile(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Quantize a float model after training and compile it to integer-only code."""


def main() -> None:
    """Entry point of `qcompile`."""
    app(prog_name="qcompile")
