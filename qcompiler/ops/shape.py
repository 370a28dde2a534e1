"""Moving elements about, on any dtype; codes keep their quantization."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from qcompiler.graph import Op, op
from qcompiler.interval import Interval
from qcompiler.types import TensorType


@op
class Movement(Op):
    """An op whose elements are elements of its first operand."""

    x: Op

    moves: ClassVar[tuple[str, ...]] = ("x",)

    def per_tensor(self) -> None:
        """Refuse codes whose scale differs along an axis."""
        q = self.x.type.quantization
        self.expect(q is None or q.axis is None, "one scale per tensor", self.x.type)


@op
class Reshape(Movement):
    """The same elements, in row-major order, in another shape."""

    shape: tuple[int, ...]

    def infer(self) -> TensorType:
        x = self.x.type
        size = int(np.prod(self.shape, dtype=np.int64))
        self.expect(size == x.size, f"{x.size} elements", self.shape)
        q = x.quantization
        if q is not None and q.axis is not None:
            q = dataclasses.replace(q, axis=self._moved_axis(q.axis))
        return TensorType(x.dtype, tuple(int(d) for d in self.shape), q)

    def _moved_axis(self, axis: int) -> int:
        """Where the axis of the scales ends up, which must stay an axis of its own."""
        x = self.x.type
        outer = int(np.prod(x.shape[:axis], dtype=np.int64))
        for i, size in enumerate(self.shape):
            before = int(np.prod(self.shape[:i], dtype=np.int64))
            if size == x.shape[axis] and before == outer:
                return i
        self.expect(False, f"axis {axis} of {x} kept whole", self.shape)
        raise AssertionError

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(self.shape)

    def te(self, t: Any, x: Any) -> Any:
        return t.topi.reshape(x, self.shape)

    def onnx(self, o: Any, x: Any) -> Any:
        return o.op("Reshape", x, o.constant(np.array(self.shape, np.int64)), allowzero=1)


@op
class Transpose(Movement):
    """Axis i of the result is axis permutation[i] of x."""

    permutation: tuple[int, ...]

    def infer(self) -> TensorType:
        x = self.x.type
        self.expect(
            sorted(self.permutation) == list(range(x.rank)),
            f"a permutation of {x.rank} axes",
            self.permutation,
        )
        q = x.quantization
        return TensorType(
            x.dtype,
            tuple(x.shape[i] for i in self.permutation),
            q and q.transposed(self.permutation),
        )

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.transpose(x, self.permutation or None), order="C")

    def te(self, t: Any, x: Any) -> Any:
        return t.topi.transpose(x, self.permutation)

    def onnx(self, o: Any, x: Any) -> Any:
        return o.op("Transpose", x, perm=list(self.permutation))


@op
class Slice(Movement):
    """x[starts[0]:stops[0]:steps[0], …], with 0 ≤ start ≤ stop ≤ size and step ≥ 1 on each axis."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]

    def infer(self) -> TensorType:
        self.per_tensor()
        x = self.x.type
        ranges = list(zip(self.starts, self.stops, self.steps, strict=True))
        self.expect(x.rank > 0, "an operand of rank ≥ 1", x)
        self.expect(len(ranges) == x.rank, f"{x.rank} ranges", len(ranges))
        for size, (start, stop, step) in zip(x.shape, ranges, strict=True):
            fits = 0 <= start <= stop <= size and step >= 1
            self.expect(fits, f"a range within 0:{size}:1", f"{start}:{stop}:{step}")
        return x.with_shape(tuple(len(range(*r)) for r in ranges))

    def numpy(self, x: np.ndarray) -> np.ndarray:
        ranges = zip(self.starts, self.stops, self.steps, strict=True)
        return np.asarray(x[tuple(slice(*r) for r in ranges)], order="C")

    def te(self, t: Any, x: Any) -> Any:
        def element(*index: Any) -> Any:
            return x(*(i * s + b for i, s, b in zip(index, self.steps, self.starts, strict=True)))

        return t.compute(self.type.shape, element)

    def onnx(self, o: Any, x: Any) -> Any:
        axes = tuple(range(self.x.type.rank))
        bounds = (self.starts, self.stops, axes, self.steps)
        return o.op("Slice", x, *(o.constant(np.array(v, np.int64)) for v in bounds))


