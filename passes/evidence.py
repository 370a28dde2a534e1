"""What passes ask for before they run: the user's configuration, and what samples showed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from qcompiler.config import QuantizationConfig
from qcompiler.errors import CalibrationError
from qcompiler.graph import Graph
from qcompiler.passes.base import GIVEN, Pass

if TYPE_CHECKING:
    from typing_extensions import Self

    from qcompiler.calibrate.moments import Moments


class Ranges(Protocol):
    """Ranges of a real graph's values."""

    def range(self, name: str, storage: str, method: str) -> tuple[float, float]:
        """Low ≤ 0 ≤ high for codes of a storage, by a calibration method."""

    def knows(self, name: str) -> bool:
        """Whether the value was observed."""

    def channels(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest element per channel, float64, of a value observed per channel."""


class Observations(Protocol):
    """What samples show of a graph's values; the driver's are a `qcompiler.Calibration`."""

    def ranges(
        self,
        graph: Graph,
        needed: Mapping[str, int | None],
        helpful: Mapping[str, int | None],
    ) -> Ranges:
        """Run a real graph on samples and observe values.

        Args:
            graph: In the real language.
            needed: Names of values, with the axis of their channels where those count.
            helpful: Likewise, of values to observe only where samples are real.
        """

    def moments(self, graph: Graph, channels: Mapping[str, int]) -> Mapping[str, Moments]:
        """Run a graph of any float language and observe how the rows of values vary together.

        Args:
            graph: In the real or the quantized language.
            channels: By value name: the size of its last axis.
        """


@dataclass(frozen=True)
class Evidence:
    """What `Pass.prepared` may ask for.

    Attributes:
        config: What the user chose.
        samples: What the graph does on samples.
    """

    config: QuantizationConfig
    samples: Observations


@dataclass(frozen=True)
class FixedRanges:
    """Ranges given by hand, the same for every storage and method.

    Raises:
        CalibrationError: when asked for a value of which none is given.
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    per_channel: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def range(self, name: str, storage: str, method: str) -> tuple[float, float]:
        """The given range."""
        if name not in self.ranges:
            raise _unknown(name, "range", "ranges=FixedRanges({name: (low, high)})")
        return self.ranges[name]

    def knows(self, name: str) -> bool:
        """Whether one is given."""
        return name in self.ranges

    def channels(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The given ranges per channel."""
        if name not in self.per_channel:
            where = "ranges=FixedRanges(per_channel={name: (lows, highs)})"
            raise _unknown(name, "range per channel", where)
        return self.per_channel[name]


def _unknown(name: str, what: str, where: str) -> CalibrationError:
    return CalibrationError(
        f"value '{name}' has no {what}: let qcompiler.quantize run the pass on calibration data, "
        f"or give it {where}"
    )


@dataclass(frozen=True)
class ConfiguredPass(Pass):
    """A pass that the user's configuration shapes.

    Attributes:
        config: Widths, methods and exceptions; None: those of whoever runs the pass, which are the
            defaults where it runs alone.
    """

    config: QuantizationConfig | None = field(default=None, kw_only=True, metadata=GIVEN)

    @property
    def configuration(self) -> QuantizationConfig:
        """The configuration, or the default one."""
        return self.config or QuantizationConfig()

    def prepared(self, graph: Graph, evidence: Evidence) -> Self:
        """The pass with the configuration, unless it has its own."""
        if self.config is not None:
            return self
        return dataclasses.replace(self, config=evidence.config)


@dataclass(frozen=True)
class CalibratedPass(ConfiguredPass):
    """A pass that needs to know what values the graph takes on samples.

    It asks for what it wants `observed` in the very graph that it will get, so that ranges are
    never those of an earlier graph.

    Attributes:
        ranges: Of the graph's values; None: what calibration finds.
    """

    ranges: Ranges | None = field(default=None, metadata=GIVEN)

    @property
    def known(self) -> Ranges:
        """The ranges, or none at all."""
        return self.ranges or FixedRanges()

    def prepared(self, graph: Graph, evidence: Evidence) -> Self:
        """The pass with ranges of what it wants observed, unless it has its own."""
        step = super().prepared(graph, evidence)
        if step.ranges is not None:
            return step
        found = evidence.samples.ranges(graph, step.observed(graph), step.helpful(graph))
        return dataclasses.replace(step, ranges=found)

    def observed(self, graph: Graph) -> Mapping[str, int | None]:
        """Names of the values to observe, with their channel axis where channels count."""
        raise NotImplementedError(f"{type(self).__name__}.observed")

    def helpful(self, graph: Graph) -> Mapping[str, int | None]:
        """Names of more values, to observe where there are samples; it does without."""
        return {}
