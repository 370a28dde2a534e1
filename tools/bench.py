"""Latency and memory against other runtimes, on the same cores, in one run.

    python tools/bench.py [--models deit_s resnet50 my.onnx] [--executors 'cpu*' ort-int8]
                          [--batch 1 8] [--rounds 15] [--cache FOLDER] [--json out.json]

Models are names of `MODELS` (random weights from `models/architectures.py`, extra `models`;
`vit_tiny_real` is trained, from `../shared/data`) or ONNX files.  Executors are this project with
each of this machine's instruction sets, ONNX Runtime, OpenVINO (extra `bench`) and TVM, whose
tuning (`tvm-tuned`) takes hours and is measured only where it is named.

Every executor has a process of its own, so that memory is its own; they take turns, a few calls
each behind a pause in which the threads of the one before come to rest, and a tenth of a second of
calls that do not count.  Reported are the median
over all calls, the quickest call, and the median over rounds of the executor's time over that of
the first executor, if it runs (more than 1: the first is faster).  `peak MiB` is the largest
resident memory until the first call has returned, the interpreter and all imports included.

`--target cuda` compares with PyTorch on this machine's GPU instead; see `bench_cuda.py`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bench_cuda
import numpy as np
import onnx
import psutil
from bench_executors import (
    COMPETITORS,
    SLOW,
    Artifact,
    Executor,
    Worker,
    own_executors,
    prepare,
    versions,
)
from bench_prepare import random_feeds
from rich import box
from rich.console import Console
from rich.table import Table

CPU_BATCHES = (1, 8)
GPU_BATCHES = (1, 8, 32, 128)
PAUSE_SECONDS = 0.05
WARM_UP_CALLS = 2
WARM_UP_SECONDS = 0.1
"""A core that was idle runs slowly for so long, which would count against quick executors most."""
CALLS = 5
LONG_SECONDS = 0.5
"""A call from which on one call per turn is enough."""

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "data" / "vit_tiny_tinyimagenet" / "model.onnx"
RANDOM = ("deit_t", "deit_s", "deit_b", "swin_t", "bert_base", "resnet50", "mobilenet_v2")
MODELS = (*RANDOM, "vit_tiny_real")
FEATURES = ("amx_int8", "avx512_vnni", "avx512vbmi", "avx512_bf16", "avx_vnni", "avx512f", "avx2")


@dataclass(frozen=True)
class Result:
    """One executor with one model; times in milliseconds, sizes in MiB.

    Attributes:
        model: Its name.
        executor: Likewise.
        note: What the executor says about itself.
        reason: Why there are no figures.
        median_ms: Of all calls.
        least_ms: The quickest call.
        ratio: Median over rounds of its time over the first executor's.
        peak_mib: Resident memory at its peak, up to the end of the first call.
        before_mib: Resident memory before the executor was imported.
        file_mib: What it loads.
        prepare_seconds: To compile or quantize, evaluation of the reference included.
        bits: Whether the outputs are those of the numpy reference; None for others.
    """

    model: str
    executor: str
    note: str
    reason: str | None = None
    median_ms: float | None = None
    least_ms: float | None = None
    ratio: float | None = None
    peak_mib: float | None = None
    before_mib: float | None = None
    file_mib: float | None = None
    prepare_seconds: float | None = None
    bits: bool | None = None


def interleaved(workers: Sequence[Worker], rounds: int) -> list[np.ndarray]:
    """Seconds [rounds, calls] of each worker; they take turns within each round."""
    calls = []
    for worker in workers:
        if max(worker.run(1)) > LONG_SECONDS:
            calls.append((0, 1))
            continue
        warm_up = math.ceil(WARM_UP_SECONDS / min(worker.run(CALLS)))
        calls.append((max(warm_up, WARM_UP_CALLS), CALLS))
    seconds: list[list[list[float]]] = [[] for _ in workers]
    for _ in range(rounds):
        for worker, (warm_up, counted), mine in zip(workers, calls, seconds, strict=True):
            time.sleep(PAUSE_SECONDS)
            mine.append(worker.run(warm_up + counted)[warm_up:])
    return [np.array(times) for times in seconds]


def compare(
    name: str, artifacts: Sequence[Artifact], feeds: Path, rounds: int, threads: int
) -> list[Result]:
    """Start the executors that can run, let them take turns, and end them."""
    reasons = {a.executor: a.reason for a in artifacts if a.reason is not None}
    workers: list[Worker] = []
    try:
        for artifact in artifacts:
            if artifact.executor in reasons:
                continue
            try:
                workers.append(Worker(artifact, feeds, threads, artifact.path.with_suffix(".run")))
            except RuntimeError as error:
                reasons[artifact.executor] = str(error)
        times = interleaved(workers, rounds)
    finally:
        for worker in workers:
            worker.close()
    reference = times[0] if artifacts[0].executor not in reasons else None
    measured = {
        worker.artifact.executor: _result(name, worker, mine, reference)
        for worker, mine in zip(workers, times, strict=True)
    }
    return [
        measured.get(e) or Result(name, e.name, e.note, reasons[e])
        for e in (a.executor for a in artifacts)
    ]


def _result(name: str, worker: Worker, mine: np.ndarray, first: np.ndarray | None) -> Result:
    artifact, facts = worker.artifact, worker.facts
    made = artifact.facts
    ratios = None if first is None else np.median(mine, 1) / np.median(first, 1)
    return Result(
        name,
        artifact.executor.name,
        made.get("operators", artifact.executor.note),
        median_ms=float(np.median(mine)) * 1e3,
        least_ms=float(mine.min()) * 1e3,
        ratio=None if ratios is None else float(np.median(ratios)),
        peak_mib=facts["peak_mib"],
        before_mib=facts["before_mib"],
        file_mib=artifact.mib,
        prepare_seconds=made.get("compile_seconds", made.get("prepare_seconds")),
        bits=made["digest"] == facts["digest"] if "digest" in made else None,
    )


def model_file(name: str, batch: int, folder: Path) -> Path | None:
    """The float model; exported by a process of its own, since torch takes memory.

    None where the batch is not to be had.
    """
    if name.endswith(".onnx"):
        return Path(name)
    if name == "vit_tiny_real":
        return REAL if batch == 1 and REAL.exists() else None
    path = folder / f"{name}_b{batch}.onnx"
    if not path.exists():
        exporter = ROOT / "models" / "architectures.py"
        command = [sys.executable, exporter, name, path, "--batch", str(batch)]
        subprocess.run(command, check=True)
    return path


def machine_facts(threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name", platform.processor()),
        "family": f"{fields.get('cpu family', '?')}/{fields.get('model', '?')}",
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "features": [f for f in FEATURES if f in flags],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load": [round(x, 2) for x in os.getloadavg()],
        "versions": list(versions()),
    }


def selected(patterns: Sequence[str] | None) -> list[Executor]:
    """The executors that the patterns name, or all."""
    usual = [*own_executors(), *COMPETITORS]
    if not patterns:
        return usual
    known = [*usual, *SLOW]
    found = [e for e in known if any(fnmatch.fnmatchcase(e.name, p) for p in patterns)]
    if not found:
        sys.exit(f"--executors: expected some of {', '.join(e.name for e in known)}")
    return found


def table(results: Sequence[Result]) -> Table:
    """Rows in order, in Markdown."""
    columns = ("model", "executor", "note", "median ms", "min ms", "ratio", "peak MiB", "file MiB")
    made = Table(*columns, "made in s", "bits", box=box.MARKDOWN)
    for r in results:
        if r.reason is not None:
            made.add_row(r.model, r.executor, f"n/a: {r.reason}")
            continue
        values = (r.median_ms, r.least_ms, r.ratio, r.peak_mib, r.file_mib, r.prepare_seconds)
        cells = ["" if v is None else f"{v:.2f}" if v < 100 else f"{v:.0f}" for v in values]
        bits = "" if r.bits is None else "equal" if r.bits else "DIFFER"
        made.add_row(r.model, r.executor, r.note, *cells, bits)
    return made


def _progress(model: str, results: Sequence[Result]) -> None:
    times = [
        f"{r.executor} {r.median_ms:.2f}"
        for r in results
        if r.model == model and r.median_ms is not None
    ]
    print(f"{model}: {', '.join(times)} ms", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS, help="names or ONNX files")
    parser.add_argument("--executors", nargs="+", help="names; * stands for anything")
    parser.add_argument("--batch", nargs="+", type=int)
    parser.add_argument("--target", choices=("cpu", "cuda"), default="cpu", help="where to run")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--limit", type=float, default=900, help="seconds to make one file")
    parser.add_argument("--cache", type=Path, help="keeps models and what is made of them")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if arguments.target == "cuda":
        for name in arguments.models:
            bench_cuda.main([name, "--batches", *map(str, arguments.batch or GPU_BATCHES)])
        return 0
    executors = selected(arguments.executors)
    facts = machine_facts(arguments.threads)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.cache or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in arguments.models:
            for batch in [1] if name.endswith(".onnx") else arguments.batch or CPU_BATCHES:
                path = model_file(name, batch, folder)
                if path is None:
                    print(f"{name}: no model of batch {batch}", file=sys.stderr)
                    continue
                feeds = folder / f"{path.stem}.feeds.npz"
                np.savez(feeds, **random_feeds(onnx.load(path), seed=0))  # type: ignore[arg-type]
                given = (path, feeds, folder, arguments.threads, arguments.limit)
                artifacts = [prepare(executor, *given) for executor in executors]
                results += compare(path.stem, artifacts, feeds, arguments.rounds, arguments.threads)
                _progress(path.stem, results)
                if arguments.json:
                    rows = [asdict(r) for r in results]
                    text = json.dumps({"machine": facts, "results": rows}, indent=2)
                    arguments.json.write_text(text)
    for key, value in facts.items():
        print(f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    Console(width=180).print(table(results))
    return int(any(r.bits is False for r in results))


if __name__ == "__main__":
    sys.exit(main())
