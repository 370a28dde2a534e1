"""The same network for several samples at once.

The new graph computes of every sample, bit for bit, what the old one computes of it alone: as in
JAX's `vmap`, each op is given one more axis.  Where a value has an axis of size 1 that the samples
can take, they take it, so that the result is the graph that a larger batch would have been imported
as; else they get an axis of their own in front of the others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qcompiler.errors import TypingError, UnsupportedError, UsageError
from qcompiler.graph import Constant, Graph, Input, Op, fold, origin, rebuilt
from qcompiler.ops import (
    Add,
    And,
    ArgMax,
    ArgMin,
    AveragePool,
    BatchNormalization,
    Clip,
    Composite,
    Concat,
    Conv,
    ConvInteger,
    Elementwise,
    Expand,
    Gather,
    GreaterEqual,
    Lookup,
    MatMul,
    MatMulInteger,
    MaxPool,
    Pad,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceSum,
    Reshape,
    Scatter,
    ScatterReduce,
    Select,
    Slice,
    Softmax,
    TopK,
    Transpose,
    scalar,
)
from qcompiler.types import Quantization

Shape = tuple[int, ...]

FRONT = -1
"""The samples' axis is none of the value's own: it lies in front of them."""

IMAGES = (Conv, ConvInteger, AveragePool, MaxPool, BatchNormalization)
"""What takes images one behind the other along axis 0, and in no other way."""

SHIFTED = (
    ArgMax, ArgMin, Composite, Concat, Elementwise, MatMul, MatMulInteger, ReduceMax, ReduceMean,
    ReduceMin, ReduceSum, Softmax, TopK,
)  # fmt: skip
"""What does the same with one more axis in front, once its attributes count it."""


def sample_axes(graph: Graph) -> Mapping[str, int]:
    """Input name → the axis that counts samples, of size 1 in the graph.

    It is the one that the model leaves open; else the first axis, or the second of three (states
    of recurrent networks).  Inputs without one are the same for all samples.

    Raises:
        UnsupportedError: no input has such an axis.
    """
    if graph.open_batch:
        return graph.open_batch
    shapes = {str(x.name): x.type.shape for x in graph.inputs}
    found = {name: 0 for name, shape in shapes.items() if shape[:1] == (1,)}
    found |= {n: 1 for n, s in shapes.items() if n not in found and len(s) == 3 and s[1] == 1}
    if not found:
        inputs = ", ".join(f"{x.name} {x.type}" for x in graph.inputs) or "none"
        raise UnsupportedError(
            f"--batch: expected an input for 1 sample, found {inputs}: export the model for a "
            "batch of 1, or an open one"
        )
    return found


def rebatched(graph: Graph, samples: int) -> Graph:
    """The graph for several samples at once.

    Args:
        graph: For one sample, in any language, before kernels are chosen.
        samples: How many, at least 1.

    Returns:
        Inputs and outputs have the samples along the axes of `sample_axes` and `output_axes`.

    Raises:
        UnsupportedError: an op or output cannot have one more axis; it is named.
        UsageError: less than one sample.
    """
    if samples < 1:
        raise UsageError(f"--batch: expected at least 1 sample, found {samples}")
    return _Rebatch(graph, samples).result()


def output_axes(graph: Graph) -> Mapping[str, int | None]:
    """Output name → the axis along which samples lie behind one another; None where all share it.

    Raises:
        UnsupportedError: as `rebatched`.
    """
    found = _Rebatch(graph, 1)
    found.result()
    places = {name: found.places[y] for name, y in graph.outputs.items()}
    return {name: 0 if place == FRONT else place for name, place in places.items()}


class _OwnAxisError(Exception):
    """The samples cannot stay along an axis of the value."""


class _Rebatch:
    """Finds the axis of the samples in every value, and builds the values anew."""

    def __init__(self, graph: Graph, samples: int) -> None:
        axes = sample_axes(graph)
        self.graph = graph
        self.count = samples
        self.places: dict[Op, int | None] = {x: axes.get(str(x.name)) for x in graph.inputs}
        self.env: dict[Op, Op] = {}

    def result(self) -> Graph:
        """The new graph."""
        for node in self.graph.ops:
            with origin(node.sources):
                self.env[node] = self.built(node)
        inputs = tuple(x for x in self.env.values() if isinstance(x, Input))
        outputs = {name: self.output(name, y) for name, y in self.graph.outputs.items()}
        return dataclasses.replace(self.graph, inputs=inputs, outputs=outputs)

    def output(self, name: str, y: Op) -> Op:
        """What the caller gets: samples along an axis that the model's output has."""
        if self.places[y] != FRONT:
            return self.env[y]
        if not (shape := y.type.shape):
            raise UnsupportedError(
                f"output {name!r}: expected an axis along which samples can lie, found a scalar: "
                "leave --batch out, or export the model with a batch"
            )
        return Reshape(self.env[y], (self.count * shape[0], *shape[1:]), name=y.name)

    def built(self, node: Op) -> Op:
        """The value of all samples; `places` gets its axis."""
        if isinstance(node, Input):
            kind = dataclasses.replace(node.type, shape=self.shape(node))
            return node if kind == node.type else dataclasses.replace(node, tensor_type=kind)
        places = [self.places[x] for x in node.operands]
        if all(place is None for place in places):
            self.places[node] = None
            return rebuilt(node, [self.env[x] for x in node.operands])
        try:
            if FRONT in places:
                raise _OwnAxisError
            self.places[node] = self.place(node, places)
            return self.along_axis(node)
        except _OwnAxisError:
            try:
                new = self.in_front(node)
            except TypingError:  # such as a table for each sample
                raise self.refusal(node) from None
        self.places[node] = 0 if node.type.shape[:1] == (1,) else FRONT
        if self.places[node] == 0:
            new = Reshape(new, self.shape(node))
        return dataclasses.replace(new, name=node.name)

    def shape(self, node: Op) -> Shape:
        """Of the value of all samples."""
        shape, place = node.type.shape, self.places[node]
        if place is None:
            return shape
        return _put(shape, place, self.count) if place != FRONT else (self.count, *shape)

    # -- samples along an axis of size 1 ---------------------------------------------------------

    def along_axis(self, node: Op) -> Op:
        """The op on operands of which some have samples along their axes."""
        place, shape = self.places[node], self.shape(node)
        assert place is not None
        operands = [self.env[x] for x in node.operands]
        match node:
            case Reshape() | Expand():
                return node.with_operands(operands, shape=shape)
            case Slice(_, _, stops, steps):
                whole = {"stops": _put(stops, place, self.count), "steps": _put(steps, place, 1)}
                return node.with_operands(operands, **whole)
            case Concat(parts):
                own = [self.places[x] for x in parts]
                repeated = [
                    new
                    if axis is not None
                    else Expand(new, _put(new.type.shape, place, self.count))
                    for new, axis in zip(operands, own, strict=True)
                ]
                return node.with_operands(_folded(x) for x in repeated)
        return node.with_operands(operands)

    def place(self, node: Op, places: Sequence[int | None]) -> int | None:
        """The axis of the result that counts samples, if one of its own can.

        Raises:
            _OwnAxisError: none can.
        """
        if all(place is None for place in places):
            return None
        if isinstance(node, Composite):
            env = dict(zip(node.operands, places, strict=True))
            return fold([node.expansion], env, self.place)[node.expansion]
        match node:
            case MatMul() | MatMulInteger():
                a, b = node.operands[:2]
                if places[0] == a.type.rank - 2 and places[1] is None:
                    return node.type.rank - 2
                if any(
                    place is not None and place >= x.type.rank - 2
                    for x, place in zip((a, b), places, strict=False)
                ):
                    raise _OwnAxisError
                return _broadcast(node, (a, b), places[:2])
            case Lookup():
                if places[1] is not None:
                    raise _OwnAxisError
                return places[0]
            case Elementwise():
                return _broadcast(node, node.operands, places)
            case Softmax(axis=axis):
                return _apart(_broadcast(node, node.operands, places), axis)
            case Concat(parts, axis):
                return _apart(_broadcast(node, parts, places), axis)
        x, *others = places
        if x is None or any(place is not None for place in others):
            raise _OwnAxisError
        return self.of_one(node, x)

    def of_one(self, node: Op, x: int) -> int:
        """The same for an op of which only the first operand has samples."""
        match node:
            case Reshape(operand, shape):
                behind = math.prod(operand.type.shape[x + 1 :])
                for axis in (x, *range(len(shape))):
                    if shape[axis : axis + 1] == (1,) and math.prod(shape[axis + 1 :]) == behind:
                        return axis
                raise _OwnAxisError
            case Transpose(permutation=permutation):
                return permutation.index(x)
            case Expand(operand, shape):
                axis = x + len(shape) - operand.type.rank
                return _apart(axis, *(i for i, size in enumerate(shape) if size != 1))
            case Slice():
                return x if node.type.shape[x] else _apart(x, x)
            case Pad(_, before, after):
                return _apart(
                    x, *(i for i, pads in enumerate(zip(before, after, strict=True)) if any(pads))
                )
            case Conv() | ConvInteger() | AveragePool() | MaxPool() | BatchNormalization():
                return _apart(x, 1, 2, 3)
            case ReduceSum(axes=axes) | ReduceMean(axes=axes) | ReduceMax(axes=axes):
                return _apart(x, *axes)
            case ReduceMin(axes=axes):
                return _apart(x, *axes)
            case ArgMax(axis=axis) | ArgMin(axis=axis) | TopK(axis=axis):
                return _apart(x, axis)
            case Gather(_, indices, axis):
                return _apart(x, axis) + (indices.type.rank - 1 if x > axis else 0)
        raise _OwnAxisError

    # -- samples in front ------------------------------------------------------------------------

    def in_front(self, node: Op) -> Op:
        """The op with one more axis: a value [count, …]."""
        operands = [self.fronted(x, node) for x in node.operands]
        places = [self.places[x] is not None for x in node.operands]
        count, shape = self.count, node.type.shape
        match node:
            case Reshape():
                return Reshape(operands[0], (count, *shape))
            case Expand(x):
                padded = (count, *(1,) * (len(shape) - x.type.rank), *x.type.shape)
                return Expand(Reshape(operands[0], padded), (count, *shape))
            case Transpose(_, permutation):
                return Transpose(operands[0], (0, *(i + 1 for i in permutation)))
            case Slice(_, starts, stops, steps):
                return Slice(operands[0], (0, *starts), (count, *stops), (1, *steps))
            case Pad(_, before, after, value):
                return Pad(operands[0], (0, *before), (0, *after), value)
            case Gather():
                return self.gathered(node, operands, places)
            case Scatter() | ScatterReduce():
                return self.scattered(node, operands)
        if isinstance(node, IMAGES):
            if any(places[1:]):
                raise self.refusal(node)
            sizes = operands[0].type.shape
            images = Reshape(operands[0], (sizes[0] * sizes[1], *sizes[2:]))
            return Reshape(node.with_operands([images, *operands[1:]]), (count, *shape))
        if isinstance(node, Concat):
            parts = [
                x if placed else Expand(Reshape(x, (1, *x.type.shape)), (count, *x.type.shape))
                for x, placed in zip(operands, places, strict=True)
            ]
            operands = [_folded(x) for x in parts]
        elif not isinstance(node, SHIFTED) or (
            isinstance(node, (MatMul, MatMulInteger)) and any(places[2:])
        ):
            raise self.refusal(node)
        return node.with_operands(operands, **_shifted(node))

    def fronted(self, x: Op, user: Op) -> Op:
        """An operand with its samples in front; one that broadcasts has as many axes as others."""
        new, place, shape = self.env[x], self.places[x], x.type.shape
        if place is None:
            return new
        if place != FRONT:
            axes = range(len(shape))
            if any(size != 1 for size in shape[:place]):
                new = Transpose(new, (place, *(i for i in axes if i != place)))
            new = Reshape(new, (self.count, *shape))
        broadcasts = isinstance(user, (Elementwise, Composite, Softmax, MatMul, MatMulInteger))
        missing = user.type.rank - len(shape)
        if broadcasts and missing > 0:
            new = Reshape(new, (self.count, *(1,) * missing, *shape))
        return new

    def gathered(self, node: Gather, operands: Sequence[Op], places: Sequence[bool]) -> Op:
        table, indices = operands
        axis = node.axis
        if places == [True, False]:
            return Gather(table, indices, axis + 1)
        if places == [False, True]:
            found = Gather(table, indices, axis)
            order = range(node.type.rank + 1)
            return Transpose(found, (axis, *(i for i in order if i != axis))) if axis else found
        if axis:
            raise self.refusal(node)
        rows, *rest = node.table.type.shape
        starts = rows * np.arange(self.count, dtype=indices.type.dtype)
        starts = starts.reshape([-1] + [1] * node.indices.type.rank)
        kept = Add(Clip(indices, 0, rows - 1), Constant(starts))
        return Gather(Reshape(table, (self.count * rows, *rest)), kept)

    def scattered(self, node: Scatter | ScatterReduce, operands: Sequence[Op]) -> Op:
        data, indices, updates = (
            _folded(Expand(Reshape(new, (1, *x.type.shape)), (self.count, *x.type.shape)))
            if self.places[x] is None
            else new
            for x, new in zip(node.operands, operands, strict=True)
        )
        rows, *rest = node.data.type.shape
        starts = Constant(rows * np.arange(self.count, dtype=np.int64)[:, None])
        inside = And(
            GreaterEqual(indices, scalar(0, "int64")),
            GreaterEqual(scalar(rows - 1, "int64"), indices),
        )
        nowhere = scalar(self.count * rows, "int64")
        places = Select(inside, Add(indices, starts), nowhere)
        written = node.with_operands(
            [
                Reshape(data, (self.count * rows, *rest)),
                Reshape(places, (places.type.size,)),
                Reshape(updates, (places.type.size, *rest)),
            ]
        )
        return Reshape(written, (self.count, rows, *rest))

    def refusal(self, node: Op) -> UnsupportedError:
        return UnsupportedError(f"{node.label()}: not known for several samples: leave --batch out")


