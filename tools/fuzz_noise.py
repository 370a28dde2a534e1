"""How well conditioned a graph is: what becomes of its outputs when every value is disturbed.

Twice: by a few units in the last place of float32, which bounds by how much two correct float
runtimes may differ; and by steps of 8 bits over each value's range (rounded to them once, random
the other times), which says what signal to noise an integer network of 8 bits can be expected to
reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qcompiler.graph import Constant, Graph, Input, Op

Feed = Mapping[str, np.ndarray]
TRIALS = 3
_SMALLEST, _LARGEST = 1e-12, 1e18  # squares and sums stay far from the ends of float32


class Noise:
    """The float results of a graph, exact and disturbed.

    Attributes:
        exact: For each sample, output name → array.
        comparable: Whether all values are finite and of a magnitude whose square float32 holds.
    """

    def __init__(self, graph: Graph, feeds: Sequence[Feed]) -> None:
        self.graph = graph
        self.feeds = feeds
        self._ranges: dict[Op, tuple[float, float]] = {}
        self.comparable = True
        self.exact = [self._run(feed, None, "") for feed in feeds]
        self._made: dict[str, list[list[dict[str, np.ndarray]]]] = {}

    def tolerance(self, name: str, sample: int, *, near: bool = False) -> np.ndarray:
        """By how much each element of an output may differ in another float runtime.

        Args:
            name: The output.
            sample: Which sample.
            near: Whether what cancels to zero may be a rounding error elsewhere.
        """
        y = self.exact[sample][name].astype(np.float64)
        largest = float(np.abs(y).max(initial=0))
        spread = max(
            float(np.nan_to_num(np.abs(trial[sample][name] - y), nan=np.inf).max(initial=0))
            for trial in self._trials("near" if near else "fine")
        )
        return np.asarray(1e-4 * np.abs(y) + 1e-5 * largest + 1e-6 + 20 * spread)

    def decibels(self, name: str, trials: int = TRIALS) -> float:
        """The least signal to noise of an output when every value is rounded to 8 bits."""
        return min(self.measure(name, trial) for trial in self._trials("coarse", trials))

    def measure(self, name: str, results: Sequence[Feed]) -> float:
        """Signal to noise over all samples, in dB; −∞ where there is no signal."""
        signal = noise = 0.0
        for exact, result in zip(self.exact, results, strict=True):
            y = exact[name].astype(np.float64)
            signal += float((y**2).sum())
            noise += float(((result[name].astype(np.float64) - y) ** 2).sum())
        if not signal or not np.isfinite(signal + noise):
            return -np.inf
        return float(10 * np.log10(signal / max(noise, signal * 1e-20)))

    def _trials(self, kind: str, count: int = TRIALS) -> list[list[dict[str, np.ndarray]]]:
        def once(trial: int) -> list[dict[str, np.ndarray]]:
            generators = (np.random.default_rng((trial, i)) for i in range(len(self.feeds)))
            pairs = zip(self.feeds, generators, strict=True)
            form = "rounded" if kind == "coarse" and not trial else kind
            return [self._run(feed, rng, form) for feed, rng in pairs]

        made = self._made.setdefault(kind, [])
        made += [once(trial) for trial in range(len(made), count)]
        return made[:count]

    def _run(self, feed: Feed, rng: np.random.Generator | None, kind: str) -> dict[str, np.ndarray]:
        env: dict[Op, np.ndarray] = {}
        for node in self.graph.ops:
            if isinstance(node, Input):
                y = np.asarray(feed[str(node.name)])
            else:
                with np.errstate(all="ignore"):
                    y = np.asarray(node.numpy(*(env[x] for x in node.operands)))
            if y.dtype.kind == "f":
                y = self._observed(node, y) if rng is None else self._disturbed(node, y, rng, kind)
            env[node] = y
        return {name: env[y] for name, y in self.graph.outputs.items()}

    def _observed(self, node: Op, y: np.ndarray) -> np.ndarray:
        low, high = float(y.min(initial=np.inf)), float(y.max(initial=-np.inf))
        largest = max(abs(low), abs(high)) if y.size else 0.0
        if largest and not _SMALLEST < largest < _LARGEST:  # also NaN
            self.comparable = self.comparable and isinstance(node, Constant)
        a, b = self._ranges.get(node, (0.0, 0.0))  # ranges of codes hold zero
        self._ranges[node] = min(a, low), max(b, high)
        return y

    def _disturbed(
        self, node: Op, y: np.ndarray, rng: np.random.Generator, kind: str
    ) -> np.ndarray:
        if isinstance(node, Constant) and (y.size < 2 or not np.isfinite(y).all()):
            return y
        uniform = rng.uniform(-1, 1, y.shape)
        low, high = self._ranges[node]
        step = (high - low) / 255 or 1.0
        with np.errstate(all="ignore"):
            if kind in ("fine", "near"):
                least = 1e-7 * max(-low, high) if kind == "near" else 0.0
                return np.asarray(y * (1 + 4e-7 * uniform) + least * uniform, y.dtype)
            if kind == "rounded":  # what is near zero becomes zero
                return np.asarray(np.rint(y / step) * step, y.dtype)
            return np.asarray(y + step / 2 * uniform, y.dtype)
