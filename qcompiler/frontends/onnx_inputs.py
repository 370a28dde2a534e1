"""The model's inputs, and their shapes where the model leaves dimensions open."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from qcompiler.errors import ModelError, ShapeError, UnsupportedError, UsageError
from qcompiler.frontends.onnx_model import declared_dtype
from qcompiler.types import DTYPES, TensorType

LARGEST = 1 << 30  # elements of one input: beyond it a size is taken for damage

Dimension = int | str | None  # a size, a symbol, or nothing at all


def input_types(
    graph: ir.Graph, shapes: Mapping[str, Sequence[int]]
) -> list[tuple[ir.Value, TensorType]]:
    """The values that a caller feeds, with static types; a symbol fixed once is fixed everywhere.

    Raises:
        ShapeError: a dimension stays open, or a given shape contradicts the model.
        UsageError: a given name is no input.
        UnsupportedError: an input is no tensor of numbers.
    """
    values = [x for x in graph.inputs if x.const_value is None]
    names = [str(x.name) for x in values]
    if len(set(names)) != len(names):
        raise ModelError(f"two inputs have one name: {', '.join(names)}")
    if unknown := [name for name in shapes if name not in names]:
        raise UsageError(
            f"--input-shape {unknown[0]}: no such input; expected {', '.join(names) or 'none'}"
        )
    declared = {name: _declared(x) for name, x in zip(names, values, strict=True)}
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
    static = _static(fixed)
    return [(x, TensorType(_dtype(x), static[str(x.name)])) for x in values]


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
    return tuple(d if isinstance(d, int) else (d.value or None) for d in value.shape)


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


def _static(shapes: Mapping[str, tuple[Dimension, ...] | None]) -> dict[str, tuple[int, ...]]:
    unfixed = {
        name: dims
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
