"""Calibration data from whatever the user has: one feed for each run of the model."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompiler.calibrate import script
from qcompiler.calibrate.columns import ArrayColumn, Column, file_column, headers
from qcompiler.calibrate.feeds import (
    Feed,
    Input,
    as_array,
    batched,
    model_inputs,
    rows_of,
    runs_of,
    select,
    too_few,
)
from qcompiler.calibrate.images import ImageOptions, image_column
from qcompiler.calibrate.spool import Spool
from qcompiler.errors import CalibrationError, FileError, UsageError


@dataclass(frozen=True)
class SampleOptions:
    """Which samples of a source are used, and how images are preprocessed.

    Attributes:
        num_samples: At most so many samples; None takes all.
        seed: Take a random choice of `num_samples`, in the stored order, instead of the first ones;
            only for stored data (files, folders, arrays).
        image: For folders of images.
    """

    num_samples: int | None = None
    seed: int | None = None
    image: ImageOptions = field(default_factory=ImageOptions)

    def __post_init__(self) -> None:
        if self.num_samples is not None and self.num_samples < 1:
            raise CalibrationError(f"{self.num_samples} samples asked for: give at least 1")


class Samples:
    """Feeds for a model; each iteration reads the source anew, a batch at a time.

    Attributes:
        runs: How many feeds there will be, or None where only the end of the source tells.
    """

    def __init__(self, walk: Callable[[], Iterator[Feed]], runs: int | None = None) -> None:
        """`walk` starts a new iteration."""
        self.runs = runs
        self._walk = walk

    def __iter__(self) -> Iterator[Feed]:
        return self._walk()

    def __length_hint__(self) -> int:
        return self.runs or 0


def samples(
    source: Any,
    inputs: Mapping[str, tuple[str, tuple[int, ...]]],
    *,
    options: SampleOptions | None = None,
) -> Samples:
    """Feeds in exactly the model's input shapes and dtypes, read lazily.

    Sources: an .npz file (arrays by input name; others are ignored; for a model of one input also
    `x` or the only array), an .npy file, a folder of images, `script.py:function`, a dict of
    arrays, one array, an iterable of dicts, tuples (in input order) or arrays, or a callable that
    returns any of these.  Arrays hold samples along their first dimension, which is cut into the
    model's batches, or are one sample without that dimension, stacked to batches; a remainder
    smaller than a batch is dropped.  Integers and other float widths are cast to a float input,
    except uint8, which is most likely an image without its preprocessing.  Pickles are refused.

    Args:
        source: See above.
        inputs: By input name: dtype name and shape; the first dimension is the batch.
        options: Which samples to use.

    Returns:
        An iterable that can be walked several times; an iterator is kept in a temporary file.

    Raises:
        CalibrationError: Data do not fit the inputs, hold NaN or infinity, or are fewer than one
            batch; a script fails. For streams while iterating.
        FileError: A file is missing, damaged or of an unknown kind.
        UsageError: A seed for a source that is not stored data.
    """
    return _open(source, model_inputs(inputs), options or SampleOptions())


def _open(source: Any, inputs: Sequence[Input], options: SampleOptions) -> Samples:
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source), inputs, options)
    if isinstance(source, Mapping):
        arrays = select(source, inputs, "calibration dict")
        columns = [_memory(arrays[i.name], i, "calibration dict") for i in inputs]
        return _stored(columns, inputs, options, "calibration dict")
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        origin = "calibration array"
        array = select({"array": source}, inputs, origin)[inputs[0].name]
        return _stored([_memory(array, inputs[0], origin)], inputs, options, origin)
    if isinstance(source, Iterable):
        _refuse_seed(options)
        if isinstance(source, Iterator):
            return Samples(Spool(_batches(source, inputs, options)).__iter__)
        return Samples(lambda: _batches(source, inputs, options))
    if callable(source):
        return _called(source, inputs, options)
    raise CalibrationError(
        f"calibration data is {type(source).__name__}, expected a path, a dict of arrays, an "
        "array, an iterable of samples or a callable that returns one"
    )


def _open_path(name: str, inputs: Sequence[Input], options: SampleOptions) -> Samples:
    scripted = re.fullmatch(r"(.*\.py):(\w+)", name)
    if scripted:
        path = Path(scripted[1])
        return _called(script.load(path, scripted[2]), inputs, options, path)
    path = Path(name)
    if path.is_dir():
        return _stored([image_column(path, inputs, options.image)], inputs, options, name)
    if not path.exists():
        raise FileError(f"no calibration data at {path}: give an existing file or folder")
    if path.suffix.lower() not in (".npz", ".npy"):
        raise FileError(
            f"calibration data {path} is of an unknown kind: expected .npz, .npy, a folder of "
            "images or script.py:function"
        )
    found = select(headers(path), inputs, name)
    columns = [file_column(path, found[i.name], i, name) for i in inputs]
    return _stored(columns, inputs, options, name)


def _memory(array: Any, wanted: Input, origin: str) -> Column:
    array = as_array(array, wanted.name, origin)
    wanted.check_dtype(array.dtype, origin)
    return ArrayColumn(array.reshape(wanted.rows_shape(array.shape, origin)), wanted, origin)


def _stored(
    columns: Sequence[Column], inputs: Sequence[Input], options: SampleOptions, origin: str
) -> Samples:
    lengths = {i.name: c.length for i, c in zip(inputs, columns, strict=True)}
    available = runs_of(lengths, inputs, origin)
    if available == 0:
        raise too_few(columns[0].length, inputs[0], origin)
    runs = min(available, _limit(options, inputs) or available)
    rows = _chosen_rows(runs, inputs, lengths, options)

    def walk() -> Iterator[Feed]:
        streams = [
            column.batches(np.split(rows[: runs * i.batch], runs))
            for i, column in zip(inputs, columns, strict=True)
        ]
        for batches in zip(*streams, strict=True):
            yield {i.name: b.reshape(i.shape) for i, b in zip(inputs, batches, strict=True)}

    return Samples(walk, runs)


def _chosen_rows(
    runs: int, inputs: Sequence[Input], lengths: Mapping[str, int], options: SampleOptions
) -> NDArray[np.intp]:
    batches = {i.batch for i in inputs}
    if options.seed is None:
        return np.arange(runs * max(batches))
    if len(batches) > 1:
        raise UsageError(
            "a seed needs inputs of one batch size, the model's differ: leave the seed out"
        )
    wanted = inputs[0]
    generator = np.random.default_rng(options.seed)
    return np.sort(generator.choice(lengths[wanted.name], runs * wanted.batch, replace=False))


def _batches(
    items: Iterable[Any],
    inputs: Sequence[Input],
    options: SampleOptions,
    origin: str = "calibration data",
) -> Iterator[Feed]:
    rows = (rows_of(item, inputs, origin) for item in items)
    return islice(batched(rows, inputs, origin), _limit(options, inputs))


def _called(
    function: Callable[[], Any],
    inputs: Sequence[Input],
    options: SampleOptions,
    path: Path | None = None,
) -> Samples:
    _refuse_seed(options)

    def walk() -> Iterator[Feed]:
        with nullcontext() if path is None else script.blamed(path):
            result = function()
        if not isinstance(result, Iterable) or (
            isinstance(result, (str, Mapping)) or hasattr(result, "__array__")
        ):
            yield from _open(result, inputs, options)
        elif path is None:  # an iterator needs no spool: the next walk gets another one
            yield from _batches(result, inputs, options)
        else:
            yield from _batches(script.blaming(result, path), inputs, options, str(path))

    return Samples(walk)


def _limit(options: SampleOptions, inputs: Sequence[Input]) -> int | None:
    """How many runs the samples asked for make."""
    if options.num_samples is None:
        return None
    batch = max(i.batch for i in inputs)
    if options.num_samples < batch:
        raise CalibrationError(
            f"{options.num_samples} samples asked for, less than the model's batch of {batch}: "
            "ask for more, or use a model of a smaller batch"
        )
    return options.num_samples // batch


def _refuse_seed(options: SampleOptions) -> None:
    if options.seed is not None:
        raise UsageError(
            "a seed chooses among stored samples, but the calibration data are a stream: "
            "leave the seed out, or store them as npz"
        )
