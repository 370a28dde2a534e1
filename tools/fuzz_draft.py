"""A graph that grows: a pool of values that nodes are added to, one at a time.

Each node is run by an independent runtime as soon as it is drawn, so that every value's shape and
range is known to the next one, and a node that the runtime refuses never enters the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from fuzz_runtime import RejectedError, build, run
from onnx import helper

SIZES = (1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 16)
LARGEST = 4096  # elements of one value
DTYPES = ("float32", "int64", "int32", "uint8", "int8", "bool")


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its arrays in every sample; one array where it is known."""

    name: str
    arrays: tuple[np.ndarray, ...]
    known: bool = False

    @property
    def first(self) -> np.ndarray:
        """Its array in the first sample."""
        return self.arrays[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The same in every sample."""
        return self.first.shape

    @property
    def low(self) -> float:
        """The least element of all samples."""
        return min((float(x.min()) for x in self.arrays if x.size), default=0.0)

    @property
    def high(self) -> float:
        """The greatest element of all samples."""
        return max((float(x.max()) for x in self.arrays if x.size), default=0.0)


@dataclass
class Draft:
    """A graph that grows; operands are drawn from what is there, or made."""

    rng: np.random.Generator
    opset: int
    samples: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)

    # Choices

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def pick(self, choices: Sequence[Any]) -> Any:
        """One of them."""
        return choices[int(self.rng.integers(len(choices)))]

    def integer(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def shape(self, rank: int | None = None, *, empty: bool = True) -> tuple[int, ...]:
        """A random shape, now and then with an axis of size 0."""
        if rank is None:
            rank = self.pick((0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6))
        sizes = [self.pick(SIZES) for _ in range(rank)]
        while np.prod(sizes) > LARGEST // 8:
            sizes[int(np.argmax(sizes))] //= 2
        if rank and empty and self.chance(0.01):
            sizes[self.integer(0, rank - 1)] = 0
        return tuple(sizes)

    def axis(self, rank: int, since: int = 11) -> int:
        """An axis; from some opset on also counted from the back."""
        if not rank:
            raise RejectedError("draft: no axes")
        axis = self.integer(0, rank - 1)
        return axis - rank if self.opset >= since and self.chance(0.4) else axis

    # Values

    def add(self, prefix: str, arrays: Sequence[np.ndarray], known: bool = False) -> Value:
        """A new value under a name of its own."""
        value = Value(f"{prefix}{len(self.values)}", tuple(arrays), known)
        self.values[value.name] = value
        return value

    def input(self, draw: Callable[[], np.ndarray]) -> Value:
        """A new input of the model."""
        value = self.add("x", [np.asarray(draw()) for _ in range(self.samples)])
        self.inputs.append(value.name)
        return value

    def const(self, array: Any, dtype: Any = None) -> Value:
        """A new initializer."""
        return self.add("c", [np.array(array, dtype)], known=True)

    def floats(self, shape: tuple[int, ...], *, known: bool = False, low: float = -np.inf) -> Value:
        """A new input or initializer of normal floats; with a bound, of floats above it."""
        scale = self.pick((1, 1, 1, 0.1, 5))

        def draw() -> np.ndarray:
            x = self.rng.standard_normal(shape) * scale
            return np.asarray(x if low == -np.inf else low + np.abs(x), np.float32)

        if not known:
            return self.input(draw)
        array = draw()
        if self.chance(0.1):
            array = np.full_like(array, self.pick((0, 1, -1, 0.5, 1e-6, 100)))
            array = np.maximum(array, max(low, -1e9)).astype(np.float32)
        return self.const(array)

    def real(
        self,
        accept: Callable[[Value], bool] = lambda v: True,
        *,
        rank: int | None = None,
        shape: tuple[int, ...] | None = None,
        known: float = 0.0,
        low: float = -np.inf,
    ) -> Value:
        """A float operand: mostly a value that is there, else a constant or a new input."""
        fits = [
            v
            for v in self.values.values()
            if v.first.dtype == np.float32
            and not v.known
            and (rank is None or v.first.ndim == rank)
            and (shape is None or v.shape == shape)
            and v.low > low
            and accept(v)
        ]
        if self.chance(known):
            return self.floats(self.shape(rank) if shape is None else shape, known=True, low=low)
        if fits and self.chance(0.85):
            return fits[-1] if self.chance(0.5) else self.pick(fits)
        if shape is None and rank is not None and self.nodes and self.chance(0.5):
            return self.reshaped(rank, low)
        for _ in range(20):
            found = self.floats(self.shape(rank) if shape is None else shape, low=low)
            if accept(found):
                return found
            self.inputs.remove(found.name)
            del self.values[found.name]
        raise RejectedError("draft: no operand fits")

    def reshaped(self, rank: int, low: float) -> Value:
        """A value that is there, in a shape of another rank."""
        x = self.real(lambda v: v.low > low)
        rest, sizes = x.first.size, []
        for _ in range(rank - 1):
            divisors = [d for d in range(1, min(rest, 16) + 1) if rest % d == 0] or [rest]
            sizes.append(self.pick(divisors))
            rest //= max(sizes[-1], 1)
        sizes.append(rest)
        if not rank or np.prod(sizes) != x.first.size:
            raise RejectedError("draft: no such shape")
        return self.emit("Reshape", [x, self.const(sizes, np.int64)])[0]

    def integers(
        self,
        shape: tuple[int, ...],
        low: int,
        high: int,
        dtype: type = np.int64,
        known: float = 0.3,
    ) -> Value:
        """Whole numbers, both ends included: a constant or an input."""

        def draw() -> np.ndarray:
            return np.asarray(self.rng.integers(low, high + 1, shape)).astype(dtype)

        return self.const(draw()) if self.chance(known) else self.input(draw)

    def condition(self, shape: tuple[int, ...]) -> Value:
        """Booleans of a shape: a value that is there, a constant or an input."""
        fits = [v for v in self.values.values() if v.first.dtype == bool and v.shape == shape]
        if fits and self.chance(0.7):
            return self.pick(fits)

        def draw() -> np.ndarray:
            return np.asarray(self.rng.random(shape) < 0.5)

        return self.const(draw()) if self.chance(0.2) else self.input(draw)

    def broadcastable(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that goes with another one: fewer axes, some of size 1, or [1,1,…]."""
        kind = self.integer(0, 5)
        if kind == 0:
            return shape
        if kind == 1:
            return ()
        if kind == 2:
            return (1,) * self.integer(0, max(len(shape), 1))
        if kind == 3:  # per channel
            return tuple(d if i == 1 else 1 for i, d in enumerate(shape))
        kept = shape[self.integer(0, len(shape)) :]
        return tuple(1 if self.chance(0.3) else d for d in kept)

    def partner(self, x: Value, *, low: float = -np.inf, known: float = 0.4) -> Value:
        """A float operand that broadcasts with another one, which may be that one itself."""
        if self.chance(0.05) and x.low > low:
            return x
        if self.chance(known):
            return self.floats(self.broadcastable(x.shape), known=True, low=low)

        def fits(v: Value) -> bool:
            pairs = zip(reversed(v.shape), reversed(x.shape), strict=False)
            sizes = max(v.first.size, 1) * max(x.first.size, 1)
            return sizes <= LARGEST * 4 and all(1 in p or p[0] == p[1] for p in pairs)

        if self.chance(0.7):
            return self.real(fits, low=low)
        return self.floats(self.broadcastable(x.shape), low=low)

    # Nodes

    def emit(
        self, op_type: str, operands: Sequence[Value | None], outputs: int = 1, **attributes: Any
    ) -> list[Value]:
        """Add a node; operators of other domains are called `domain.Operator`.

        Raises:
            RejectedError: the runtime refuses it, or its values are too large or no numbers.
        """
        domain, _, name = op_type.rpartition(".")
        names = ["" if x is None else x.name for x in operands]
        results = [f"v{len(self.values)}_{i}" for i in range(outputs)]
        node = helper.make_node(
            name, names, results, name=f"n{len(self.nodes)}", domain=domain, **attributes
        )
        present = {x.name: x for x in operands if x is not None}
        known = {name: x.first for name, x in present.items() if x.known}
        varying = {name: x.first for name, x in present.items() if not x.known}
        model = build([node], varying, known, dict.fromkeys(results), self.opset)
        feeds = [{name: present[name].arrays[i] for name in varying} for i in range(self.samples)]
        runs = run(model, feeds)
        for results_of_one in runs:
            for y, first in zip(results_of_one, runs[0], strict=True):
                if y.size > LARGEST:
                    raise RejectedError("draft: too large")
                if y.dtype.kind == "f" and not (np.abs(y) < 1e6).all():
                    raise RejectedError("draft: not finite")
                if y.shape != first.shape or str(y.dtype) not in DTYPES:
                    raise RejectedError("draft: another type")
        self.nodes.append(node)
        for i, name in enumerate(results):
            self.values[name] = Value(name, tuple(np.asarray(r[i]) for r in runs), not varying)
        return [self.values[name] for name in results]

    def listed(
        self, values: Sequence[int], since: int, attribute: str
    ) -> tuple[list[Value | None], dict[str, Any]]:
        """Integers as an operand from some opset on, before as an attribute."""
        if self.opset < since:
            return [], {attribute: list(values)}
        return [self.const(values, np.int64)], {}


Generator = Callable[[Draft, str], object]
GENERATORS: dict[str, Generator] = {}


def generates(*operators: str) -> Callable[[Generator], Generator]:
    """Register what adds a node of these operators to a draft."""

    def register(function: Generator) -> Generator:
        GENERATORS.update(dict.fromkeys(operators, function))
        return function

    return register
