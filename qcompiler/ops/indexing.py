"""Writing rows to places that are known at run time."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from qcompiler.graph import Op, op
from qcompiler.ops.arithmetic import expect_numbers
from qcompiler.types import TensorType

_COMBINED: dict[str, Any] = {
    "add": np.add,
    "mul": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
}


@op
class Written(Op):
    """data with row updates[i] written to, or combined with, row indices[i], i = 0, 1, ….

    Rows outside data are not written, so that no input can write elsewhere.

    Attributes:
        data: [rows, ...].
        indices: int64 [n].
        updates: [n, ...], of data's dtype and quantization.
        reduction: How a row and its updates become one: one of `reductions`.
    """

    data: Op
    indices: Op
    updates: Op
    reduction: str

    reductions: ClassVar[tuple[str, ...]]

    def infer(self) -> TensorType:
        data, indices, updates = (x.type for x in self.operands)
        expect_numbers(self, data)
        self.expect(data.rank >= 1, "rows", data)
        self.expect(
            indices.dtype == "int64" and indices.rank == 1, "a line of int64 indices", indices
        )
        rows = data.with_shape((*indices.shape, *data.shape[1:]))
        self.expect(updates == rows, f"updates like {rows}", updates)
        known = self.reduction in self.reductions
        self.expect(known, f"one of {', '.join(self.reductions)}", self.reduction)
        return data

    def numpy(self, data: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
        result = data.copy()
        combine = _COMBINED.get(self.reduction)
        for row, update in zip(indices, updates, strict=True):
            if 0 <= row < len(data):
                result[row] = update if combine is None else combine(result[row], update)
        return result

    def te(self, t: Any, data: Any, indices: Any, updates: Any) -> Any:
        return t.scatter(self, data, indices, updates)

    def onnx(self, o: Any, data: Any, indices: Any, updates: Any) -> Any:
        # One more row takes what is written outside.
        rows = self.data.type.shape[0]
        zero, last = (o.constant(np.array(v, np.int64)) for v in (0, rows))
        kept = o.op("Where", o.op("Less", indices, zero), last, indices)
        kept = o.op("Where", o.op("Greater", kept, last), last, kept)
        places = o.op("Unsqueeze", kept, o.constant(np.array([-1], np.int64)))
        spare = o.constant(np.zeros((1, *self.data.type.shape[1:]), self.type.dtype))

        def written(data: Any, spare: Any, updates: Any) -> Any:
            longer = o.op("Concat", data, spare, axis=0)
            result = o.op("ScatterND", longer, places, updates, reduction=self.reduction)
            bounds = (o.constant(np.array([v], np.int64)) for v in (0, rows, 0))
            return o.op("Slice", result, *bounds)

        if self.reduction == "none":
            return written(data, spare, updates)
        return o.widened(self.type.dtype, (data, spare, updates), written)


@op
class Scatter(Written):
    """data with row updates[i] written to row indices[i], or an extreme of both.

    Of several updates of one row the last counts, or the extreme of all of them.
    """

    reduction: str = "none"

    moves: ClassVar[tuple[str, ...]] = ("data", "updates")
    reductions: ClassVar[tuple[str, ...]] = ("none", "min", "max")


@op
class ScatterReduce(Written):
    """data with row updates[i] added to, or multiplied with, row indices[i]; integers wrap."""

    reductions: ClassVar[tuple[str, ...]] = ("add", "mul")
