"""Which programs a call runs, and on which parts of its arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qcompiler.graph import Input
from qcompiler.metadata import Batch, Metadata, Part

Run = Callable[[int, Sequence[np.ndarray], Sequence[np.ndarray]], None]
"""Runs the program of an index on contiguous inputs, into contiguous outputs."""


def expected(metadata: Metadata, arrays: Mapping[str, Any]) -> dict[str, Input]:
    """What a call is to feed: as many samples, and sequences as long, as the first input says."""
    types = {v.name: v.type for v in metadata.inputs}
    shapes = [getattr(arrays.get(name), "shape", None) for name in types]
    batch, lengths = metadata.batch, metadata.lengths
    samples = None if batch is None else batch.samples([arrays.get(name) for name in types])
    length = None if lengths is None else _size(shapes, lengths.inputs)
    for i, (name, kind) in enumerate(tuple(types.items())):
        if batch is not None and samples is not None:
            kind = batch.resized(kind, batch.inputs[i], samples)
        if lengths is not None and length is not None and (axis := lengths.inputs[i]) is not None:
            longest = min(length, lengths.capacities[-1])
            kind = kind.with_shape((*kind.shape[:axis], longest, *kind.shape[axis + 1 :]))
        types[name] = kind
    return {name: Input(kind, name=name) for name, kind in types.items()}


def _size(shapes: Sequence[Any], axes: Sequence[int | None]) -> int | None:
    """What the first array that has such an axis is along it."""
    for shape, axis in zip(shapes, axes, strict=True):
        if axis is not None:
            return int(shape[axis]) if shape is not None and axis < len(shape) else None
    return None


def in_parts(metadata: Metadata, inputs: Sequence[np.ndarray], run: Run) -> list[np.ndarray]:
    """Run what a call needs; arrays are copied only where they do not lie as a program wants them.

    Args:
        metadata: Of the library.
        inputs: What is fed, checked, on the host.
        run: On the device.

    Returns:
        The outputs, new arrays.
    """
    lengths = metadata.lengths
    if lengths is None:
        return _in_parts(metadata, 0, inputs, run)
    length = _size([x.shape for x in inputs], lengths.inputs)
    assert length is not None
    group = next(i for i, capacity in enumerate(lengths.capacities) if capacity >= length)
    more = lengths.capacities[group] - length
    padded = [longer(x, axis, more) for x, axis in zip(inputs, lengths.inputs, strict=True)]
    results = _in_parts(metadata, group, padded, run)
    return [
        y if axis is None else y[(slice(None),) * axis + (slice(length),)]
        for y, axis in zip(results, lengths.outputs, strict=True)
    ]


def longer(x: np.ndarray, axis: int | None, more: int) -> np.ndarray:
    """An array with zeros behind it along an axis."""
    if axis is None or not more:
        return x
    return np.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)])


def _in_parts(
    metadata: Metadata, group: int, inputs: Sequence[np.ndarray], run: Run
) -> list[np.ndarray]:
    """Run programs of one length of sequences."""
    batch = metadata.batch
    if batch is None:
        values = metadata.programs[group].outputs
        results = [np.empty(v.type.shape, v.type.dtype) for v in values]
        run(group, [np.ascontiguousarray(x) for x in inputs], results)
        return results
    samples = batch.samples(inputs)
    assert samples is not None
    first = group * len(batch.sizes)
    ends = zip(metadata.programs[first].outputs, batch.outputs, strict=True)
    kinds = [batch.resized(v.type, axis, samples) for v, axis in ends]
    results = [np.zeros(kind.shape, kind.dtype) for kind in kinds]
    for part in batch.parts(samples):
        own = dataclasses.replace(part, program=first + part.program)
        _run_part(metadata, batch, own, samples, inputs, results, run)
    return results


def _run_part(
    metadata: Metadata,
    batch: Batch,
    part: Part,
    samples: int,
    inputs: Sequence[np.ndarray],
    results: Sequence[np.ndarray],
    run: Run,
) -> None:
    program = metadata.programs[part.program]
    size = batch.sizes[part.program % len(batch.sizes)]
    fed = []
    for x, value, axis in zip(inputs, program.inputs, batch.inputs, strict=True):
        own = _some(x, axis, samples, part.first, part.count)
        if own.shape != value.type.shape:  # too few samples for any program
            filled = np.zeros(value.type.shape, own.dtype)
            _some(filled, axis, size, 0, part.count)[...] = own
            own = filled
        fed.append(np.ascontiguousarray(own))
    places = [
        _some(y, axis, samples, part.first, part.count)
        for y, axis in zip(results, batch.outputs, strict=True)
    ]
    written = [
        place
        if place.shape == v.type.shape and place.flags.c_contiguous
        else np.empty(v.type.shape, v.type.dtype)
        for place, v in zip(places, program.outputs, strict=True)
    ]
    run(part.program, fed, written)
    for place, y, axis in zip(places, written, batch.outputs, strict=True):
        if y is not place:
            place[...] = _some(y, axis, size, 0, part.count)


def _some(x: np.ndarray, axis: int | None, samples: int, first: int, count: int) -> np.ndarray:
    """A view of some of the samples of an array."""
    if axis is None:
        return x
    each = x.shape[axis] // samples
    return x[(slice(None),) * axis + (slice(first * each, (first + count) * each),)]
