"""The samples of a model and what they showed, for all configurations that it is quantized with."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from qcompiler.calibrate import Feed, SampleOptions, SyntheticOptions, synthetic
from qcompiler.calibrate import samples as opened
from qcompiler.calibrate.collect import CollectOptions
from qcompiler.calibrate.moments import Moments
from qcompiler.calibrate.ranges import CalibratedRanges, calibrate, moments
from qcompiler.calibrate.rollout import rolled_out
from qcompiler.calibrate.statistics import Statistics
from qcompiler.errors import CalibrationError, ShapeError
from qcompiler.fingerprint import fingerprints
from qcompiler.graph import Graph
from qcompiler.ops import FakeQuantize

DEFAULT_SAMPLES = 512


class SyntheticCalibrationWarning(UserWarning):
    """The model was calibrated on random numbers: it runs, but its accuracy is unknown."""


class Calibration:
    """Samples, and what values took on them: observed when first asked for, and kept.

    In place of the samples themselves it serves any number of configurations, and values that
    several of them compute alike are computed once:

        seen = Calibration(graph, "calib.npz")
        for config in configs:
            quantize(graph, seen, options=Options(config=config))

    Values count as alike by their fingerprints, so that no graph is held, and those of a graph
    whose scales have moved are other values.
    """

    def __init__(
        self,
        graph: Graph,
        source: Any = None,
        *,
        samples: SampleOptions | None = None,
        seed: int = 0,
        collecting: CollectOptions | None = None,
    ) -> None:
        """Open the samples; none are read yet.

        Args:
            graph: In the real language; of its values only those of the inputs are needed here.
            source: As `calibration` of `quantize`; None: random numbers, with a warning once they
                are asked for.  States are not among the samples: they begin with zeros and follow
                from each sample to the next.
            samples: Which samples to use, by default the first 512.
            seed: Of random numbers.
            collecting: Threads, memory and progress (by default none is shown).

        Raises:
            CalibrationError: the samples do not fit the model.
            FileError: a file of samples is missing or damaged.
        """
        self._inputs = _inputs(graph)
        self._fed = {name: x for name, x in self._inputs.items() if name not in graph.states}
        self._stateful = graph if graph.states else None
        self._says_ranges = any(isinstance(node, FakeQuantize) for node in graph.ops)
        self._seed = seed
        self._collecting = collecting or CollectOptions(progress=False)
        self._samples: Iterable[Feed] | None = None
        if not self._inputs:  # a graph of constants
            self._samples = [{}]
        elif source is not None:
            chosen = samples or SampleOptions(num_samples=DEFAULT_SAMPLES)
            self._samples = self._rolled_out(opened(source, self._fed, options=chosen))
        self._real = self._samples is not None
        self._statistics: dict[bytes, Statistics] = {}
        self._moments: dict[bytes, Moments] = {}

    def check(self, graph: Graph) -> None:
        """Refuse a graph that takes other inputs than the samples are for.

        Raises:
            CalibrationError: it does.
        """
        if (found := _inputs(graph)) != self._inputs:
            raise CalibrationError(
                f"calibration: made for inputs {_shown(self._inputs)}, found {_shown(found)}: "
                "make one for this model"
            )

    def ranges(
        self,
        graph: Graph,
        needed: Mapping[str, int | None],
        helpful: Mapping[str, int | None],
    ) -> CalibratedRanges:
        """See `qcompiler.passes.evidence.Observations`.

        Raises:
            CalibrationError: no samples, or a value that is NaN or infinite.
        """
        wanted = {**(helpful if self._real else {}), **needed}
        keys = _keys(graph, wanted)
        histograms = any(axis is None for axis in wanted.values())
        known = {
            name: self._statistics[keys[name]]
            for name, axis in wanted.items()
            if self._has(keys[name], axis, histograms)
        }
        if missing := {name: axis for name, axis in wanted.items() if name not in known}:
            bins = self._collecting.bins if histograms else 0
            options = dataclasses.replace(self._collecting, bins=bins)
            for name, found in calibrate(graph, missing, self._feeds(missing), options).items():
                known[name] = found
                if not self._has(keys[name], found.axis, histograms):
                    self._statistics[keys[name]] = found
        return CalibratedRanges(known)

    def moments(self, graph: Graph, channels: Mapping[str, int]) -> Mapping[str, Moments]:
        """See `qcompiler.passes.evidence.Observations`.

        Raises:
            CalibrationError: no samples.
        """
        keys = _keys(graph, channels)
        missing = {name: n for name, n in channels.items() if keys[name] not in self._moments}
        if missing:
            found = moments(graph, missing, self._feeds(missing), self._collecting)
            self._moments.update({keys[name]: found[name] for name in missing})
        return {name: self._moments[keys[name]] for name in channels}

    def _has(self, key: bytes, axis: int | None, histogram: bool) -> bool:
        known = self._statistics.get(key)
        if known is None or (histogram and known.histogram is None):
            return False
        return axis in (None, known.axis)

    def _feeds(self, wanted: Collection[str]) -> Iterable[Feed]:
        """What to run the model on, to observe values of these names."""
        if self._samples is None:
            ranges = "ranges"
            if self._says_ranges:
                names = [*islice(wanted, 6), "…"] if len(wanted) > 6 else list(wanted)
                ranges = f"the model does not say all ranges; those of {', '.join(names)}"
            warnings.warn(
                f"no calibration data: {ranges} come from random numbers, and the accuracy of the "
                "result is unknown; give --calib (calibration=) a few hundred real samples",
                SyntheticCalibrationWarning,
                stacklevel=3,
            )
            options = SyntheticOptions(seed=self._seed)
            self._samples = self._rolled_out(synthetic(self._fed, options=options))
        return self._samples

    def _rolled_out(self, feeds: Iterable[Feed]) -> Iterable[Feed]:
        """The feeds with states, which follow from one to the next."""
        if self._stateful is None:
            return feeds
        return rolled_out(self._stateful, feeds, self._collecting.threads)


class Recorded:
    """What passes were shown of one graph, to show it to them again of others of its kind.

    The graphs are one model at several lengths of sequences, so that values of equal names mean the
    same, and their codes have to.
    """

    def __init__(self, samples: Calibration) -> None:
        """Record what these samples show."""
        self._samples = samples
        self._shown: list[CalibratedRanges | Mapping[str, Moments]] = []

    def ranges(
        self,
        graph: Graph,
        needed: Mapping[str, int | None],
        helpful: Mapping[str, int | None],
    ) -> CalibratedRanges:
        """See `Calibration`."""
        self._shown.append(found := self._samples.ranges(graph, needed, helpful))
        return found

    def moments(self, graph: Graph, channels: Mapping[str, int]) -> Mapping[str, Moments]:
        """Likewise."""
        self._shown.append(found := self._samples.moments(graph, channels))
        return found

    def replayed(self) -> Replayed:
        """All of it, from the beginning."""
        return Replayed(iter(self._shown))


class Replayed:
    """What was recorded, in the order in which passes ask."""

    def __init__(self, shown: Iterator[CalibratedRanges | Mapping[str, Moments]]) -> None:
        """Show these."""
        self._shown = shown

    def ranges(
        self,
        graph: Graph,
        needed: Mapping[str, int | None],
        helpful: Mapping[str, int | None],
    ) -> CalibratedRanges:
        """See `Calibration`.

        Raises:
            ShapeError: the graph is another one at this length.
        """
        found = next(self._shown, None)
        if not isinstance(found, CalibratedRanges) or not all(map(found.knows, needed)):
            raise _other_graph()
        return found

    def moments(self, graph: Graph, channels: Mapping[str, int]) -> Mapping[str, Moments]:
        """Likewise.

        Raises:
            ShapeError: the graph is another one at this length.
        """
        found = next(self._shown, None)
        if not isinstance(found, Mapping) or not channels.keys() <= found.keys():
            raise _other_graph()
        return found


def _other_graph() -> ShapeError:
    return ShapeError(
        "--length: the model computes other values at this length than at the longest: give one "
        "length only"
    )


def _inputs(graph: Graph) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {str(x.name): (x.type.dtype, x.type.shape) for x in graph.inputs}


def _shown(inputs: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name}: {dtype}{list(shape)}" for name, (dtype, shape) in inputs.items())


def _keys(graph: Graph, names: Collection[str]) -> dict[str, bytes]:
    """The fingerprints of values, by their names."""
    found = fingerprints(graph) if names else {}
    return {graph.names[node]: key for node, key in found.items() if graph.names[node] in names}
