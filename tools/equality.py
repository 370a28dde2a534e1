"""The same bits from numpy, the library and ONNX Runtime, on whole networks with random inputs.

    python models/architectures.py deit_t deit_t.onnx --batch 8
    python tools/equality.py deit_t.onnx ...

Ranges come from random inputs too: such networks say nothing about accuracy, but every integer op
at its real size.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

import qcompiler


def random_feeds(model: qcompiler.CompiledModel) -> dict[str, np.ndarray]:
    """Normal floats, and integers 0 and 1 (masks, rows of any embedding)."""
    rng = np.random.default_rng(0)
    return {
        v.name: (
            rng.standard_normal(v.type.shape)
            if v.type.is_float
            else rng.integers(0, 2, v.type.shape)
        ).astype(v.type.dtype)
        for v in model.inputs
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    arguments = parser.parse_args()
    table = Table("model", "integer ops", "float ops", "float instructions", "values", "differing")
    differing = 0
    for path in arguments.models:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", qcompiler.SyntheticCalibrationWarning)
            options = qcompiler.Options(require_integer=True)
            made = qcompiler.compile_model(path, options=options)
        feeds = random_feeds(made.model)
        reference = qcompiler.evaluate(made.integer, feeds)
        with tempfile.TemporaryDirectory() as scratch:
            exported = Path(scratch, "integer.onnx")
            qcompiler.export_onnx(made.integer, exported)
            session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
            others = [
                made.model(feeds),
                dict(zip(reference, session.run(None, feeds), strict=True)),
            ]
        count = sum(
            int((np.ascontiguousarray(other[name]).view(np.uint8) != y.view(np.uint8)).sum())
            for other in others
            for name, y in reference.items()
        )
        differing += count
        cells = (
            made.summary.operators_integer,
            made.summary.operators_float,
            made.model.metadata.float_instructions,
            sum(y.size for y in reference.values()),
            count,
        )
        table.add_row(path.stem, *map(str, cells))
    Console(width=110).print(table)
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
