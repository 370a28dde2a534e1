"""Where the largest and smallest elements are: only the order of the elements counts."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompiler.graph import Op, op
from qcompiler.ops.arithmetic import expect_numbers
from qcompiler.types import TensorType


@op
class Place(Op):
    """Indices (int64) along an axis of x, which must not be empty.

    Attributes:
        x: Numbers of any dtype, or codes.
        axis: The axis that is searched.
    """

    x: Op
    axis: int

    compares: ClassVar[tuple[str, ...]] = ("x",)

    def check(self) -> None:
        """x holds numbers of one scale, and the axis has elements."""
        x = self.x.type
        expect_numbers(self, x)
        self.expect(0 <= self.axis < x.rank, f"an axis of {x}", self.axis)
        self.expect(x.shape[self.axis] > 0, "elements along the axis", x)
        q = x.quantization
        self.expect(q is None or q.axis is None, "one scale per tensor", x)

    def along(self, size: int) -> TensorType:
        """int64 in x's shape, but for the size of the axis."""
        shape = self.x.type.shape
        return TensorType("int64", (*shape[: self.axis], size, *shape[self.axis + 1 :]))

    def widened(self, o: Any, x: Any) -> Any:
        """x in a type that ONNX Runtime orders."""
        dtype, wide = self.x.type.dtype, o.widened_dtype(self.x.type.dtype)
        return x if wide == dtype else o.op("Cast", x, to=o.dtype(wide))


@op
class ArgExtreme(Place):
    """The index of an extreme element along an axis, which stays with size 1.

    Attributes:
        last: Of equal elements, whether the last counts instead of the first.
    """

    last: bool = False

    def infer(self) -> TensorType:
        self.check()
        return self.along(1)

    def _index(self, x: np.ndarray, search: Any) -> np.ndarray:
        if not self.last:
            return np.asarray(search(x, self.axis, keepdims=True))
        found = search(np.flip(x, self.axis), self.axis, keepdims=True)
        return np.asarray(x.shape[self.axis] - 1 - found)

    def onnx(self, o: Any, x: Any) -> Any:
        wide = self.widened(o, x)
        operator = type(self).__name__
        return o.op(operator, wide, axis=self.axis, keepdims=1, select_last_index=int(self.last))


@op
class ArgMax(ArgExtreme):
    """The index of the largest element along an axis."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return self._index(x, np.argmax)

    def te(self, t: Any, x: Any) -> Any:
        return t.arg_extreme(self, x, t.maximum)


@op
class ArgMin(ArgExtreme):
    """The index of the smallest element along an axis."""

    def numpy(self, x: np.ndarray) -> np.ndarray:
        return self._index(x, np.argmin)

    def te(self, t: Any, x: Any) -> Any:
        return t.arg_extreme(self, x, t.minimum)


@op
class TopK(Place):
    """The indices of the k largest (or smallest) elements along an axis, in that order.

    Of equal elements the one with the lower index comes first.  An element's place is the number
    of elements that come before it, so that the work grows with the square of the axis, and every
    backend finds the same order.

    Attributes:
        k: 1 … size of the axis.
        largest: Whether the largest come first, or the smallest.
    """

    k: int
    largest: bool = True

    def infer(self) -> TensorType:
        self.check()
        size = self.x.type.shape[self.axis]
        self.expect(1 <= self.k <= size, f"k within 1…{size}", self.k)
        return self.along(self.k)

    def numpy(self, x: np.ndarray) -> np.ndarray:
        if self.largest:  # a stable order of the mirrored elements, mirrored back
            size = x.shape[self.axis]
            order = np.argsort(np.flip(x, self.axis), self.axis, kind="stable")
            found = size - 1 - np.flip(order, self.axis)
        else:
            found = np.argsort(x, self.axis, kind="stable")
        return np.ascontiguousarray(np.take(found, np.arange(self.k), self.axis))

    def te(self, t: Any, x: Any) -> Any:
        return t.top_k(self, x)

    def onnx(self, o: Any, x: Any) -> Any:
        wide = self.widened(o, x)
        k = o.constant(np.array([self.k], np.int64))
        _, indices = o.ops(2, "TopK", wide, k, axis=self.axis, largest=int(self.largest), sorted=1)
        return indices
