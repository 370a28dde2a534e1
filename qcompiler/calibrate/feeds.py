"""What a model's inputs accept: shapes, dtypes and finite values, and the cut into batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes  # noqa: F401  # teaches numpy the name bfloat16
import numpy as np
from numpy.typing import NDArray

from qcompiler.errors import CalibrationError, UnsupportedError

Feed = dict[str, NDArray]
"""One run's inputs by name, in exactly the model's shapes and dtypes."""

_DTYPES = (
    *("float16", "bfloat16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)


@dataclass(frozen=True)
class Input:
    """One input of the model; the first dimension is the batch.

    Attributes:
        name: Its name.
        dtype: What it holds.
        shape: Its dimensions, all known.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def batch(self) -> int:
        """Samples per run; a scalar input takes one."""
        return self.shape[0] if self.shape else 1

    @property
    def sample(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.shape[1:]

    @property
    def kind(self) -> str:
        """See `kind_of`."""
        return kind_of(self.dtype)

    def rows_shape(self, shape: tuple[int, ...], origin: str) -> tuple[int, ...]:
        """`shape` with a leading sample dimension, which a single sample may lack.

        Raises:
            CalibrationError: Neither samples nor one sample of this input have that shape.
        """
        if len(shape) == len(self.sample) + 1 and shape[1:] == self.sample:
            return shape
        if shape == self.sample:
            return (1, *shape)
        expected = ", ".join(["N", *map(str, self.sample)])
        raise CalibrationError(
            f"{origin}: array for input '{self.name}' has shape {list(shape)}, expected "
            f"[{expected}]: resize or reorder its dimensions"
        )

    def check_dtype(self, dtype: np.dtype, origin: str) -> None:
        """Refuse what only a guess could turn into this input's dtype.

        Raises:
            CalibrationError: Pixels for a float input, or a cast that does not keep the values.
        """
        if dtype == self.dtype:
            return
        if dtype == np.uint8 and self.kind == "f":
            raise CalibrationError(
                f"{origin}: array for input '{self.name}' is uint8, expected {self.dtype}: store "
                "it preprocessed the way the model was trained (scaled, mean and std applied), or "
                "give a directory of images with mean and std"
            )
        accepted = {"f": "fiu", "i": "iu", "u": "iu"}.get(self.kind, "")
        if kind_of(dtype) in accepted:
            return
        remedy = "it needs pickle, which is refused" if dtype.hasobject else "convert it"
        raise CalibrationError(
            f"{origin}: array for input '{self.name}' is {dtype}, expected {self.dtype}: {remedy}"
        )

    def cast(self, rows: NDArray, origin: str) -> NDArray:
        """`rows` in this input's dtype; the values are finite and, for integers, unchanged.

        Raises:
            CalibrationError: A NaN, an infinity or an integer out of range.
        """
        self.check_dtype(rows.dtype, origin)
        with np.errstate(over="ignore"):
            result = rows.astype(self.dtype, copy=False)
        if self.kind == "f" and not np.all(np.isfinite(result)):
            raise CalibrationError(
                f"{origin}: array for input '{self.name}' holds NaN, infinity or values beyond "
                f"{self.dtype}: remove those samples"
            )
        if self.dtype.kind in "iu" and not np.array_equal(result, rows):
            raise CalibrationError(
                f"{origin}: array for input '{self.name}' holds values beyond {self.dtype}: "
                "check that it belongs to this input"
            )
        return result


def kind_of(dtype: np.dtype) -> str:
    """numpy's letter for a kind of numbers; bfloat16, for which it has none, is a float."""
    return "f" if dtype == "bfloat16" else dtype.kind


def model_inputs(inputs: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[Input, ...]:
    """The inputs given as name → (dtype name, shape).

    Raises:
        UnsupportedError: A dtype that is no number or boolean of numpy's.
        CalibrationError: The model has no inputs, or one has an empty dimension.
    """
    if not inputs:
        raise CalibrationError("the model has no inputs: there is nothing to calibrate with")
    result = []
    for name, (dtype, shape) in inputs.items():
        if dtype not in _DTYPES:
            raise UnsupportedError(
                f"input '{name}' is {dtype}, expected one of {', '.join(_DTYPES)}: change the "
                "model's input"
            )
        result.append(Input(name, np.dtype(dtype), tuple(shape)))
        if any(size < 1 for size in shape):
            raise CalibrationError(
                f"input '{name}' has shape {list(shape)}: fix every dimension to at least 1"
            )
    return tuple(result)


def select(found: Mapping[str, Any], inputs: Sequence[Input], origin: str) -> dict[str, Any]:
    """The entries that belong to the inputs; others, such as labels, are left out.

    A model of one input also takes an entry called `x`, or the only one whatever its name.

    Raises:
        CalibrationError: An input has no entry.
    """
    missing = [i.name for i in inputs if i.name not in found]
    if not missing:
        return {i.name: found[i.name] for i in inputs}
    if len(inputs) == 1 and "x" in found:
        return {inputs[0].name: found["x"]}
    if len(inputs) == 1 and len(found) == 1:
        return {inputs[0].name: next(iter(found.values()))}
    raise CalibrationError(
        f"{origin}: no array for input {_names(missing)}; the model's inputs are "
        f"{_names(i.name for i in inputs)}, found {_names(found)}: name the arrays like the inputs"
    )


def rows_of(item: Any, inputs: Sequence[Input], origin: str) -> Feed:
    """One item of a stream (a dict, a tuple in input order, an array) as rows of samples.

    Raises:
        CalibrationError: The item does not fit the inputs.
    """
    if isinstance(item, Mapping):
        named = select(item, inputs, origin)
    elif isinstance(item, (tuple, list)):
        if len(item) != len(inputs):
            raise CalibrationError(
                f"{origin}: an item has {len(item)} arrays, expected {len(inputs)}, one for each "
                f"of {_names(i.name for i in inputs)}: leave out labels and the like"
            )
        named = dict(zip((i.name for i in inputs), item, strict=True))
    elif len(inputs) == 1:
        named = {inputs[0].name: item}
    else:
        raise CalibrationError(
            f"{origin}: an item is one array but the model's inputs are "
            f"{_names(i.name for i in inputs)}: give dicts by input name"
        )
    rows = {}
    for wanted in inputs:
        array = as_array(named[wanted.name], wanted.name, origin)
        wanted.check_dtype(array.dtype, origin)
        array = array.reshape(wanted.rows_shape(array.shape, origin))
        rows[wanted.name] = wanted.cast(array, origin)
    return rows


def as_array(value: Any, name: str, origin: str) -> NDArray:
    """`value` as a numpy array, from whatever converts to one.

    Raises:
        CalibrationError: It does not convert.
    """
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CalibrationError(
            f"{origin}: the entry for input '{name}' is no array "
            f"({type(value).__name__}: {str(error).splitlines()[0]}): convert it to numpy"
        ) from error


def runs_of(rows: Mapping[str, int], inputs: Sequence[Input], origin: str) -> int:
    """How many full batches so many rows by input name make; a smaller remainder is dropped.

    Raises:
        CalibrationError: The inputs do not have the same number of batches.
    """
    first = inputs[0]
    for other in inputs:
        if rows[first.name] * other.batch != rows[other.name] * first.batch:
            raise CalibrationError(
                f"{origin}: {rows[first.name]} samples for input '{first.name}' but "
                f"{rows[other.name]} for '{other.name}': give as many of each"
            )
    return rows[first.name] // first.batch


def batched(items: Iterable[Feed], inputs: Sequence[Input], origin: str) -> Iterator[Feed]:
    """Join and cut rows of samples into the model's batches; a remainder is dropped.

    Raises:
        CalibrationError: There is no row at all, or not one full batch.
    """
    pending: Feed = {}
    ran = False
    for rows in items:
        runs_of({name: len(array) for name, array in rows.items()}, inputs, origin)
        if pending:
            rows = {name: np.concatenate([pending[name], rows[name]]) for name in rows}
        runs = runs_of({name: len(array) for name, array in rows.items()}, inputs, origin)
        for run in range(runs):
            ran = True
            yield {i.name: cut(rows[i.name], i, run) for i in inputs}
        pending = {i.name: rows[i.name][runs * i.batch :] for i in inputs}
    if not ran:
        raise too_few(len(pending[inputs[0].name]) if pending else 0, inputs[0], origin)


def cut(rows: NDArray, wanted: Input, run: int) -> NDArray:
    """Batch number `run` of the rows, in exactly the input's shape."""
    return rows[run * wanted.batch : (run + 1) * wanted.batch].reshape(wanted.shape)


def too_few(samples: int, wanted: Input, origin: str) -> CalibrationError:
    """The error for data that make no batch."""
    if samples == 0:
        return CalibrationError(f"{origin}: no samples at all: give at least {wanted.batch}")
    return CalibrationError(
        f"{origin}: {samples} samples are less than one batch of {wanted.batch}: give more "
        "samples, or a model of a smaller batch"
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
