"""The model's inputs, and their shapes where the model leaves dimensions open."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from qcompiler.errors import ModelError, ShapeError, UnsupportedError, UsageError
from qcompiler.frontends.onnx_model import declared_dtype
from qcompiler.types import DTYPES, TensorType

LARGEST = 1 << 30  # elements of one input: beyond it a size is taken for damage

_LENGTHS = ("seq", "len", "time", "frame", "token", "height", "width", "audio")
"""In names of dimensions that do not count samples."""

_NO_SIZES = ("", "?", None)  # as exporters write what they do not know; -1 likewise

Dimension = int | str | None  # a size, a symbol, or nothing at all
Shapes = Mapping[str, tuple[Dimension, ...] | None]


@dataclass(frozen=True)
class Open:
    """What a model leaves open of the shapes of its inputs.

    Attributes:
        batch: Input name → the axis that counts samples, of size 1 in its type.
        length: Input name → the axis along which sequences lie, of the length that was given.
    """

    batch: Mapping[str, int]
    length: Mapping[str, int]


def input_types(
    graph: ir.Graph,
    shapes: Mapping[str, Sequence[int]],
    values: Collection[str] = (),
    length: int | None = None,
) -> tuple[list[tuple[ir.Value, TensorType]], Open]:
    """The values that a caller feeds, with static types; a symbol fixed once is fixed everywhere.

    Args:
        graph: Of the model.
        shapes: Input name → shape, where dimensions are open.
        values: Names of inputs that become constants.
        length: Of sequences, for the only dimension that is open besides the number of samples.

    Raises:
        ShapeError: a dimension stays open, or a given shape contradicts the model.
        UsageError: a given name is no input.
        UnsupportedError: an input is no tensor of numbers.
    """
    inputs = [x for x in graph.inputs if x.const_value is None]
    names = [str(x.name) for x in inputs]
    if len(set(names)) != len(names):
        raise ModelError(f"two inputs have one name: {', '.join(names)}")
    for option, found in (("shape", shapes), ("value", values)):
        if unknown := [name for name in found if name not in names]:
            expected = ", ".join(names) or "none"
            raise UsageError(f"--input-{option} {unknown[0]}: no such input; expected {expected}")
    declared = {name: _declared(x) for name, x in zip(names, inputs, strict=True)}
    symbols: dict[str, tuple[int, str]] = {}
    given = {name: _sizes(name, shape) for name, shape in shapes.items()}
    for name, sizes in given.items():
        _bind(name, declared[name], sizes, symbols)
    fixed: dict[str, tuple[Dimension, ...] | None] = {}
    for name, dims in declared.items():
        if name in given or dims is None:
            fixed[name] = given.get(name)
        else:
            fixed[name] = tuple(symbols.get(str(d), (d,))[0] for d in dims)
    batch = _open_batch(fixed)
    alone = _with(fixed, batch, 1)
    lengths = {} if length is None else _open_length(alone)
    static = _static(fixed, alone if length is None else _with(alone, lengths, length))
    fed = ({n: i for n, i in axes.items() if n not in values} for axes in (batch, lengths))
    return [(x, TensorType(_dtype(x), static[str(x.name)])) for x in inputs], Open(*fed)


def _with(shapes: Shapes, axes: Mapping[str, int], size: int) -> Shapes:
    """The shapes with a size along an axis of each."""
    return {
        name: dims and tuple(size if axes.get(name) == i else d for i, d in enumerate(dims))
        for name, dims in shapes.items()
    }


def _open_length(shapes: Shapes) -> dict[str, int]:
    """Input name → its open axis, where all of them are one dimension.

    Raises:
        ShapeError: several are open.
    """
    places = [
        (name, i, d)
        for name, dims in shapes.items()
        for i, d in enumerate(dims or ())
        if not isinstance(d, int)
    ]
    names = [name for name, _, _ in places]
    if len({d for _, _, d in places}) > 1 or len(set(names)) < len(names):
        found = ", ".join(f"{name} {_text(dims or ())}" for name, dims in shapes.items())
        raise ShapeError(
            f"--length: expected one open dimension besides the number of samples, found {found}: "
            "fix the others with --input-shape"
        )
    return {name: axis for name, axis, _ in places}


def _open_batch(shapes: Shapes) -> dict[str, int]:
    """Input name → the axis that counts samples, where the model leaves their number open.

    That is the first dimension of the first input with several, unless its name says otherwise,
    and wherever its symbol stands; without a symbol, every first dimension without one.
    """
    for dims in shapes.values():
        if dims is None or len(dims) < 2 or isinstance(symbol := dims[0], int):
            continue
        if any(word in str(symbol).lower() for word in _LENGTHS):
            return {}
        places = {
            name: [
                i for i, d in enumerate(x or ()) if d == symbol and (symbol is not None or not i)
            ]
            for name, x in shapes.items()
        }
        if any(len(axes) > 1 for axes in places.values()):
            return {}
        return {name: axes[0] for name, axes in places.items() if axes}
    return {}


def constant(name: str, kind: TensorType, given: ArrayLike) -> np.ndarray:
    """The array of an input that is to be constant; one number fills it.

    Raises:
        UsageError: no such numbers fit the input.
    """
    expected = f"--input-value {name}: expected {kind}"
    try:
        array = np.broadcast_to(np.asarray(given), kind.shape)
        with np.errstate(all="ignore"):
            cast = array.astype(kind.dtype)
    except (TypeError, ValueError):
        raise UsageError(f"{expected}, found {_shortened(given)}") from None
    if array.dtype.kind not in "biuf" or not (kind.is_float or (cast == array).all()):
        raise UsageError(f"{expected}, found {_shortened(given)}")
    return cast


def _shortened(given: ArrayLike) -> str:
    return " ".join(str(given).split())[:40]


def _dtype(value: ir.Value) -> str:
    if not isinstance(value.type, ir.TensorType):
        kind = "nothing" if value.type is None else type(value.type).__name__
        raise UnsupportedError(f"input {value.name!r}: expected a tensor, found {kind}")
    dtype = declared_dtype(value.type.dtype)
    if dtype not in DTYPES:
        raise UnsupportedError(f"input {value.name!r}: expected numbers, found {dtype}")
    return dtype


def _declared(value: ir.Value) -> tuple[Dimension, ...] | None:
    _dtype(value)
    if value.shape is None:
        return None
    dims = (d if isinstance(d, int) else d.value for d in value.shape)
    return tuple(None if d in _NO_SIZES or (isinstance(d, int) and d < 0) else d for d in dims)


def _sizes(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(d) for d in shape)
    except TypeError:
        raise UsageError(f"--input-shape {name}: expected whole numbers, found {shape}") from None
    if min(sizes, default=1) < 1:
        raise ShapeError(f"--input-shape {name}:{_text(sizes)}: expected sizes of at least 1")
    return sizes


def _bind(
    name: str,
    dims: tuple[Dimension, ...] | None,
    shape: tuple[int, ...],
    symbols: dict[str, tuple[int, str]],
) -> None:
    given = f"--input-shape {name}:{_text(shape)}"
    if dims is None:
        return
    if len(dims) != len(shape):
        raise ShapeError(f"{given}: expected {len(dims)} dimensions as in {_text(dims)}")
    for dim, size in zip(dims, shape, strict=True):
        if isinstance(dim, int) and dim != size:
            raise ShapeError(f"{given}: the model fixes {_text(dims)}; only symbols can be chosen")
        if not isinstance(dim, str):
            continue
        first, where = symbols.setdefault(dim, (size, name))
        if first != size:
            raise ShapeError(f"{given}: {dim!r} is {first} in input {where!r}")


def _static(declared: Shapes, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes, if nothing is open in them."""
    unfixed = {
        name: declared[name]
        for name, dims in shapes.items()
        if dims is None or not all(isinstance(d, int) for d in dims)
    }
    if unfixed:
        found = "; ".join(
            f"input {name!r} is {'of unknown rank' if dims is None else _text(dims)}"
            for name, dims in unfixed.items()
        )
        advice = " ".join(
            f"--input-shape {name}:{_example(dims)}" for name, dims in unfixed.items()
        )
        raise ShapeError(f"dynamic dimensions: {found}; fix them, for example {advice}")
    static = {name: tuple(int(d or 0) for d in dims or ()) for name, dims in shapes.items()}
    for name, sizes in static.items():
        if min(sizes, default=1) < 1 or math.prod(sizes) > LARGEST:
            raise ShapeError(f"input {name!r} is {_text(sizes)}: expected 1 to 2^30 elements")
    return static


def _text(dims: Sequence[Dimension]) -> str:
    return "x".join("?" if d is None else str(d) for d in dims) or "a scalar"


def _example(dims: Sequence[Dimension] | None) -> str:
    """The shape with the open dimensions filled: a batch of 1, images of 224 × 224."""
    if dims is None:
        return "1x3x224x224"
    spatial = len(dims) == 4
    return "x".join(
        str(d if isinstance(d, int) else 224 if spatial and i >= 2 else 3 if spatial and i else 1)
        for i, d in enumerate(dims)
    )
