"""`qcompile compare MODEL [LIB]`: where a quantized model deviates from the float one."""

from __future__ import annotations

import dataclasses
import warnings
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
)
from qcompiler.cli.boundary import guarded
from qcompiler.cli.replay import saved_on_error
from qcompiler.errors import OutputError, UsageError
from qcompiler.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qcompiler.calibrate import SampleOptions
    from qcompiler.driver import Options
    from qcompiler.report.comparison import Comparison

SHOW = "Comparison"
DEFAULT_SAMPLES = 64


class Mode(str, Enum):
    """What is rounded."""

    CUMULATIVE = "cumulative"
    ISOLATED = "isolated"
    BOTH = "both"


class Sort(str, Enum):
    """Order of the rows."""

    NETWORK = "network"
    NAME = "name"
    SQNR = "sqnr"


def _option(*names: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=SHOW, show_default=False, **settings)


@guarded
def compare_command(
    model: cli.Model,
    library: Annotated[
        Path | None,
        typer.Argument(
            metavar="[LIB]", show_default=False, help="Library that was compiled from it."
        ),
    ] = None,
    data: Annotated[
        str | None,
        _option(
            metavar="PATH", help="Samples to compare on, in a form that --calib takes (required)."
        ),
    ] = None,
    data_samples: Annotated[
        int | None, _option(min=1, help="At most so many of them; by default 64.")
    ] = None,
    mode: Annotated[
        Mode,
        _option(
            help="cumulative (default): the integer network as it is; isolated: one value rounded "
            "at a time, everything else in float; both."
        ),
    ] = Mode.CUMULATIVE,
    sort: Annotated[
        Sort, _option(help="Order of the rows: network (default), name, sqnr (worst first).")
    ] = Sort.NETWORK,
    top: Annotated[int | None, _option(min=1, help="Only so many rows, the worst.")] = None,
    json: Annotated[Path | None, _option(metavar="FILE", help="Write JSON.")] = None,
    html: Annotated[Path | None, _option(metavar="FILE", help="Write an HTML page.")] = None,
    input_shape: cli.InputShapes = None,
    input_value: cli.InputValues = None,
    threads: cli.Threads = None,
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
    save_on_error: cli.SaveOnError = None,
    verbose: cli.Verbose = 0,
    quiet: cli.Quiet = False,
) -> None:
    """Compare MODEL in float with MODEL in integers, value by value, and LIB's outputs with both.

    MODEL is quantized with --calib and the other options of a compilation; with LIB and without
    --calib only the outputs of LIB are compared with those of the float model.
    """
    if data is None:
        raise UsageError("--data: expected samples to compare on, such as --data test.npz")
    _check_files(json, html, [model, *([library] if library else [])])
    preprocessing = Preprocessing(mean, std, layout, resize)
    used = _data_options(data, data_samples, calib, preprocessing)
    from qcompiler.driver import Options

    chosen = Options(
        config=quantization_config(
            config, preset, Choices(calib_method, softmax, gelu), skip or []
        ),
        samples=_calibration_options(calib, num_samples, preprocessing),
        passes=pass_list(passes, disable_pass or []),
        input_shapes=input_shapes(input_shape or []),
        input_values=input_values(input_value or []),
        seed=seed,
        threads=threads,
        progress=not quiet,
    )
    with saved_on_error(save_on_error, model) as first:
        chosen = dataclasses.replace(chosen, instruments=(*first, *chosen.instruments))
        found = _compared(model, library, calib, chosen, data, used, mode)
    rows = found.ordered(sort.value, top)
    if not quiet:
        from rich.console import Console

        from qcompiler.report.comparison_table import comparison_tables

        Console(highlight=False).print(comparison_tables(found, rows))
    from qcompiler.report.comparison_files import to_html, to_json

    for path, written in ((json, to_json), (html, to_html)):
        if path is not None:
            _save(path, written(found, rows))


def _check_files(json: Path | None, html: Path | None, sources: Sequence[Path]) -> None:
    for path in (json, html):
        if path is not None:
            check_writable(path, *sources)
    if json is not None and html is not None and json.resolve() == html.resolve():
        raise OutputError(f"{html}: named by --json and by --html: name two files")


def _data_options(
    data: str, number: int | None, calib: str | None, preprocessing: Preprocessing
) -> SampleOptions:
    """Of --data; preprocessing is for every folder of images, and needs at least one."""
    if calib is not None and Path(calib).is_dir() and not Path(data).is_dir():
        preprocessing = Preprocessing()
    return sample_options(data, number or DEFAULT_SAMPLES, preprocessing)


def _calibration_options(
    calib: str | None, number: int | None, preprocessing: Preprocessing
) -> SampleOptions:
    folder = calib is not None and Path(calib).is_dir()
    return sample_options(calib, number, preprocessing if folder else Preprocessing())


def _compared(
    model: Path,
    library: Path | None,
    calib: str | None,
    options: Options,
    data: str,
    used: SampleOptions,
    mode: Mode,
) -> Comparison:
    from qcompiler.artifact import load
    from qcompiler.calibrate import samples
    from qcompiler.compare import compare, compare_library, stages
    from qcompiler.driver import digest
    from qcompiler.report.observe import ObserveOptions

    compiled = None if library is None else load(library, options.threads)
    if compiled is not None and compiled.metadata.source_sha256 != digest(model):
        warnings.warn(f"{library}: compiled from another file than {model}", stacklevel=1)
    graph = options.imported(model)
    inputs = {str(x.name): (x.type.dtype, x.type.shape) for x in graph.inputs}
    feeds = samples(data, inputs, options=used)
    looking = ObserveOptions(threads=options.threads, progress=options.progress)
    if compiled is not None and calib is None:
        return compare_library(compiled, graph, feeds, options=looking)
    made = stages(graph, calib, options=options)
    found = compare(
        made.real,
        made.integer,
        feeds,
        quantized=made.quantized,
        mode=mode.value,
        options=looking,
    )
    if compiled is None:
        return found
    other = compare_library(compiled, made.real, feeds, integer=made.integer, options=looking)
    return dataclasses.replace(found, library=other.library)


def _save(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, "utf-8")
