"""One executor with one model in a process of its own, which `bench.py` tells when to run.

    python tools/bench_worker.py RUNTIME FILE FEEDS.npz THREADS

RUNTIME is a key of `RUNTIMES`.  The process loads the file, calls it once, writes a line of JSON
with its memory and the SHA-256 of its outputs, and then answers each number n on stdin by a line
with the seconds of n calls.  Whatever the runtimes print goes to stderr.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Iterable[Any]]
Feeds = dict[str, np.ndarray]


def memory_kib(field: str) -> int:
    """A field of the kernel's account of this process: `VmRSS` is now, `VmHWM` the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise SystemExit(f"no {field} in /proc/self/status: Linux is needed")


def ours(path: Path, feeds: Feeds, threads: int) -> Run:
    import qcompiler

    model = qcompiler.load(path, threads)
    return lambda: model(feeds).values()


def onnxruntime(path: Path, feeds: Feeds, threads: int) -> Run:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), settings, ["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def openvino(path: Path, feeds: Feeds, threads: int, precision: str | None = None) -> Run:
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision is not None:
        settings["INFERENCE_PRECISION_HINT"] = precision
    request = openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda: request.infer(feeds, share_inputs=True, share_outputs=True).values()


def tvm(path: Path, feeds: Feeds, threads: int) -> Run:
    import tvm
    from tvm import relax

    tvm.get_global_func("runtime.config_threadpool")(
        -3, threads, [str(core) for core in sorted(os.sched_getaffinity(0))]
    )
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())
    inputs = [tvm.runtime.tensor(x) for x in feeds.values()]

    def run() -> list[np.ndarray]:
        found = machine["main"](*inputs)
        return [y.numpy() for y in ([found] if hasattr(found, "numpy") else found)]

    return run


RUNTIMES: dict[str, Callable[[Path, Feeds, int], Run]] = {
    "ours": ours,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino-f32": lambda *given: openvino(*given, "f32"),
    "openvino-bf16": lambda *given: openvino(*given, "bf16"),
    "tvm": tvm,
}


def main() -> None:
    runtime, path, feeds_path, threads = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with np.load(feeds_path) as file:
        feeds = dict(file)
    before = memory_kib("VmRSS")
    run = RUNTIMES[runtime](Path(path), feeds, int(threads))
    outputs = run()
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(y).tobytes() for y in outputs))
    del outputs
    facts = {
        "before_mib": before / 2**10,
        "peak_mib": memory_kib("VmHWM") / 2**10,
        "resident_mib": memory_kib("VmRSS") / 2**10,
        "digest": digest.hexdigest(),
    }
    print(json.dumps(facts), file=answers)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), file=answers)


if __name__ == "__main__":
    main()
