"""What a comparison of a float network with an integer one found."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from qcompiler.report.deviation import Deviation

Mode = Literal["cumulative", "isolated", "both"]
MODES: tuple[Mode, ...] = ("cumulative", "isolated", "both")

Sort = Literal["network", "name", "sqnr"]
SORTS: tuple[Sort, ...] = ("network", "name", "sqnr")


@dataclass(frozen=True)
class Output:
    """The deviation of one output of the model."""

    name: str
    deviation: Deviation


@dataclass(frozen=True)
class LibraryOutput(Output):
    """One output of a compiled library; `deviation` is that from the float model.

    Attributes:
        elements: How many there were.
        differing: How many have other bits than the integer graph gives; None without one.
    """

    elements: int
    differing: int | None


@dataclass(frozen=True)
class IsolatedDeviation:
    """What one rounding does to a network that is real otherwise.

    Attributes:
        value: Deviation of the value itself, computed from exact operands with rounded weights.
        outputs: Deviations of the model's outputs.
    """

    value: Deviation
    outputs: tuple[Output, ...]

    @property
    def effect(self) -> float:
        """SQNR of the output that suffers most, in dB."""
        return worst(y.deviation.sqnr for y in self.outputs)


@dataclass(frozen=True)
class Row:
    """One value of the network.

    Attributes:
        name: In the user's model.
        nodes: The ONNX nodes that it comes from.
        kind: The real op that computes it.
        shape: Of the value.
        storage: Of its codes; "float32" for what stays in float.
        scale: Real size of one step, the largest of all channels; None in float.
        cumulative: In the integer network as it is: with the errors of everything before it.
        isolated: When nothing else is rounded; None where codes are only moved.
    """

    name: str
    nodes: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    storage: str
    scale: float | None
    cumulative: Deviation | None = None
    isolated: IsolatedDeviation | None = None

    @property
    def quality(self) -> float:
        """What rows are ranked by, in dB, low is bad: the isolated effect, else the own SQNR."""
        if self.isolated is not None:
            return worst([self.isolated.effect])
        return worst([self.cumulative.sqnr]) if self.cumulative is not None else math.inf


@dataclass(frozen=True)
class Comparison:
    """Float against integer.

    Attributes:
        model: The model's name.
        mode: What was compared.
        runs: On how many batches.
        rows: In network order.
        outputs: Of the integer network; empty in isolated mode.
        library: Of a compiled library, where one was given.
    """

    model: str
    mode: Mode
    runs: int
    rows: tuple[Row, ...]
    outputs: tuple[Output, ...]
    library: tuple[LibraryOutput, ...] = ()

    def ordered(self, sort: Sort = "network", top: int | None = None) -> tuple[Row, ...]:
        """The rows, or the `top` worst of them, in another order; "sqnr": the worst first."""
        kept = sorted(enumerate(self.rows), key=lambda item: item[1].quality)[:top]
        if sort == "network":
            kept.sort(key=lambda item: item[0])
        elif sort == "name":
            kept.sort(key=lambda item: (item[1].name, item[0]))
        return tuple(row for _, row in kept)


def worst(values: Iterable[float]) -> float:
    """The smallest; NaN is worse than any number."""
    return min((-math.inf if math.isnan(v) else v for v in values), default=math.inf)
