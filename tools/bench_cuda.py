"""Time a network on an NVIDIA GPU against PyTorch: `python tools/bench_cuda.py deit_s`.

One row per batch and executor: this project, PyTorch float32 (TF32 off and on), float16, and
torch.compile float16 with CUDA graphs.  All start from device memory; a time is the median of runs
between CUDA events, after warm-up, of executors that take turns.  Below, what the GPU can do: the
bandwidth of a copy and the rate of `torch._int_mm`, and for ours the share of either that the
network's own traffic and products reach.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

Run = Callable[[], object]

EXECUTORS = ("qcompiler", "torch float32", "torch tf32", "torch float16", "torch.compile float16")
INNER = 10
"""Runs between two events, so that the events' own time does not count."""

MEBI = 1 << 20


def main(arguments: list[str] | None = None) -> None:
    """Measure one network; see the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of models/architectures.py, such as deit_s")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--executors", nargs="+", choices=EXECUTORS, default=EXECUTORS)
    options = parser.parse_args(arguments)
    torch = _torch()
    import architectures

    if options.name not in architectures.ARCHITECTURES:
        sys.exit(
            f"bench_cuda.py: no {options.name}: expected {', '.join(architectures.ARCHITECTURES)}"
        )
    copy, products = bandwidth(torch), int8_rate(torch)
    device = torch.cuda.get_device_name()
    print(f"{device}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"copy {copy / 1e9:.0f} GB/s, torch._int_mm {products / 1e12:.1f} TMAC/s")
    print(f"{'batch':>5} {'executor':<24}{'ms':>9}{'best':>9}{'× ours':>8}")
    for batch in options.batches:
        runs = {
            name: make(torch, architectures, options.name, batch, name)
            for name in options.executors
        }
        times = measure(torch, runs, options.repeats)
        ours = statistics.median(times["qcompiler"]) if "qcompiler" in times else float("nan")
        for name, found in times.items():
            middle = statistics.median(found)
            print(f"{batch:>5} {name:<24}{middle:>9.4f}{min(found):>9.4f}{middle / ours:>8.2f}")
        if "qcompiler" in times:
            limits(runs["qcompiler"], ours / 1e3, copy, products)


def _torch() -> Any:
    """torch, with a GPU; one line and the end of the program otherwise."""
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        sys.exit(f"bench_cuda.py needs {error.name}: pip install 'qcompiler[bench]'")
    if not torch.cuda.is_available():
        sys.exit("bench_cuda.py needs an NVIDIA GPU and a torch with CUDA: torch sees no GPU")
    return torch


def make(torch: Any, architectures: Any, name: str, batch: int, executor: str) -> Run:
    """Something to call that enqueues one inference on device memory."""
    inputs = tuple(architectures.example_inputs(name, batch).values())
    tensors = tuple(x.cuda() for x in inputs)
    module = architectures.build(name)
    if executor == "qcompiler":
        return Ours(module, inputs, tensors)
    if hasattr(module.model, "set_attn_implementation"):
        module.model.set_attn_implementation("sdpa")  # PyTorch's fastest
    module = module.cuda()
    if "float16" in executor:
        module = module.half()
        tensors = tuple(x.half() if x.is_floating_point() else x for x in tensors)
    if executor == "torch.compile float16":
        module = torch.compile(module, mode="max-autotune", fullgraph=True)
    tf32 = executor == "torch tf32"

    def run() -> object:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        with torch.inference_mode():
            return module(*tensors)

    return run


class Ours:
    """This project's library of a module, on tensors that stay on the GPU."""

    def __init__(self, module: Any, inputs: tuple[Any, ...], tensors: tuple[Any, ...]) -> None:
        import qcompiler

        graph = qcompiler.import_torch(module, inputs)
        names = [str(x.name) for x in graph.inputs]
        samples = {n: x.numpy() for n, x in zip(names, inputs, strict=True)}
        self.model = qcompiler.compile(graph, "cuda", samples)
        self.feeds = dict(zip(names, tensors, strict=True))

    def __call__(self) -> object:
        """Enqueue one inference; returns tensors on the GPU."""
        return self.model(self.feeds)


def measure(torch: Any, runs: dict[str, Run], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each executor's runs; they take turns, so that clocks and heat are shared."""
    for run in runs.values():
        for _ in range(5):
            run()
    torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(INNER):
                run()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end) / INNER)
    return times


def limits(ours: Any, seconds: float, copy: float, products: float) -> None:
    """Print how near the network comes to what the GPU can do."""
    metadata = ours.model.metadata
    macs = sum(metadata.kernels[i].macs for i in metadata.programs[0].calls)
    nbytes = sum(metadata.kernels[i].nbytes for i in metadata.programs[0].calls)
    print(
        f"      {macs / 1e9:.2f} GMAC: {100 * macs / seconds / products:.0f} % of _int_mm; "
        f"{nbytes / MEBI:.0f} MiB between kernels: {100 * nbytes / seconds / copy:.0f} % of copy"
    )


def bandwidth(torch: Any) -> float:
    """Bytes per second that a large copy reads and writes."""
    x = torch.empty(512 * MEBI, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    times = measure(torch, {"copy": lambda: y.copy_(x)}, 10)["copy"]
    return 2 * x.numel() / statistics.median(times) * 1e3


def int8_rate(torch: Any) -> float:
    """Multiply-accumulates per second of a large `torch._int_mm`."""
    size = 8192
    a, b = (torch.ones((size, size), dtype=torch.int8, device="cuda") for _ in range(2))
    times = measure(torch, {"int_mm": lambda: torch._int_mm(a, b.T)}, 10)["int_mm"]
    return size**3 / statistics.median(times) * 1e3


if __name__ == "__main__":
    main()