def _broadcast(node: Op, operands: Sequence[Op], places: Sequence[int | None]) -> int:
    """The axis that counts samples where operands broadcast.

    Raises:
        _OwnAxisError: there are several, or another operand is longer along it.
    """
    rank = node.type.rank
    found = {
        place + rank - x.type.rank
        for x, place in zip(operands, places, strict=True)
        if place is not None
    }
    if len(found) != 1 or node.type.shape[min(found)] != 1:
        raise _OwnAxisError
    return found.pop()


def _apart(place: int, *axes: int) -> int:
    """The axis of the samples, which is none of those.

    Raises:
        _OwnAxisError: it is.
    """
    if place in axes:
        raise _OwnAxisError
    return place


def _shifted(node: Op) -> dict[str, Any]:
    """The attributes that count axes, with one more axis in front."""
    changes: dict[str, Any] = {}
    for name, value in node.attributes.items():
        if name == "axis":
            changes[name] = value + 1
        elif name == "axes":
            changes[name] = tuple(axis + 1 for axis in value)
        elif isinstance(value, Quantization) and value.axis is not None:
            changes[name] = dataclasses.replace(value, axis=value.axis + 1)
    return changes


def _folded(x: Op) -> Op:
    """A constant moved at once."""
    if isinstance(x, (Expand, Reshape)) and isinstance(inner := _folded(x.x), Constant):
        return dataclasses.replace(inner, array=x.numpy(inner.array), tensor_type=x.type)
    return x


def _put(values: Shape, axis: int, value: int) -> Shape:
    return (*values[:axis], value, *values[axis + 1 :])
