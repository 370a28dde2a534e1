"""How long a compiled library takes, kernel by kernel, and how far that is from the limits."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from qcompiler.artifact import CompiledModel
    from qcompiler.graph import Input
    from qcompiler.metadata import Value

WARM_UP = 3


@dataclass(frozen=True)
class Peaks:
    """What the machine can do at most.

    Attributes:
        macs_per_second: Of int8 products.
        bytes_per_second: Of a copy in a working set of the model's size.
    """

    macs_per_second: float
    bytes_per_second: float

    def least_ms(self, macs: int, nbytes: int) -> float:
        """The time that neither arithmetic nor memory can fall below."""
        return max(macs / self.macs_per_second, nbytes / self.bytes_per_second) * 1e3


@dataclass(frozen=True)
class KernelTime:
    """All calls of one kernel in one run of the model.

    Attributes:
        symbol: Its function.
        implementation: The rule of the kernel table, or "generic".
        ops: What it computes, one name per call.
        calls: How many.
        ms: Sum over the calls of the median over runs.
        share: Of the time of all kernels.
        macs: Multiply-accumulates of all calls.
        nbytes: Operands and results of all calls.
        least_ms: What the peaks allow, or None without peaks.
    """

    symbol: str
    implementation: str
    ops: tuple[str, ...]
    calls: int
    ms: float
    share: float
    macs: int
    nbytes: int
    least_ms: float | None

    @property
    def of_limit(self) -> float | None:
        """1 for a kernel as fast as the peaks allow; more where its operands lie in caches."""
        return None if self.least_ms is None else self.least_ms / self.ms


@dataclass(frozen=True)
class Latency:
    """One library on this machine; times in milliseconds.

    Attributes:
        runs: How many were measured.
        threads: Of each run.
        least_ms: The quickest run.
        median_ms: The median run.
        p90_ms: The run that a tenth of the others exceed.
        peaks: What the limits were computed from.
        kernels: In order of decreasing time; empty where the device does not tell.
    """

    runs: int
    threads: int | None
    least_ms: float
    median_ms: float
    p90_ms: float
    peaks: Peaks | None
    kernels: tuple[KernelTime, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values under stable keys."""
        found = dataclasses.asdict(self)
        for fields, kernel in zip(found["kernels"], self.kernels, strict=True):
            fields["of_limit"] = kernel.of_limit
        return found


def random_inputs(values: Sequence[Value | Input]) -> list[np.ndarray]:
    """Normal floats, and integers 0 and 1, which any mask or table of embeddings accepts."""
    rng = np.random.default_rng(0)
    return [
        (
            rng.standard_normal(v.type.shape)
            if v.type.is_float
            else rng.integers(0, 2, v.type.shape)
        ).astype(v.type.dtype)
        for v in values
    ]


def measure(model: CompiledModel, runs: int, peaks: Peaks | None = None) -> Latency:
    """Time whole runs, and then runs with a clock between kernels.

    Args:
        model: Gets random inputs.
        runs: How many of each.
        peaks: For the limits of kernels.
    """
    feeds = random_inputs(model.inputs)
    for _ in range(WARM_UP):
        model(*feeds)
    seconds = np.empty(runs)
    for i in range(runs):
        start = time.perf_counter()
        model(*feeds)
        seconds[i] = time.perf_counter() - start
    least, median, p90 = (float(x) for x in np.quantile(seconds, (0, 0.5, 0.9)) * 1e3)
    runner: Any = model.runner
    kernels: tuple[KernelTime, ...] = ()
    if hasattr(runner, "kernel_times"):
        nanoseconds = np.stack([runner.kernel_times(0, feeds) for _ in range(runs)])
        kernels = _by_kernel(model, np.median(nanoseconds, 0), peaks)
    return Latency(runs, getattr(runner, "threads", None), least, median, p90, peaks, kernels)


def _by_kernel(
    model: CompiledModel, nanoseconds: np.ndarray, peaks: Peaks | None
) -> tuple[KernelTime, ...]:
    calls = np.array(model.metadata.programs[0].calls)
    total = nanoseconds.sum()
    found = []
    for i, kernel in enumerate(model.metadata.kernels):
        own = nanoseconds[calls == i]
        macs, nbytes = kernel.macs * len(own), kernel.nbytes * len(own)
        found.append(
            KernelTime(
                kernel.symbol,
                kernel.implementation,
                kernel.ops,
                len(own),
                float(own.sum()) / 1e6,
                float(own.sum() / total),
                macs,
                nbytes,
                None if peaks is None else peaks.least_ms(macs, nbytes),
            )
        )
    return tuple(sorted(found, key=lambda k: -k.ms))
