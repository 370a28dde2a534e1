"""The architectures of `coverage.py`: declared in `coverage_architectures.yaml`, and their inputs.

Importing this module needs neither torch nor transformers; `coverage_build` makes the modules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

LIST = Path(__file__).with_name("coverage_architectures.yaml")
Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Tensor:
    """One input of a model: how its random samples are drawn.

    Attributes:
        shape: Of a sample, batch included.
        kind: `normal` (images and video: over a smooth background), `uniform` in 0 to 1, `ids`
            below 128, `idsN` below N, `mask` (ones, then zeros from a random length on) or `boxes`
            (rising integers below 128).
    """

    shape: tuple[int, ...]
    kind: str = "normal"

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """One random array: float32, or int64 for ids, masks and boxes."""
        if self.kind == "mask":
            length = rng.integers(self.shape[-1] // 2, self.shape[-1] + 1)
            return np.broadcast_to(np.arange(self.shape[-1]) < length, self.shape).astype(np.int64)
        if self.kind == "boxes":
            return np.sort(rng.integers(0, 128, self.shape), axis=-1)
        if match := re.fullmatch(r"ids(\d*)", self.kind):
            high = int(match[1] or 128)
            return rng.integers(3 if high > 8 else 0, high, self.shape)  # 0 to 2 are special
        if self.kind == "uniform":
            return rng.random(self.shape, np.float32)
        x = rng.standard_normal(self.shape, np.float32)
        if len(self.shape) < 4:
            return x
        h, w = self.shape[-2:]  # white noise alone makes all images alike
        coarse = rng.standard_normal((*self.shape[:-2], math.ceil(h / 8), math.ceil(w / 8)))
        smooth = np.repeat(np.repeat(coarse, 8, -2), 8, -1)[..., :h, :w]
        return np.asarray(0.7 * x + smooth, np.float32)


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        name: Of the row.
        group: What the model is for.
        model: Class of `transformers`, or of `coverage_nets`.
        inputs: ONNX input name, which is the module's argument, → how it is drawn.
        outputs: Fields of the module's result that become outputs; none: it returns tensors.
        config: What the configuration differs in.
        fixed: Further arguments of the call.
        fixed_ones: Arguments that are tensors of ones, by shape.
    """

    name: str
    group: str
    model: str
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    config: Mapping[str, Any]
    fixed: Mapping[str, Any]
    fixed_ones: Mapping[str, Sequence[int]]

    @property
    def file(self) -> str:
        """Name of its exported file."""
        return re.sub(r"\W+", "_", self.name.lower()) + ".onnx"

    def sample(self, seed: int) -> Feed:
        """Random inputs; equal for equal seeds."""
        rng = np.random.default_rng(seed)
        return {name: x.sample(rng) for name, x in self.inputs.items()}


def architectures() -> list[Architecture]:
    """All of the list, in its order."""
    groups = yaml.safe_load(LIST.read_text())
    del groups["shared"]
    return [
        _declared(name, group, fields) for group in groups for name, fields in groups[group].items()
    ]


def _declared(name: str, group: str, fields: Mapping[str, Any]) -> Architecture:
    given = dict(fields)
    inputs = {}
    for key, text in given.pop("inputs").items():
        kind, shape = text.split()
        inputs[key] = Tensor(tuple(map(int, shape.split("x"))), kind)
    return Architecture(
        name,
        group,
        given.pop("model"),
        inputs,
        tuple(given.pop("outputs", "").split()),
        fixed=given.pop("fixed", {}),
        fixed_ones=given.pop("fixed_ones", {}),
        config=given,
    )
