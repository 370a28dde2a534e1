"""`qcompile MODEL`: from a float model to a library, or to a stage on the way there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from qcompiler.cli import options as cli
from qcompiler.cli.arguments import (
    Choices,
    Preprocessing,
    check_writable,
    input_shapes,
    input_values,
    pass_list,
    quantization_config,
    sample_options,
    sizes,
    states,
)
from qcompiler.cli.boundary import guarded
from qcompiler.cli.facts import kernel_line
from qcompiler.cli.jobs import Job
from qcompiler.cli.options import Emit
from qcompiler.cli.replay import saved_on_error
from qcompiler.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qcompiler.passes import Instrument, Pass
    from qcompiler.report.summary import Summary

SUFFIXES = {Emit.LIBRARY: ".so", Emit.ONNX: ".int.onnx", Emit.QDQ: ".qdq.onnx"}


@guarded
def compile_command(
    model: cli.Model,
    output: cli.Output = None,
    target: cli.Target = "cpu",
    emit: cli.Emitted = Emit.LIBRARY,
    inline: cli.Inline = False,
    input_shape: cli.InputShapes = None,
    input_value: cli.InputValues = None,
    batch: cli.Batches = None,
    length: cli.Capacities = None,
    state: cli.States = None,
    require_integer: cli.RequireInteger = False,
    threads: cli.Threads = None,
    tune: cli.Tune = 0,
    list_targets: cli.ListTargets = False,
    calib: cli.Calibration = None,
    num_samples: cli.Samples = None,
    mean: cli.Mean = None,
    std: cli.Std = None,
    layout: cli.Layout = None,
    resize: cli.Resize = None,
    seed: cli.Seed = 0,
    calib_method: cli.CalibrationMethod = None,
    skip: cli.Skip = None,
    config: cli.Config = None,
    preset: cli.Preset = None,
    softmax: cli.Softmax = None,
    gelu: cli.Gelu = None,
    passes: cli.Passes = None,
    disable_pass: cli.DisabledPasses = None,
    stop_after: cli.StopAfter = None,
    list_passes: cli.ListPasses = False,
    dump_ir_after: cli.DumpIrAfter = None,
    dump_ir_dir: cli.DumpIrDir = None,
    save_on_error: cli.SaveOnError = None,
    verbose: cli.Verbose = 0,
    quiet: cli.Quiet = False,
) -> None:
    """Quantize MODEL after training and compile it to integer-only code.

    What has no integer form stays in float, works, and is named at the end.
    """
    _check_together(emit, inline, stop_after, require_integer)
    if tune and (emit is not Emit.LIBRARY or stop_after is not None):
        raise UsageError("--tune: only where a library is written")
    batches, lengths = sizes("--batch", batch), sizes("--length", length)
    _check_sizes(emit, stop_after, batches, lengths)
    output = _output(output, model, emit, stop_after)
    from qcompiler.backends.targets import target as find_target
    from qcompiler.driver import Options

    find_target(target)
    steps = pass_list(passes, disable_pass or [])
    chosen = Options(
        config=quantization_config(
            config, preset, Choices(calib_method, softmax, gelu), skip or []
        ),
        samples=sample_options(calib, num_samples, Preprocessing(mean, std, layout, resize)),
        passes=steps,
        instruments=_instruments(steps, dump_ir_after, dump_ir_dir, verbose),
        require_integer=require_integer,
        input_shapes=input_shapes(input_shape or []),
        input_values=input_values(input_value or []),
        batches=batches,
        lengths=lengths,
        states=states(state or []),
        seed=seed,
        threads=threads,
        tune=tune,
        progress=not quiet,
    )
    with saved_on_error(save_on_error, model) as first:
        options = dataclasses.replace(chosen, instruments=(*first, *chosen.instruments))
        job = Job(model, target, calib, options)
        if stop_after is not None:
            _write_graph(job, stop_after, output)
        elif output is not None:
            _write(job, emit, inline, output, verbose=verbose > 0, quiet=quiet)


def _check_together(
    emit: Emit, inline: bool, stop_after: str | None, require_integer: bool
) -> None:
    if inline and emit is not Emit.ONNX:
        raise UsageError("--inline: only with --emit onnx")
    if stop_after is not None and emit is not Emit.LIBRARY:
        raise UsageError("--stop-after: writes text, so leave --emit out")
    if require_integer and (stop_after is not None or emit is Emit.QDQ):
        raise UsageError(
            "--require-integer: only for a whole compilation, not for a stage on the way "
            "(--stop-after, --emit qdq)"
        )


def _check_sizes(
    emit: Emit,
    stop_after: str | None,
    batches: tuple[int, ...] | None,
    lengths: tuple[int, ...] | None,
) -> None:
    whole = emit is Emit.LIBRARY and stop_after is None
    if batches and (emit is Emit.QDQ or stop_after is not None):
        raise UsageError("--batch: only where a library or an integer ONNX model is written")
    for option, chosen in (("--batch", batches), ("--length", lengths)):
        if chosen and len(chosen) > 1 and not whole:
            raise UsageError(f"{option}: expected one size for what is no library, found {chosen}")


def _output(given: Path | None, model: Path, emit: Emit, stop_after: str | None) -> Path | None:
    """Where to write, found to be writable; None for stdout."""
    if given is None and stop_after is not None:
        return None
    output = given or Path(f"{model.stem or 'model'}{SUFFIXES[emit]}")
    written = "text" if stop_after else "a library" if emit is Emit.LIBRARY else "an ONNX model"
    wrong = ".so" if written == "an ONNX model" else ".onnx"
    if output.suffix == wrong:
        raise UsageError(f"-o {output}: {written} is written; choose another suffix, or --emit")
    check_writable(output, model)
    return output


def _instruments(
    steps: Sequence[Pass], dump_after: str | None, dump_folder: Path | None, verbose: int
) -> tuple[Instrument, ...]:
    from qcompiler.passes import LOWERING, Verify, place_of
    from qcompiler.passes.instruments import DumpIr, Time

    found: list[Instrument] = [Verify()]
    if dump_after is not None or dump_folder is not None:
        chosen = None
        if dump_after not in (None, "all"):
            place_of((*steps, *LOWERING), str(dump_after), "--dump-ir-after")
            chosen = frozenset([str(dump_after)])
        found.append(DumpIr(chosen, dump_folder, _note))
    if verbose:
        found.append(Time(_note))
    return tuple(found)


def _write_graph(job: Job, stop_after: str, output: Path | None) -> None:
    from qcompiler.files import atomic_path
    from qcompiler.graph.dot import to_dot

    graph = job.graph_after(stop_after)
    drawn = output is not None and output.suffix == ".dot"
    text = f"{to_dot(graph) if drawn else graph}\n"
    if output is None:
        typer.echo(text, nl=False)
        return
    with atomic_path(output) as path:
        path.write_text(text, "utf-8")


def _write(job: Job, emit: Emit, inline: bool, output: Path, *, verbose: bool, quiet: bool) -> None:
    summary: Summary | None = None
    if emit is Emit.LIBRARY:
        summary, metadata = job.library(output)
        if verbose:
            _note("\n".join(map(kernel_line, metadata.kernels)))
    elif emit is Emit.ONNX:
        summary = job.onnx(output, inline=inline)
    else:
        job.qdq(output)
    if quiet:
        return
    if summary is None:
        typer.echo(f"output  {output}")
        return
    from rich.console import Console

    from qcompiler.report.table import summary_table

    Console(highlight=False).print(summary_table(summary, str(output)))


def _note(line: str) -> None:
    typer.echo(line, err=True)
