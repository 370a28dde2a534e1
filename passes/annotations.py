"""What a model that is quantized already says of its values: which codes, and so which ranges."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qcompiler.errors import TypingError
from qcompiler.fixed_point import quantize
from qcompiler.graph import Constant, Graph, Op, fold, rebuilt
from qcompiler.ops import (
    Add,
    AveragePool,
    Clip,
    Codes,
    Conv,
    FakeQuantize,
    Map,
    MatMul,
    Mul,
    Pad,
    ReduceMean,
    Relu,
    Softmax,
    Sub,
)
from qcompiler.types import Quantization, Storage, TensorType

Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Annotated:
    """A real graph without the annotations of its values, and what they said.

    A value that is used in one quantization alone has that quantization itself; where it is used
    otherwise as well, a `FakeQuantize` of it stays.

    Attributes:
        graph: The graph.
        kept: Value → its codes' meaning.
        names: Value → the name of the value that it was.
    """

    graph: Graph
    kept: Mapping[Op, Quantization]
    names: Mapping[Op, str]

    @cached_property
    def ranges(self) -> Mapping[Op, Range]:
        """Ranges that follow from annotations; empty where there are none."""
        return self._propagated(_follows)

    @cached_property
    def bounds(self) -> Mapping[Op, Range]:
        """Ranges, and bounds that few values come near."""
        return self._propagated(lambda node, known: _follows(node, known) or _bound(node, known))

    def _propagated(
        self, follows: Callable[[Op, Mapping[Op, Range]], Range | None]
    ) -> dict[Op, Range]:
        found: dict[Op, Range] = {}
        for node in reversed(self.graph.ops) if self.kept else ():
            wanted = [q for u in self.graph.users[node] if (q := self.kept.get(u)) is not None]
            only = all(isinstance(u, FakeQuantize) for u in self.graph.users[node])
            if self.before_clamp(node) is not None or (wanted and only):
                lows, highs = zip(*map(_range, wanted), strict=True)
                found[node] = min(lows), max(highs)  # beyond, all users saturate
        for node in self.graph.ops if self.kept else ():
            if not node.type.is_float:
                continue
            if (q := self.kept.get(node)) is not None:
                found[node] = _range(q)
            elif (known := follows(node, found)) is not None and np.isfinite(known).all():
                found[node] = known
        return found

    def before_clamp(self, node: Op) -> Quantization | None:
        """The codes of a value behind a clamp, which do for the value itself: it may saturate."""
        user = self.graph.only_user(node)
        return self.kept.get(user) if isinstance(user, (Relu, Clip)) else None


def annotated(graph: Graph) -> Annotated:
    """Take the annotations off a graph."""
    chosen = {x: q for x in graph.ops if (q := _only_quantization(x, graph)) is not None}
    kept: dict[Op, Quantization] = {}
    names: dict[Op, str] = {}
    weights: dict[tuple[Op, Quantization], Op] = {}

    def visit(node: Op, operands: list[Op]) -> Op:
        match node:
            case FakeQuantize(Constant() as c, q):
                new = weights.setdefault((c, q), dataclasses.replace(c))
                kept[new] = q
            case FakeQuantize(x, q) if chosen.get(x) == q:
                return operands[0]
            case FakeQuantize(_, q):
                new = rebuilt(node, operands)
                kept[new] = q
            case Codes(x, q) if chosen.get(x) != q:
                value = FakeQuantize(operands[0], q, name=node.name, sources=node.sources)
                kept[value] = q
                names[value] = graph.names[node]
                new = dataclasses.replace(node, x=value)
            case _:
                new = rebuilt(node, operands)
        if node in chosen:
            kept[new] = chosen[node]
        names.setdefault(new, graph.names[node])
        return new

    env: dict[Op, Op] = {}
    fold(graph.ops, env, visit)
    return Annotated(graph.with_outputs(env), kept, names)


def unrounded(graph: Graph) -> Graph:
    """The network as it would be without any rounding to codes."""
    return graph.rewrite(lambda node: node.x if isinstance(node, FakeQuantize) else None)


def _only_quantization(x: Op, graph: Graph) -> Quantization | None:
    """The one quantization that all users of a value want it in; None if they do not."""
    users = graph.users[x]
    if isinstance(x, (Constant, FakeQuantize)) or graph.is_output(x) or not users:
        return None
    wanted = {
        u.quantization if isinstance(u, FakeQuantize) else u.meaning
        for u in users
        if isinstance(u, (FakeQuantize, Codes))
    }
    alone = all(isinstance(u, (FakeQuantize, Codes)) for u in users)
    return wanted.pop() if alone and len(wanted) == 1 else None


def _range(q: Quantization) -> Range:
    scales, zeros = np.array(q.scale), np.array(q.zero_point)
    low, high = (scales * (v - zeros) for v in (q.bounds.low, q.bounds.high))
    return float(low.min()), float(high.max())


def _follows(node: Op, known: Mapping[Op, Range]) -> Range | None:
    """The range of a value from those of its operands, where that is not much wider than needed."""
    if isinstance(node, Constant):
        return float(node.array.min(initial=0)), float(node.array.max(initial=0))
    if isinstance(node, Softmax):
        return 0.0, 1.0
    values = [x for x in node.operands if x.type.is_float]
    if not values or any(x not in known for x in values):
        return None
    lows, highs = zip(*(known[x] for x in values), strict=True)
    match node:
        case Pad(value=value):
            return min(*lows, value), max(*highs, value)
        case Relu():
            return max(lows[0], 0.0), max(highs[0], 0.0)
        case Clip(low=low, high=high):
            ends = np.clip((lows[0], highs[0]), low, high)
            return float(ends[0]), float(ends[1])
        case Add():
            return sum(lows), sum(highs)
        case Sub():
            return lows[0] - highs[1], highs[0] - lows[1]
        case AveragePool():
            return lows[0], highs[0]
        case Map() if node.type.is_float:
            reals = node.at(np.linspace(lows[0], highs[0], 1023, dtype=np.float32))
            tame = np.abs(reals).max() <= 4 * max(-lows[0], highs[0], 1.0)  # false for NaN
            return (float(reals.min(initial=0)), float(reals.max(initial=0))) if tame else None
    return (min(lows), max(highs)) if node.moves else None


def _bound(node: Op, known: Mapping[Op, Range]) -> Range | None:
    """A bound that few values come near: each term of a sum at its own bound."""
    match node:
        case ReduceMean(x) if x in known:
            return known[x]
        case Mul(a, b) if a in known and b in known:
            ends = np.outer(known[a], known[b])
            return float(ends.min()), float(ends.max())
        case Conv(x, Constant(array=w), bias) if x in known:
            axes: tuple[int, ...] = (1, 2, 3)
        case MatMul(x, Constant(array=w), bias) if x in known:
            axes = (w.ndim - 2,)
        case _:
            return None
    if not isinstance(bias, Constant | None):
        return None
    low, high = min(known[x][0], 0.0), max(known[x][1], 0.0)  # padding is 0
    up, down = np.maximum(w, 0).sum(axes, np.float64), np.minimum(w, 0).sum(axes, np.float64)
    term = 0.0 if bias is None else bias.array
    lows, highs = low * up + high * down + term, high * up + low * down + term
    return float(lows.min(initial=0)), float(highs.max(initial=0))


def signed(q: Quantization) -> Quantization:
    """The same codes as signed integers, moved by half their number."""
    if q.bounds.signed:
        return q
    half = 1 << q.bounds.bits - 1
    zero_points = tuple(z - half for z in q.zero_point)
    return dataclasses.replace(q, storage=q.storage[1:], zero_point=zero_points)


def weight_codes(array: np.ndarray, q: Quantization) -> tuple[np.ndarray, Quantization]:
    """Known weights as int8 codes of the same reals, with zero points 0 where that is possible.

    Args:
        array: The reals, which are reals of `q` to within rounding.
        q: At most 8 bits.
    """
    rank, bounds = array.ndim, Storage("int8")
    steps = quantize(array, q).astype(np.int64) - q.zero_points(rank)
    others = tuple(i for i in range(rank) if i != q.axis)
    lowest = bounds.low - np.atleast_1d(steps.min(axis=others, initial=0))
    highest = bounds.high - np.atleast_1d(steps.max(axis=others, initial=0))
    moved = np.clip(0, lowest, highest)
    new = dataclasses.replace(q, storage="int8", zero_point=tuple(int(z) for z in moved))
    return (steps + new.zero_points(rank)).astype(np.int8), new


def place_annotation(node: Op) -> Op | None:
    """Known values that are to be kept in codes: only weights of products, moved into place.

    What else is known stays a constant: sums, bounds and factors take it as a real number.
    """
    match node:
        case FakeQuantize(FakeQuantize(_, inner) as x, outer) if inner == outer:
            return x
        case FakeQuantize():
            return None
    found: list[Op] = [
        x for x in node.operands if isinstance(x, FakeQuantize) and isinstance(x.x, Constant)
    ]
    if not found:
        return None
    if found == list(node.operands) == list(node.fields(node.moves)) and len(found) == 1:
        return _moved(node, found[0])
    weights: tuple[Op, ...] = ()
    match node:
        case Conv(_, weight):
            weights = (weight,)
        case MatMul(a, b):
            weights = (a, b)
    settled = {x: x.operands[0] for x in found if x not in weights}
    return node.with_operands(settled.get(x, x) for x in node.operands) if settled else None


def _moved(node: Op, annotation: Op) -> Op:
    """move(fake_quantize(c)) → fake_quantize(move(c)), if the scales stay on an axis."""
    assert isinstance(annotation, FakeQuantize)
    assert isinstance(annotation.x, Constant)
    constant, q = annotation.x, annotation.quantization
    moved = Constant(np.array(node.numpy(constant.array), copy=True), name=constant.name)
    codes = quantize(constant.array, q)
    kind = TensorType(str(codes.dtype), codes.shape, q)
    try:
        meaning = node.with_operands((Constant(codes, kind),)).type.quantization
    except TypingError:
        return moved
    return moved if meaning is None else FakeQuantize(moved, meaning)
