"""TIR expressions as numpy closures, for `simt`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from simt_calls import Calls, Code, both
from simt_memory import SimtError

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
}
_PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "Min": np.minimum,
    "Max": np.maximum,
    "EQ": np.equal,
    "NE": np.not_equal,
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}
_DIVISION: dict[str, Callable[[Any, Any], Any]] = {
    "FloorDiv": np.floor_divide,
    "FloorMod": np.mod,
    "Div": lambda a, b: np.where((a < 0) != (b < 0), -(abs(a) // abs(b)), abs(a) // abs(b)),
    "Mod": np.fmod,
}


class Compiler(Calls):
    """Expressions as functions of machine and mask; variables live in numbered slots."""

    def __init__(self) -> None:
        self.slots: dict[Any, int] = {}

    def slot(self, variable: Any) -> int:
        """The number under which the machine keeps a variable or a buffer."""
        return self.slots.setdefault(variable, len(self.slots))

    @staticmethod
    def dtype(name: Any) -> np.dtype:
        """The numpy dtype of one lane."""
        text = str(name).partition("x")[0]
        return np.dtype("int8" if text == "bool" else text)

    def code(self, node: Any) -> Code:
        """An expression, compiled."""
        kind = type(node).__name__
        if kind in _ARITHMETIC or kind in _PLAIN or kind in _DIVISION:
            return self._binary(kind, node)
        method = getattr(self, f"_{kind}", None)
        if method is None:
            raise NotImplementedError(f"simt: no expression {kind}")
        return method(node)

    def _IntImm(self, node: Any) -> Code:
        dtype = str(node.ty.dtype)
        value = np.full((1, 1), node.value, "bool" if dtype == "bool" else dtype)
        return lambda m, mask: value

    def _Var(self, node: Any) -> Code:
        slot = self.slot(node)
        return lambda m, mask: m.variables[slot]

    def _Cast(self, node: Any) -> Code:
        value, name = self.code(node.value), str(node.ty.dtype).partition("x")[0]
        return lambda m, mask: value(m, mask).astype(name)

    def _Broadcast(self, node: Any) -> Code:
        value, lanes = self.code(node.value), int(node.lanes)
        return lambda m, mask: np.repeat(value(m, mask)[..., None], lanes, -1)

    def _Ramp(self, node: Any) -> Code:
        base, stride = self.code(node.base), self.code(node.stride)
        lanes = np.arange(int(node.lanes), dtype=np.int32)
        return lambda m, mask: base(m, mask)[..., None] + stride(m, mask)[..., None] * lanes

    def _Not(self, node: Any) -> Code:
        value = self.code(node.a)
        return lambda m, mask: ~value(m, mask).astype(bool)

    def _And(self, node: Any) -> Code:
        a, b = self.code(node.a), self.code(node.b)

        def code(m: Any, mask: np.ndarray | None) -> np.ndarray:
            first = a(m, mask).astype(bool)
            inside = both(mask, first)
            return first & b(m, inside).astype(bool) if inside.any() else first & False

        return code

    def _Or(self, node: Any) -> Code:
        a, b = self.code(node.a), self.code(node.b)

        def code(m: Any, mask: np.ndarray | None) -> np.ndarray:
            first = a(m, mask).astype(bool)
            inside = both(mask, ~first)
            return first | (b(m, inside).astype(bool) & ~first) if inside.any() else first

        return code

    def _Select(self, node: Any) -> Code:
        parts = [self.code(x) for x in (node.condition, node.true_value, node.false_value)]
        return lambda m, mask: np.where(*(part(m, mask) for part in parts))

    def _Let(self, node: Any) -> Code:
        slot, value, body = self.slot(node.var), self.code(node.value), self.code(node.body)

        def code(m: Any, mask: np.ndarray | None) -> np.ndarray:
            m.variables[slot] = value(m, mask)
            return body(m, mask)

        return code

    def _binary(self, kind: str, node: Any) -> Code:
        a, b = self.code(node.a), self.code(node.b)
        dtype = np.dtype(str(node.a.ty.dtype).partition("x")[0])
        if kind in _PLAIN:
            plain = _PLAIN[kind]
            return lambda m, mask: plain(a(m, mask), b(m, mask))
        if kind in _DIVISION:
            return self._division(_DIVISION[kind], a, b)
        operator = _ARITHMETIC[kind]
        if dtype != np.int32:
            return lambda m, mask: operator(a(m, mask), b(m, mask)).astype(dtype)

        def code(m: Any, mask: np.ndarray | None) -> np.ndarray:
            wide = operator(a(m, mask).astype(np.int64), b(m, mask).astype(np.int64))
            value = wide.astype(np.int32)
            wrong = value != wide
            if wrong.any() and (both(mask, wrong) if wide.ndim == 2 else wrong).any():
                raise SimtError(f"int32 overflow in {node}")
            return value

        return code

    @staticmethod
    def _division(operator: Callable[[Any, Any], Any], a: Code, b: Code) -> Code:
        def code(m: Any, mask: np.ndarray | None) -> np.ndarray:
            below = b(m, mask)
            if (below == 0).any():
                if both(mask, below == 0).any():
                    raise SimtError("division by zero")
                below = np.where(below == 0, below.dtype.type(1), below)
            return operator(a(m, mask), below)

        return code

    def _offsets(self, buffer: Any, indices: Sequence[Any]) -> Code:
        """Byte offsets [blocks, threads] of the first lane, from the element index."""
        size = self.dtype(buffer.dtype).itemsize
        shape = [int(d) for d in buffer.shape]
        strides = [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]
        *_, last = indices
        if type(last).__name__ == "Ramp":
            assert int(last.stride) == 1, "simt: only contiguous vectors"
            indices = [*list(indices)[:-1], last.base]
        codes = [self.code(i) for i in indices]

        def code(m: Any, mask: np.ndarray | None) -> np.ndarray:
            total: Any = 0
            for index, stride, extent in zip(codes, strides, shape, strict=True):
                place = index(m, mask)
                outside = (place < 0) | (place >= extent)
                if outside.any() and both(mask, outside).any():
                    raise SimtError(f"{buffer.name}: index out of bounds {extent} in {indices}")
                total = total + place.astype(np.int64) * stride
            return total * size

        return code

    def _TensorLoad(self, node: Any) -> Code:
        slot, dtype = self.slot(node.source), self.dtype(node.source.dtype)
        offsets = self._offsets(node.source, node.indices)
        boolean = str(node.source.dtype) == "bool"
        lanes = int(node.indices[-1].lanes) if type(node.indices[-1]).__name__ == "Ramp" else 0
        size = dtype.itemsize * max(lanes, 1)

        def code(m: Any, mask: np.ndarray | None) -> np.ndarray:
            data = m.memories[slot].load(offsets(m, mask), size, mask)
            value = np.ascontiguousarray(data).view(dtype)
            value = value.astype(bool) if boolean else value
            return value if lanes else value[..., 0]

        return code

    def store(self, buffer: Any, indices: Sequence[Any]) -> Callable[..., None]:
        """A function of machine, value and mask that stores to an element or a vector."""
        slot, dtype = self.slot(buffer), self.dtype(buffer.dtype)
        offsets = self._offsets(buffer, indices)
        lanes = type(indices[-1]).__name__ == "Ramp"

        def store(m: Any, value: np.ndarray, mask: np.ndarray | None) -> None:
            value = value.astype(dtype)
            full = np.broadcast_to(value, (*m.shape, *value.shape[2:]))
            data = np.ascontiguousarray(full if lanes else full[..., None]).view(np.uint8)
            m.memories[slot].store(np.broadcast_to(offsets(m, mask), m.shape), data, mask)

        return store
