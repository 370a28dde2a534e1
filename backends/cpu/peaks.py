"""What this machine can do at most, measured: the limits that kernels are held against."""

from __future__ import annotations

import threading
import time

import numpy as np

from qcompiler.backends.cpu.build import build
from qcompiler.backends.cpu.run import Runner
from qcompiler.backends.cpu.targets import NATIVE
from qcompiler.graph import Constant, Graph, Input
from qcompiler.ops import MatMulInteger, Requantize
from qcompiler.types import Quantization, TensorType

SHAPES = ((256, 1024, 256), (512, 512, 512), (192, 2048, 128))
"""Rows, depth and columns of products whose operands stay in the cache of two cores."""

REPEATS = 30
LEAST_COPY = 1 << 20


def macs_per_second(threads: int) -> float:
    """The best rate of this project's own int8 product on cached operands.

    Raises:
        TargetError: there is no C compiler to build it with.
    """
    return max(_rate(*shape, threads) for shape in SHAPES)


def _rate(rows: int, depth: int, columns: int, threads: int) -> float:
    rng = np.random.default_rng(0)
    x = Input(TensorType("uint8", (rows, depth)), name="x")
    weight = Constant(rng.integers(-128, 128, (depth, columns), dtype=np.int8))
    multiplier = Constant(rng.integers(2**28, 2**29, columns, dtype=np.int32))
    q = Quantization.per_tensor("uint8", 0.1, 128)
    sums = MatMulInteger(x, weight, Constant(np.zeros(columns, np.int32)))
    codes = Requantize((sums,), (multiplier,), Constant(np.array(128 << 42)), 42, q)
    model = build(Graph((x,), {"y": codes}), NATIVE, threads=threads)
    feed = rng.integers(0, 256, x.type.shape, dtype=np.uint8)
    runner = Runner(model.path, model.metadata)
    times = [runner.kernel_times(0, [feed]) for _ in range(REPEATS)]
    (program,) = model.metadata.programs
    product = next(i for i, k in enumerate(program.calls) if model.metadata.kernels[k].macs)
    return rows * depth * columns / (min(int(t[product]) for t in times) * 1e-9)


def bytes_per_second(nbytes: int, threads: int) -> float:
    """Bytes read and written by a copy whose source and destination have `nbytes` together.

    A working set that fits a cache is read at the cache's speed, so the size matters.
    """
    part = max(nbytes, LEAST_COPY) // 2 // threads
    sources = [np.ones(part, np.uint8) for _ in range(threads)]
    destinations = [np.zeros(part, np.uint8) for _ in range(threads)]
    best = [float("inf")] * threads
    together = threading.Barrier(threads)

    def work(i: int) -> None:
        for _ in range(REPEATS):
            together.wait()
            start = time.perf_counter()
            np.copyto(destinations[i], sources[i])
            best[i] = min(best[i], time.perf_counter() - start)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(2 * part / seconds for seconds in best)