@op
class Pad(Movement):
    """x with constant elements before and after it on each axis.

    Attributes:
        before: Elements added in front of each axis, ≥ 0.
        after: Elements added behind each axis, ≥ 0.
        value: The element to add; for codes a code, not a real number.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    value: float = 0.0

    def infer(self) -> TensorType:
        self.per_tensor()
        x = self.x.type
        pads = (*self.before, *self.after)
        self.expect(x.rank > 0, "an operand of rank ≥ 1", x)
        self.expect(
            len(pads) == 2 * x.rank and min(pads, default=0) >= 0, f"{2 * x.rank} pads ≥ 0", pads
        )
        if x.is_integer:
            info = np.iinfo(x.dtype)
            fits = self.value == int(self.value) and info.min <= self.value <= info.max
            self.expect(fits, f"a {x.dtype} value", self.value)
        return x.with_shape(
            tuple(b + d + a for b, d, a in zip(self.before, x.shape, self.after, strict=True))
        )

    def numpy(self, x: np.ndarray) -> np.ndarray:
        pads = list(zip(self.before, self.after, strict=True))
        return np.pad(x, pads, constant_values=np.asarray(self.value, x.dtype))

    def interval(self, x: Interval) -> Interval:
        return x | Interval(int(self.value), int(self.value))

    def te(self, t: Any, x: Any) -> Any:
        value = t.const(self.value, self.type.dtype)

        def element(*index: Any) -> Any:
            source = [i - b for i, b in zip(index, self.before, strict=True)]
            inside = [
                test
                for i, b, a, size in zip(
                    source, self.before, self.after, self.x.type.shape, strict=True
                )
                for test in ([i >= 0] if b else []) + ([i < size] if a else [])
            ]
            return t.if_then_else(t.all(inside), x(*source), value) if inside else x(*source)

        return t.compute(self.type.shape, element)

    def onnx(self, o: Any, x: Any) -> Any:
        pads = o.constant(np.array((*self.before, *self.after), np.int64))
        value = o.constant(np.asarray(self.value, self.type.dtype))
        if self.type.dtype in ("int16", "uint16"):  # which ONNX Runtime cannot pad
            return o.widened(
                self.type.dtype, (x, value), lambda x, v: o.op("Pad", x, pads, v, mode="constant")
            )
        return o.op("Pad", x, pads, value, mode="constant")


@op
class Expand(Movement):
    """x repeated along its axes of size 1 to `shape` (numpy's broadcasting)."""

    shape: tuple[int, ...]

    def infer(self) -> TensorType:
        self.per_tensor()
        x = self.x.type
        fits = len(self.shape) >= x.rank and all(
            a in (1, b) for a, b in zip(x.shape[::-1], self.shape[::-1], strict=False)
        )
        self.expect(fits, f"a shape that {x} broadcasts to", self.shape)
        return x.with_shape(self.shape)

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.broadcast_to(x, self.shape), order="C")

    def te(self, t: Any, x: Any) -> Any:
        return t.topi.broadcast_to(x, self.shape)

    def onnx(self, o: Any, x: Any) -> Any:
        return o.op("Expand", x, o.constant(np.array(self.shape, np.int64)))


@op
class Concat(Op):
    """The operands one behind the other along an axis; all of one dtype and one quantization."""

    inputs: tuple[Op, ...]
    axis: int

    moves: ClassVar[tuple[str, ...]] = ("inputs",)

    def infer(self) -> TensorType:
        first = self.inputs[0].type
        self.expect(0 <= self.axis < first.rank, f"an axis below {first.rank}", self.axis)
        size = 0
        for x in self.inputs:
            alike = self._off_axis(x.type) == self._off_axis(first)
            self.expect(alike, f"operands like {first} off axis {self.axis}", x.type)
            size += x.type.shape[self.axis]
        shape = (*first.shape[: self.axis], size, *first.shape[self.axis + 1 :])
        return first.with_shape(shape)

    def _off_axis(self, x: TensorType) -> TensorType:
        shape = tuple(1 if i == self.axis else d for i, d in enumerate(x.shape))
        return dataclasses.replace(x, shape=shape)

    def numpy(self, *inputs: np.ndarray) -> np.ndarray:
        return np.concatenate(inputs, self.axis)

    def te(self, t: Any, *inputs: Any) -> Any:
        return t.topi.concatenate(list(inputs), self.axis)

    def onnx(self, o: Any, *inputs: Any) -> Any:
        return o.op("Concat", *inputs, axis=self.axis)


@op
class Gather(Op):
    """Parts of a table along an axis: result[a…, i…, b…] = table[a…, indices[i…], b…].

    An embedding looks rows (axis 0) up.  Indices outside the table are moved to its nearest row, so
    that no input can read elsewhere.

    Attributes:
        table: [a..., rows, b...], any numbers.
        indices: int32 or int64, any shape.
        axis: The axis of the table that the indices count along; their axes take its place.
    """

    table: Op
    indices: Op
    axis: int = 0

    moves: ClassVar[tuple[str, ...]] = ("table",)

    def infer(self) -> TensorType:
        table, indices = self.table.type, self.indices.type
        self.expect(indices.dtype in ("int32", "int64"), "int32 or int64 indices", indices)
        self.expect(0 <= self.axis < table.rank, f"an axis below {table.rank}", self.axis)
        self.expect(table.shape[self.axis] > 0, "a table with rows", table)
        self.expect(table.dtype != "bool", "a table of numbers", table)
        q = table.quantization
        self.expect(q is None or q.axis is None, "one scale per table", table)
        before, after = table.shape[: self.axis], table.shape[self.axis + 1 :]
        return table.with_shape((*before, *indices.shape, *after))

    def numpy(self, table: np.ndarray, indices: np.ndarray) -> np.ndarray:
        kept = np.clip(indices, 0, table.shape[self.axis] - 1)
        return np.asarray(np.take(table, kept, self.axis))

    def te(self, t: Any, table: Any, indices: Any) -> Any:
        dtype, stop = self.indices.type.dtype, self.axis + self.indices.type.rank
        last = t.const(self.table.type.shape[self.axis] - 1, dtype)

        def element(*index: Any) -> Any:
            row = t.max(t.min(indices(*index[self.axis : stop]), last), t.const(0, dtype))
            return table(*index[: self.axis], row, *index[stop:])

        return t.compute(self.type.shape, element)

    def onnx(self, o: Any, table: Any, indices: Any) -> Any:
        wide = o.op("Cast", indices, to=o.dtype("int64"))
        rows = self.table.type.shape[self.axis]
        zero, last = (o.constant(np.array(v, np.int64)) for v in (0, rows - 1))
        # Where and comparisons: ONNX Runtime's int64 Clip is wrong in some versions.
        kept = o.op("Where", o.op("Less", wide, zero), zero, wide)
        kept = o.op("Where", o.op("Greater", kept, last), last, kept)
        return o.op("Gather", table, kept, axis=self.axis)
