"""The options of a compilation as they are typed; the dataclasses that they fill say more."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from qcompiler.cli import lists

RESULT = "Model and result"
DATA = "Calibration data"
NUMBERS = "Quantization"
PASSES = "Passes"
LOOK = "Looking inside"


class Emit(str, Enum):
    """What is written."""

    LIBRARY = "lib"
    ONNX = "onnx"
    QDQ = "qdq"


def _option(*names: str, panel: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, show_default=False, **settings)


Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="Float model: ONNX, or .pt2 as torch.export.save writes it (torch runs what that "
        "holds: trust it).",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    _option(
        "-o",
        "--output",
        panel=RESULT,
        help="File to write; by default the model's name with another suffix, in this folder.",
    ),
]
Target = Annotated[
    str,
    _option(
        panel=RESULT,
        help="Machine to compile for (--list-targets); by default cpu, this one.",
        autocompletion=lists.complete_target,
    ),
]
Emitted = Annotated[
    Emit,
    _option(
        panel=RESULT,
        help="A shared library (default), an integer ONNX model, or the quantized model as QDQ.",
    ),
]
Inline = Annotated[
    bool,
    _option("--inline", panel=RESULT, help="With --emit onnx: no functions, operators only."),
]
InputValues = Annotated[
    list[str] | None,
    _option(
        "--input-value",
        panel=RESULT,
        metavar="NAME=16000",
        help="Make an input a constant: one number, or as many as it has elements (repeatable).",
    ),
]
InputShapes = Annotated[
    list[str] | None,
    _option(
        "--input-shape",
        panel=RESULT,
        metavar="NAME:1x3x32x32",
        help="Shape of an input whose dimensions are open (repeatable).",
    ),
]
States = Annotated[
    list[str] | None,
    _option(
        "--state",
        panel=RESULT,
        metavar="IN=OUT",
        help="An input that an output replaces in the next call (repeatable): its codes are kept "
        "between calls. Samples hold the other inputs, in the order of time.",
    ),
]
Batches = Annotated[
    str | None,
    _option(
        "--batch",
        panel=RESULT,
        metavar="1,4,16",
        help="Numbers of samples to compile for; the library takes any number and cuts it into "
        "these. By default 1,8 for a model whose first dimension is open, else what it says.",
    ),
]
Capacities = Annotated[
    str | None,
    _option(
        "--length",
        panel=RESULT,
        metavar="32,128",
        help="Capacities for sequences whose length the model leaves open: the library pads what "
        "is shorter. Samples are as long as the largest.",
    ),
]
RequireInteger = Annotated[
    bool,
    _option("--require-integer", panel=RESULT, help="Fail if an operator has to stay in float."),
]
Threads = Annotated[
    int | None,
    _option(
        panel=RESULT,
        min=1,
        help="Threads to calibrate with, and the library's default; without it all cores, of the "
        "machine that runs it.",
    ),
]
Tune = Annotated[
    int,
    _option(
        panel=RESULT,
        metavar="N",
        min=0,
        help="Try N tiles for each product on this machine and take the quickest; results are kept "
        "for the next time in ~/.cache/qcompiler, or in the file $QCOMPILER_TUNING.",
    ),
]
ListTargets = Annotated[
    bool,
    _option(
        "--list-targets",
        panel=RESULT,
        callback=lists.show_targets,
        is_eager=True,
        help="List all targets.",
    ),
]
Calibration = Annotated[
    str | None,
    _option(
        panel=DATA,
        metavar="PATH",
        help="A few hundred unlabelled samples: .npz of arrays by input name, .npy, a folder of "
        "images, or script.py:function, which returns or yields samples.",
    ),
]
Samples = Annotated[
    int | None, _option(panel=DATA, min=1, help="At most so many samples; by default 512.")
]
Mean = Annotated[
    str | None,
    _option(panel=DATA, metavar="R,G,B", help="Of images, in units of 0..1, as in training."),
]
Std = Annotated[str | None, _option(panel=DATA, metavar="R,G,B", help="Likewise.")]
Layout = Annotated[
    str | None,
    _option(panel=DATA, metavar="auto|NCHW|NHWC", help="Of the input that takes the images."),
]
Resize = Annotated[
    str | None,
    _option(
        panel=DATA,
        metavar="N|HxW",
        help="Size of images before the centre crop; N is the shorter side.",
    ),
]
Seed = Annotated[int, _option(panel=DATA, min=0, help="Of random samples, without --calib.")]
CalibrationMethod = Annotated[
    str | None,
    _option(
        panel=NUMBERS,
        metavar="METHOD",
        help="How ranges are chosen: min-max (default), moving-average, percentile, mse, entropy.",
        autocompletion=lists.complete_method,
    ),
]
Skip = Annotated[
    list[str] | None,
    _option(
        panel=NUMBERS,
        metavar="PATTERN",
        help="Keep nodes in float, by name or shell pattern (repeatable).",
    ),
]
Softmax = Annotated[
    str | None,
    _option(
        panel=NUMBERS,
        metavar="table|shift|log2",
        help="Exponentials by table (default), by I-ViT's shifts, or in powers of a base.",
    ),
]
Gelu = Annotated[
    str | None,
    _option(
        panel=NUMBERS, metavar="table|shift", help="GELU by table (default) or by I-ViT's shifts."
    ),
]
Preset = Annotated[
    str | None,
    _option(
        panel=NUMBERS,
        metavar="default|i-vit",
        help="Start from the choices of a paper instead of --config.",
    ),
]
Config = Annotated[
    Path | None,
    _option(panel=NUMBERS, metavar="FILE.yaml", help="Widths, methods and exceptions by name."),
]
Passes = Annotated[
    str | None,
    _option(
        panel=PASSES, metavar="'P1,P2{A=1}'", help="Run these passes instead of the default ones."
    ),
]
DisabledPasses = Annotated[
    list[str] | None,
    _option(
        "--disable-pass",
        panel=PASSES,
        metavar="PASS",
        help="Leave a pass out (repeatable).",
        autocompletion=lists.complete_pass,
    ),
]
StopAfter = Annotated[
    str | None,
    _option(
        panel=PASSES,
        metavar="PASS",
        help="Stop behind a pass and print the graph, or write it to -o (.dot: a drawing).",
        autocompletion=lists.complete_pass,
    ),
]
ListPasses = Annotated[
    bool,
    _option(
        "--list-passes",
        panel=PASSES,
        callback=lists.show_passes,
        is_eager=True,
        help="List all passes, and what they preserve.",
    ),
]
DumpIrAfter = Annotated[
    str | None,
    _option(
        panel=LOOK,
        metavar="PASS|all",
        help="Show the graph behind a pass, on stderr.",
        autocompletion=lists.complete_pass,
    ),
]
DumpIrDir = Annotated[
    Path | None,
    _option(
        panel=LOOK, metavar="DIR", help="Write those graphs to files; alone: behind every pass."
    ),
]
SaveOnError = Annotated[
    Path | None,
    _option(
        panel=LOOK,
        metavar="FILE",
        help="Where a pass fails by a defect, write the graph that it was given; MODEL may be such "
        "a file.",
    ),
]
Verbose = Annotated[
    int,
    _option(
        "-v",
        "--verbose",
        panel=LOOK,
        count=True,
        help="Time of each pass, and the kernels; -vv: also tracebacks of errors.",
    ),
]
Quiet = Annotated[bool, _option("-q", "--quiet", panel=LOOK, help="No progress and no figures.")]
