"""Which programs a call runs, and on which parts of its arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qcompiler.graph import Input
from qcompiler.metadata import Batch, Metadata, Part

Run = Callable[[int, Sequence[np.ndarray], Sequence[np.ndarray]], None]
"""Runs the program of an index on contiguous inputs, into contiguous outputs."""


def expected(metadata: Metadata, arrays: Mapping[str, Any]) -> dict[str, Input]:
    """What a call is to feed: as many samples as the first input that counts them has."""
    types = {v.name: v.type for v in metadata.inputs}
    batch = metadata.batch
    samples = None if batch is None else batch.samples([arrays.get(name) for name in types])
    if batch is not None and samples is not None:
        for (name, kind), axis in zip(tuple(types.items()), batch.inputs, strict=True):
            types[name] = batch.resized(kind, axis, samples)
    return {name: Input(kind, name=name) for name, kind in types.items()}


def in_parts(metadata: Metadata, inputs: Sequence[np.ndarray], run: Run) -> list[np.ndarray]:
    """Run what a call needs; arrays are copied only where they do not lie as a program wants them.

    Args:
        metadata: Of the library.
        inputs: What is fed, checked, on the host.
        run: On the device.

    Returns:
        The outputs, new arrays.
    """
    batch = metadata.batch
    if batch is None:
        results = [np.empty(v.type.shape, v.type.dtype) for v in metadata.outputs]
        run(0, [np.ascontiguousarray(x) for x in inputs], results)
        return results
    samples = batch.samples(inputs)
    assert samples is not None
    ends = zip(metadata.outputs, batch.outputs, strict=True)
    kinds = [batch.resized(v.type, axis, samples) for v, axis in ends]
    results = [np.zeros(kind.shape, kind.dtype) for kind in kinds]
    for part in batch.parts(samples):
        _run_part(metadata, batch, part, samples, inputs, results, run)
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
    program, size = metadata.programs[part.program], batch.sizes[part.program]
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
