"""Examples: graphs, and what may be fed to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qcompiler.graph import Constant, Graph, Input, Op, toposort
from qcompiler.types import FLOAT, Quantization, TensorType


@dataclass(frozen=True)
class Values:
    """What an input may hold: low…high, and `special` values that some elements take."""

    low: float
    high: float
    special: tuple[float, ...] = ()

    def random(self, rng: np.random.Generator, type: TensorType) -> np.ndarray:
        """Random elements; bounds and special values at random places."""
        if type.is_float:
            array = rng.uniform(self.low, self.high, type.shape).astype(type.dtype)
        else:
            array = rng.integers(
                int(self.low), int(self.high), type.shape, np.int64, endpoint=True
            ).astype(type.dtype)
        special = (self.low, self.high, *self.special)
        places = rng.permutation(array.size)[: len(special)]
        array.reshape(-1)[places] = np.array(special[: array.size], type.dtype)
        return array

    def constant(self, type: TensorType, high: bool) -> np.ndarray:
        """One of the bounds everywhere."""
        return np.full(type.shape, self.high if high else self.low, type.dtype)


@dataclass(frozen=True)
class Example:
    """A graph with what to feed to it.

    Attributes:
        name: Unique among the examples.
        graph: With outputs of any language.
        values: What each input may hold, in the order of the inputs.
    """

    name: str
    graph: Graph
    values: tuple[Values, ...]

    def feeds(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Random feeds, extreme values among them."""
        pairs = zip(self.graph.inputs, self.values, strict=True)
        return {str(x.name): v.random(rng, x.type) for x, v in pairs}

    def corners(self) -> Iterator[dict[str, np.ndarray]]:
        """Feeds in which every input holds one of its bounds everywhere."""
        for bounds in itertools.product((False, True), repeat=min(len(self.values), 3)):
            bounds = (*bounds, *[False] * (len(self.values) - len(bounds)))
            triples = zip(self.graph.inputs, self.values, bounds, strict=True)
            yield {str(x.name): v.constant(x.type, b) for x, v, b in triples}

    @property
    def op(self) -> Op:
        """The op of which this is an example."""
        (node,) = self.graph.outputs.values()
        return node


_values: dict[Op, Values] = {}
_count = itertools.count()


def given(
    dtype: str,
    *shape: int,
    low: float | None = None,
    high: float | None = None,
    special: tuple[float, ...] = (),
    quantization: Quantization | None = None,
) -> Input:
    """An input, and what it may hold: by default every code of its type, or −4…4."""
    type = TensorType(dtype, shape, quantization)
    least, most = -4.0, 4.0
    if type.is_integer:
        info = np.iinfo(dtype)
        least, most = int(info.min), int(info.max)
    if quantization is not None:
        least, most = quantization.bounds.low, quantization.bounds.high
    if dtype == "bool":
        least, most = 0, 1
    x = Input(type, name=f"x{next(_count)}")
    _values[x] = Values(least if low is None else low, most if high is None else high, special)
    return x


def codes(storage: str, *shape: int, scale: float = 0.1, zero: int = 0) -> Input:
    """An input of codes that have a meaning."""
    q = Quantization.per_tensor(storage, scale, zero)
    return given(q.bounds.dtype, *shape, quantization=q)


def f32(*shape: int, low: float = -4.0, high: float = 4.0) -> Input:
    """A float32 input."""
    return given(FLOAT, *shape, low=low, high=high)


def example(name: str, node: Op) -> Example:
    """The example of one op on inputs that `given` made."""
    inputs = tuple(x for x in toposort([node]) if isinstance(x, Input))
    return Example(name, Graph(inputs, {"y": node}, name), tuple(_values[x] for x in inputs))


def constant(dtype: str, *shape: int, seed: int = 0, quantization: bool = False) -> Constant:
    """Random numbers of all sizes; for integers the extremes are among them."""
    rng = np.random.default_rng(seed)
    if dtype == FLOAT:
        return Constant(rng.standard_normal(shape).astype(FLOAT))
    info = np.iinfo(dtype)
    array = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    array.reshape(-1)[:2] = (info.min, info.max)[: array.size]
    scales = rng.uniform(0.01, 0.1, shape[-1])
    q = Quantization.per_channel(dtype, scales, len(shape) - 1) if quantization else None
    return Constant(array, TensorType(dtype, shape, q))
