"""Latency against ONNX Runtime float32 on the same cores, in one run.

    python tools/bench.py [MODEL.onnx ...] [--rounds 15] [--json out.json]

Without a model: ResNet-50 at 224x224 with random weights (`models/architectures.py`, extra
`models`).  Executors take turns, a few calls each behind a pause: both keep their threads spinning
for a while after a call, which would slow the other one down.  Reported are the median over all
calls, and the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

import qcompiler

Run = Callable[[], object]
PAUSE_SECONDS = 0.05
WARM_UP_CALLS = 2
CALLS = 5


@dataclass(frozen=True)
class Measurement:
    """Times in milliseconds; the ratio is that of ONNX Runtime to ours, more is faster."""

    model: str
    ours_ms: float
    onnxruntime_float32_ms: float
    ratio: float
    compile_seconds: float
    compile_peak_gib: float
    library_mib: float
    equal_bits: bool


def interleaved(runs: list[Run], rounds: int) -> np.ndarray:
    """Seconds [rounds, runs, CALLS]; the executors take turns within each round."""
    seconds = np.empty((rounds, len(runs), CALLS))
    for times in seconds:
        for run, mine in zip(runs, times, strict=True):
            time.sleep(PAUSE_SECONDS)
            for _ in range(WARM_UP_CALLS):
                run()
            for i in range(CALLS):
                start = time.perf_counter()
                run()
                mine[i] = time.perf_counter() - start
    return seconds


def measure(path: Path, rounds: int, threads: int) -> Measurement:
    """Compile a float model, check the bits of one sample, and time it."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", qcompiler.SyntheticCalibrationWarning)
        options = qcompiler.Options(require_integer=True, threads=threads)
        made = qcompiler.compile_model(path, "cpu", options=options)
    compile_seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rng = np.random.default_rng(0)
    feeds = {
        v.name: rng.standard_normal(v.type.shape).astype(v.type.dtype) for v in made.model.inputs
    }
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), settings, ["CPUExecutionProvider"])
    reference, library = qcompiler.evaluate(made.integer, feeds), made.model(feeds)
    equal = all(reference[name].tobytes() == library[name].tobytes() for name in reference)
    seconds = interleaved([lambda: made.model(feeds), lambda: session.run(None, feeds)], rounds)
    per_round = np.median(seconds, axis=2)
    ours, theirs = np.median(seconds, axis=(0, 2)) * 1e3
    return Measurement(
        path.stem,
        float(ours),
        float(theirs),
        float(np.median(per_round[:, 1] / per_round[:, 0])),
        compile_seconds,
        peak,
        made.summary.file_bytes / 2**20,
        equal,
    )


def resnet50(folder: Path) -> Path:
    """ResNet-50 with random weights, exported by a process of its own: torch takes memory."""
    path = folder / "resnet50.onnx"
    exporter = Path(__file__).resolve().parent.parent / "models" / "architectures.py"
    subprocess.run([sys.executable, exporter, "resnet50", path], check=True)
    return path


def cpu_name() -> str:
    """The processor, where the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        models = arguments.models or [resnet50(Path(scratch))]
        found = [measure(path, arguments.rounds, arguments.threads) for path in models]
    versions = f"onnxruntime {onnxruntime.__version__}, {arguments.threads} threads, {cpu_name()}"
    table = Table(
        *("model", "ours ms", "ORT float32 ms", "ratio", "compile s", "peak GiB", "MiB", "bits"),
        title=versions,
    )
    for m in found:
        times = (m.ours_ms, m.onnxruntime_float32_ms, m.ratio, m.compile_seconds)
        sizes = (m.compile_peak_gib, m.library_mib)
        cells = [f"{value:.2f}" for value in (*times, *sizes)]
        table.add_row(m.model, *cells, "equal" if m.equal_bits else "DIFFER")
    Console(width=120).print(table)
    if arguments.json:
        results = [asdict(m) for m in found]
        arguments.json.write_text(json.dumps({"machine": versions, "results": results}, indent=2))
    return int(not all(m.equal_bits for m in found))


if __name__ == "__main__":
    sys.exit(main())
