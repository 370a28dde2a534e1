"""What calibration tells passes: the ranges of values, by their names in the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from qcompiler.config import QuantizationConfig
from qcompiler.graph import Graph
from qcompiler.passes.base import Pass


class Ranges(Protocol):
    """Ranges of a real graph's values."""

    def range(self, name: str, storage: str, method: str) -> tuple[float, float]:
        """Low ≤ 0 ≤ high for codes of a storage, by a calibration method."""

    def knows(self, name: str) -> bool:
        """Whether the value was observed."""

    def channels(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest element per channel, float64, of a value observed per channel."""


@dataclass(frozen=True)
class FixedRanges:
    """Ranges given by hand, the same for every storage and method."""

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    per_channel: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def range(self, name: str, storage: str, method: str) -> tuple[float, float]:
        """The given range."""
        return self.ranges[name]

    def knows(self, name: str) -> bool:
        """Whether one is given."""
        return name in self.ranges

    def channels(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The given ranges per channel."""
        return self.per_channel[name]


@dataclass(frozen=True)
class CalibratedPass(Pass):
    """A pass that needs to know what values the graph takes on samples.

    Whoever runs it asks what it wants `observed` in the very graph that it will get, and gives it
    the `ranges`; so that ranges are never those of an earlier graph.

    Attributes:
        ranges: What calibration found for the graph.
        config: Widths, methods and exceptions.
    """

    ranges: Ranges = field(default_factory=FixedRanges)
    config: QuantizationConfig = field(default_factory=QuantizationConfig)

    def observed(self, graph: Graph) -> Mapping[str, int | None]:
        """Names of the values to observe, with their channel axis where channels count."""
        raise NotImplementedError(f"{type(self).__name__}.observed")

    def helpful(self, graph: Graph) -> Mapping[str, int | None]:
        """Names of more values, to observe where there are samples; it does without."""
        return {}
