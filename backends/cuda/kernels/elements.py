"""Operands of an elementwise end, four neighbouring elements at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Epilogue

from .instructions import Expr

LANES = 4
"""Neighbouring outputs that a thread computes."""

_WIDEST = 16
"""Bytes of the widest load."""


@dataclass(frozen=True)
class Operand:
    """A buffer that an elementwise end reads.

    Attributes:
        buffer: Flat.
        shape: What it broadcasts from.
        dtype: Of its elements.
    """

    buffer: Expr
    shape: tuple[int, ...]
    dtype: str

    @property
    def leading(self) -> bool:
        """Whether it differs between rows."""
        return math.prod(self.shape[:-1]) > 1


@dataclass(frozen=True)
class Element:
    """Stands for an operand: its element at the output's place, or, as a table, the whole of it.

    Attributes:
        shape: The operand's.
        value: The element, loaded before.
        whole: The buffer.
    """

    shape: tuple[int, ...]
    value: Expr
    whole: Expr

    def __getitem__(self, index: Expr) -> Expr:
        """The element (of the place that a tuple means), or that of the table."""
        return self.value if isinstance(index, tuple) else self.whole[index]


@dataclass(frozen=True)
class Shaped:
    """A flat buffer that is indexed by its shape, or, as a table, by its place in memory.

    Attributes:
        shape: Row-major.
        buffer: Flat.
    """

    shape: tuple[int, ...]
    buffer: Expr

    def __getitem__(self, index: Expr) -> Expr:
        """The element of a tuple, broadcast along axes of size 1, or of a table."""
        if not isinstance(index, tuple):
            return self.buffer[index]
        own = index[len(index) - len(self.shape) :]
        place: Expr = T.int32(0)
        for axis, (i, extent) in enumerate(zip(own, self.shape, strict=True)):
            if extent > 1:
                place = place + i * math.prod(self.shape[axis + 1 :])
        return self.buffer[place]


@dataclass(frozen=True)
class Reader:
    """Loads what belongs to four outputs.

    Attributes:
        shape: Of the output.
        column: Of the first of them, within the output.
    """

    shape: tuple[int, ...]
    column: Expr

    def load(self, operand: Operand, row: Expr | None = None) -> Sequence[Expr]:
        """Its elements at the columns, in the row of the flattened leading axes."""
        line = _line(operand.shape, self.shape, row)
        if not operand.shape or operand.shape[-1] == 1:
            found = _local(1, operand.dtype)
            T.buffer_store(found, operand.buffer[line], [0])
            return [found[0]] * LANES
        width, found = operand.shape[-1], _local(LANES, operand.dtype)
        first = T.bind(line * width + self.column)
        lanes = vector_lanes(width, operand.dtype)
        for i in range(0, LANES, lanes):
            if lanes == 1:
                last = T.min(self.column + i, width - 1) - self.column
                T.buffer_store(found, operand.buffer[first + last], [i])
            else:
                value = operand.buffer[T.Ramp(first + i, 1, lanes)]
                T.buffer_store(found, value, [T.Ramp(i, 1, lanes)])
        return [found[i] for i in range(LANES)]


def applied(
    epilogue: Epilogue,
    operands: Sequence[Operand],
    loaded: Mapping[int, Sequence[Expr]],
    accumulators: Iterable[Expr],
    rank: int,
) -> list[Expr]:
    """What neighbouring outputs become.

    Args:
        epilogue: What is done to each.
        operands: Its buffers.
        loaded: Elements of those that it reads by element.
        accumulators: One for each output.
        rank: Of the output.
    """
    values, anywhere = [], (T.int32(0),) * rank  # an index that nobody looks at
    for lane, accumulator in enumerate(accumulators):
        buffers = [
            Element(o.shape, loaded[i][lane] if i in loaded else None, o.buffer)
            for i, o in enumerate(operands)
        ]
        values.append(epilogue.value(accumulator, buffers, anywhere))
    return values


def store_lanes(
    out: Expr, row: Expr, column: Expr, width: int, values: Sequence[Expr], dtype: str
) -> None:
    """Store four neighbours of a row, of those that exist."""
    lanes = vector_lanes(width, dtype)
    if lanes == 1:
        for i, value in enumerate(values):
            with T.If(column + i < width), T.Then():
                T.buffer_store(out, value, [row * width + column + i])
        return
    found = _local(LANES, dtype)
    for i, value in enumerate(values):
        T.buffer_store(found, value, [i])
    for i in range(0, LANES, lanes):
        at = T.Ramp(row * width + column + i, 1, lanes)
        T.buffer_store(out, found[T.Ramp(i, 1, lanes)], [at])


def vector_lanes(width: int, dtype: str) -> int:
    """How many neighbours of rows of that width one instruction moves."""
    if width % LANES or dtype == "bool":
        return 1
    return min(LANES, _WIDEST // np.dtype(dtype).itemsize)


def _local(size: int, dtype: str) -> Expr:
    return T.alloc_buffer((size,), dtype, scope="local", layout=None)


def _line(own: tuple[int, ...], shape: tuple[int, ...], row: Expr | None) -> Expr:
    """Which row of an operand belongs to a row of the output, by numpy's broadcasting."""
    leading, outer = own[:-1], shape[:-1]
    if math.prod(leading) == 1 or row is None:
        return T.int32(0)
    if leading == outer[len(outer) - len(leading) :] and len(leading) == len(outer):
        return row
    total: Expr = T.int32(0)
    for i, extent in enumerate(reversed(leading)):
        if extent == 1:
            continue
        inner = math.prod(outer[len(outer) - i :])
        stride = math.prod(leading[len(leading) - i :])
        total = total + row // inner % outer[len(outer) - 1 - i] * stride
    return total
