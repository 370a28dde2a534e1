"""Random inputs for when the user has no calibration data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcompiler.calibrate.feeds import Feed, Input, model_inputs
from qcompiler.calibrate.sources import Samples


@dataclass(frozen=True)
class SyntheticOptions:
    """What random inputs look like.

    Attributes:
        runs: How many feeds.
        seed: The same seed gives the same feeds.
        integer_bound: Integers are drawn from 0 up to but not including this, or the end of their
            dtype; the default suits masks and is an index into any table of two entries.
    """

    runs: int = 8
    seed: int = 0
    integer_bound: int = 2


def synthetic(
    inputs: Mapping[str, tuple[str, tuple[int, ...]]], *, options: SyntheticOptions | None = None
) -> Samples:
    """Feeds of standard normal floats and uniform integers, the same at each iteration.

    Ranges calibrated with them are rarely those of real data: they show that a model compiles, not
    how accurate it is.

    Args:
        inputs: By input name: dtype name and shape.
        options: How many, and the seed.

    Raises:
        CalibrationError: The model has no inputs.
        UnsupportedError: An input that is neither number nor boolean.
    """
    wanted = model_inputs(inputs)
    chosen = options or SyntheticOptions()

    def walk() -> Iterator[Feed]:
        generator = np.random.default_rng(chosen.seed)
        for _ in range(chosen.runs):
            yield {i.name: _draw(i, generator, chosen.integer_bound) for i in wanted}

    return Samples(walk, chosen.runs)


def _draw(wanted: Input, generator: np.random.Generator, bound: int) -> NDArray:
    if wanted.kind == "f":
        return generator.standard_normal(wanted.shape).astype(wanted.dtype)
    if wanted.dtype.kind == "b":
        return generator.integers(0, 2, wanted.shape).astype(wanted.dtype)
    high = min(bound, int(np.iinfo(wanted.dtype).max) + 1)
    return generator.integers(0, high, wanted.shape, dtype=wanted.dtype)
