"""Statistics of intermediate values of a float ONNX model, run by ONNX Runtime."""

import ctypes
import gc
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import length_hint
from typing import Protocol

import numpy as np
import onnx

from qcompiler.backends.onnx import runner
from qcompiler.calibrate.feeds import Feed
from qcompiler.calibrate.progress import progress
from qcompiler.calibrate.spool import Spool
from qcompiler.calibrate.statistics import Statistics
from qcompiler.errors import CalibrationError, UnsupportedError

LARGE = 1 << 26
"""Bytes of weights that memory is handed back for."""


@dataclass(frozen=True)
class CollectOptions:
    """How statistics are collected.

    Attributes:
        bins: Bins of each histogram, a power of two; 0 keeps extremes only.
        momentum: Of the moving averages of the extremes.
        chunk_bytes: Values of one feed held at once, in bytes; more values than fit are computed in
            several passes over the feeds.
        threads: Of ONNX Runtime; None takes the cores that this process may use.
        progress: A progress bar on stderr if that is a terminal, else one line; False is silent.
    """

    bins: int = 4096
    momentum: float = 0.9
    chunk_bytes: int = 1 << 28
    threads: int | None = None
    progress: bool = True


def collect(
    model: onnx.ModelProto,
    values: Sequence[str],
    feeds: Iterable[Feed],
    *,
    axes: Mapping[str, int] | None = None,
    labels: Mapping[str, str] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    options: CollectOptions | None = None,
) -> dict[str, Statistics]:
    """Run a model on the feeds and keep statistics of the named values.

    Args:
        model: Float model under 2 GB; it is not modified.
        values: Names of graph inputs and node outputs of the main graph; duplicates count once.
        feeds: Inputs by name for each run, of shapes and dtypes that the model takes.
        axes: Channel axis by value name, for those that also need extremes per channel.
        labels: What errors call a value, where its name says nothing to a user.
        weights: Initializers by name whose data the model says to be external.
        options: Memory, threads, histogram, progress.

    Returns:
        The statistics by value name, in the order of `values`.

    Raises:
        CalibrationError: No feeds, a name that the model does not compute, or a value that is NaN,
            infinite or no tensor.
        ModelError: ONNX Runtime cannot run the model on the feeds.
        UnsupportedError: The model is over 2 GB.
    """
    chosen = options or CollectOptions()
    _check_names(model, axes or {})
    statistics = {
        name: Statistics(
            (labels or {}).get(name, name),
            bins=chosen.bins,
            momentum=chosen.momentum,
            axis=(axes or {}).get(name),
        )
        for name in values
    }
    accumulate(model, statistics, feeds, chosen, weights)
    return statistics


class Accumulator(Protocol):
    """What is kept of a value."""

    def update(self, values: np.ndarray) -> None:
        """Take one more array into account."""


def accumulate(
    model: onnx.ModelProto,
    accumulators: Mapping[str, Accumulator],
    feeds: Iterable[Feed],
    options: CollectOptions,
    weights: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Run a model on the feeds and hand each named value to its accumulator.

    Args:
        model: Model under 2 GB; it is not modified.
        accumulators: By name of a graph input or node output of the main graph.
        feeds: Inputs by name for each run, of shapes and dtypes that the model takes.
        options: Memory, threads, progress.
        weights: Initializers by name whose data the model says to be external.

    Raises:
        CalibrationError, ModelError, UnsupportedError: see `collect`.
    """
    if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise UnsupportedError("the model is over 2 GB: expected its weights beside it")
    _check_names(model, accumulators)
    if isinstance(feeds, Iterator):
        feeds = Spool(feeds)
    first = _first(feeds)
    given = [name for name in accumulators if name in first]
    computed = [name for name in accumulators if name not in first]
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    groups = _groups(computed, _sizes(probed, first), options.chunk_bytes)
    total = length_hint(feeds) * len(groups) or None
    with progress(f"calibrating {len(accumulators)} values", total, options.progress) as tick:
        for number, group in enumerate(groups):
            run = None
            if group:
                del probed.graph.output[:]
                probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in group)
                run = runner(probed, weights or {}, threads=options.threads, prepacked=False)
            for feed in feeds:
                for name in given if number == 0 else ():
                    accumulators[name].update(feed[name])
                if run is not None:
                    for name, array in zip(group, run(feed), strict=True):
                        accumulators[name].update(array)
                tick()
            del run
            if sum(array.nbytes for array in (weights or {}).values()) > LARGE:
                _return_memory()


def _return_memory() -> None:
    """Hand what a session has freed back to the system: glibc would keep it."""
    gc.collect()  # of the model, whose graph is cyclic and refers to weights
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _groups(names: Iterable[str], sizes: Mapping[str, int], budget: int) -> list[list[str]]:
    """Consecutive names whose values fit the budget together; at least one group, maybe empty."""
    unknown = max(sizes.values(), default=0)
    groups: list[list[str]] = [[]]
    used = 0
    for name in names:
        size = sizes.get(name, unknown)
        if groups[-1] and used + size > budget:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups


def _sizes(probed: onnx.ModelProto, feed: Feed) -> dict[str, int]:
    """Bytes of each value that shape inference knows, for inputs of the feed's shapes."""
    declared = onnx.GraphProto(input=probed.graph.input)
    del probed.graph.value_info[:]
    for value in probed.graph.input:
        if value.name in feed:
            shape = value.type.tensor_type.shape
            shape.CopyFrom(onnx.TensorShapeProto())
            for size in feed[value.name].shape:
                shape.dim.add(dim_value=size)
    inferred = onnx.shape_inference.infer_shapes(probed).graph
    del probed.graph.input[:]
    probed.graph.input.extend(declared.input)
    sizes = {}
    for value in chain(inferred.value_info, inferred.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            sizes[value.name] = 4 * math.prod(dim.dim_value for dim in kind.shape.dim)
    return sizes


def _first(feeds: Iterable[Feed]) -> Feed:
    first = next(iter(feeds), None)
    if first is None:
        raise CalibrationError("there are no calibration samples: give at least one batch")
    return first


def _check_names(model: onnx.ModelProto, names: Iterable[str]) -> None:
    constants = {tensor.name for tensor in model.graph.initializer}
    known = {value.name for value in model.graph.input} - constants
    known.update(name for node in model.graph.node for name in node.output if name)
    for name in names:
        if name not in known:
            found = "an initializer" if name in constants else "not in the main graph"
            raise CalibrationError(
                f"value '{name}' is {found}, expected a graph input or a node's output: "
                "calibrate values that the model computes"
            )
