"""What each choice is worth on the real vision transformer: one table.

    python tools/ablation.py --data ../shared/data [--images 1000] [--samples 64] [--only log2]

Each row quantizes the float model anew, compiles it for this CPU and runs it on the validation
images: top-1, and how often the integer model chooses the float model's class.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from accuracy import session, tiny_imagenet
from rich.console import Console
from rich.table import Table

import qcompiler
from qcompiler import QuantizationConfig
from qcompiler.passes import DEFAULT, Pass, without

PLAIN = ("hoist-slice", "reparameterize-scales", "split-channels")
"""Passes that only serve accuracy."""

ROWS: tuple[tuple[str, tuple[str, ...], QuantizationConfig], ...] = (
    (
        "min-max, 8-bit residual",
        PLAIN,
        QuantizationConfig(residuals="int8", table_scales=1),
    ),
    ("+ wide residual (int16)", PLAIN, QuantizationConfig(table_scales=1)),
    ("+ scales for query, key, value", PLAIN[1:], QuantizationConfig(table_scales=1)),
    ("+ reparameterized scales", PLAIN[2:], QuantizationConfig(table_scales=1)),
    ("+ scales per channel before tables", PLAIN[2:], QuantizationConfig()),
    ("+ split channels (the default)", (), QuantizationConfig()),
    ("default, mse ranges", (), QuantizationConfig(method="mse")),
    ("default, percentile ranges", (), QuantizationConfig(method="percentile")),
    ("default, GPTQ rounding", (), QuantizationConfig(rounding="gptq")),
    ("default, Shiftmax", (), QuantizationConfig(softmax="shift")),
    ("default, ShiftGELU", (), QuantizationConfig(gelu="shift")),
    ("default, I-LayerNorm", (), QuantizationConfig(normalization="i-vit")),
    ("--preset i-vit", (), QuantizationConfig.preset("i-vit")),
    (
        "default, 4-bit log2 attention",
        (),
        QuantizationConfig(softmax="log2", softmax_bits=4),
    ),
    (
        "default, 4-bit log√2 attention",
        (),
        QuantizationConfig(softmax="log2", softmax_bits=4, softmax_base="sqrt2"),
    ),
    (
        "default, 4-bit AdaLog attention",
        (),
        QuantizationConfig(softmax="log2", softmax_bits=4, softmax_base="adaptive"),
    ),
    (
        "default, 8-bit AdaLog attention",
        (),
        QuantizationConfig(softmax="log2", softmax_bits=8, softmax_base="adaptive"),
    ),
    ("weights int4, nearest", (), QuantizationConfig(weights="int4")),
    ("weights int4, GPTQ", (), QuantizationConfig(weights="int4", rounding="gptq")),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    arguments = parser.parse_args()
    folder = arguments.data / "vit_tiny_tinyimagenet"
    calibration, images, labels = tiny_imagenet(folder)
    images, labels = images[: arguments.images], labels[: arguments.images]
    run = session(folder / "model.onnx")
    expected = np.array([np.argmax(run(x)[0]) for x in images])
    graph = qcompiler.import_onnx(folder / "model.onnx")
    table = Table("choice", "top-1 %", "agreement %", "seconds to compile")
    table.add_row("float", f"{100 * np.mean(expected == labels):.2f}", "", "")
    seen = qcompiler.Calibration(graph, calibration[: arguments.samples])
    for name, disabled, config in (row for row in ROWS if arguments.only in row[0]):
        passes: tuple[Pass, ...] = without(DEFAULT, disabled)
        start = time.perf_counter()
        options = qcompiler.Options(config=config, passes=passes, require_integer=True)
        model = qcompiler.compile(graph, calibration=seen, options=options)
        seconds = time.perf_counter() - start
        chosen = np.array([np.argmax(next(iter(model(x[None]).values()))) for x in images])
        cells = (100 * np.mean(chosen == labels), 100 * np.mean(chosen == expected))
        table.add_row(name, *(f"{value:.2f}" for value in cells), f"{seconds:.1f}")
        print(name, *(f"{value:.2f}" for value in cells), file=sys.stderr, flush=True)
    Console(width=100).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
