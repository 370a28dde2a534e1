"""Calls in TIR as numpy closures, for `simt`: intrinsics, shuffles, barriers, addresses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from simt_instructions import INSTRUCTIONS, Pointer, Register, shuffle
from simt_memory import SimtError

Code = Callable[[Any, "np.ndarray | None"], Any]
"""A value [blocks, threads] (vectors: [blocks, threads, lanes]) from the machine and the mask."""

_BITS = {
    "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor,
}
_SHUFFLES = {
    name: kind
    for kind in ("", "_up", "_down", "_xor")
    for name in (f"tvm_warp_shuffle{kind}", f"cuda.__shfl{kind}_sync")
}


def both(mask: np.ndarray | None, kept: np.ndarray) -> np.ndarray:
    """The threads that are active and kept."""
    return kept if mask is None else kept & mask


class Calls:
    """The calls of `simt_expressions.Compiler`, which has the rest."""

    code: Callable[[Any], Code]
    slot: Callable[[Any], int]
    dtype: Callable[[Any], np.dtype]
    store: Callable[[Any, Sequence[Any]], Callable[..., None]]
    _offsets: Callable[[Any, Sequence[Any]], Code]

    def _Call(self, node: Any) -> Code:
        name = str(node.op.name).partition(".")[2]  # tirx.… or prim.…
        if name in _BITS:
            a, b = (self.code(x) for x in node.args)
            return lambda m, mask: _BITS[name](a(m, mask), b(m, mask))
        if name in _SHUFFLES:
            return self._shuffle(_SHUFFLES[name], node)
        method = getattr(self, "_call_" + name.replace(".", "_"), None)
        if method is None:
            raise NotImplementedError(f"simt: no call of {name}")
        return method(node)

    def _shuffle(self, kind: str, node: Any) -> Code:
        _, value, lane, width = list(node.args)[:4]
        values, lanes, size = self.code(value), self.code(lane), int(width)

        def code(m: Any, mask: np.ndarray | None) -> np.ndarray:
            if mask is not None:
                raise SimtError("a shuffle in code that threads part in")
            return shuffle(m, kind, values(m, mask), lanes(m, mask), size)

        return code

    def _call_if_then_else(self, node: Any) -> Code:
        condition, then, other = (self.code(x) for x in node.args)

        def code(m: Any, mask: np.ndarray | None) -> np.ndarray:
            holds = condition(m, mask).astype(bool)
            yes, no = both(mask, holds), both(mask, ~holds)
            if not no.any():
                return then(m, mask)
            if not yes.any():
                return other(m, mask)
            a, b = then(m, yes), other(m, no)
            return np.where(holds[..., None] if a.ndim > holds.ndim else holds, a, b)

        return code

    def _call_reinterpret(self, node: Any) -> Code:
        value, target = self.code(node.args[0]), str(node.ty.dtype)
        dtype, lanes = self.dtype(target), "x" in target

        def code(m: Any, mask: np.ndarray | None) -> np.ndarray:
            found = value(m, mask)
            found = found if found.ndim == 3 else found[..., None]
            result = np.ascontiguousarray(found).view(dtype)
            return result if lanes else result[..., 0]

        return code

    def _shift(self, node: Any, left: bool) -> Code:
        a, b = (self.code(x) for x in node.args) if hasattr(node, "args") else (
            self.code(node.a), self.code(node.b))  # fmt: skip
        bits = 8 * self.dtype(node.ty.dtype).itemsize

        def code(m: Any, mask: np.ndarray | None) -> np.ndarray:
            value, count = a(m, mask), b(m, mask)
            outside = (count < 0) | (count >= bits)
            if outside.any() and (both(mask, outside) if outside.ndim == 2 else outside).any():
                raise SimtError(f"shift by {count.max()} of {bits} bits")
            count = np.clip(count, 0, bits - 1).astype(value.dtype)
            return value << count if left else value >> count

        return code

    def _call_shift_right(self, node: Any) -> Code:
        return self._shift(node, False)

    def _call_shift_left(self, node: Any) -> Code:
        return self._shift(node, True)

    _RShift = _call_shift_right
    _LShift = _call_shift_left

    def _call_bitwise_not(self, node: Any) -> Code:
        value = self.code(node.args[0])
        return lambda m, mask: ~value(m, mask)

    def _call_likely(self, node: Any) -> Code:
        return self.code(node.args[0])

    def _call_tvm_storage_sync(self, node: Any) -> Code:
        scope = str(node.args[0].value)

        def code(m: Any, mask: np.ndarray | None) -> None:
            m.barrier("warp" if scope == "warp" else "shared", mask)

        return code

    def _call_cuda_warp_sync(self, node: Any) -> Code:
        return lambda m, mask: m.barrier("warp", mask)

    def _call_address_of(self, node: Any) -> Code:
        load = node.args[0]
        slot, offsets = self.slot(load.source), self._offsets(load.source, load.indices)
        return lambda m, mask: Pointer(m.memories[slot], np.broadcast_to(offsets(m, mask), m.shape))

    def _call_cuda_func_call(self, node: Any) -> Code:
        name, *operands, _ = node.args
        instruction = INSTRUCTIONS[str(name.value)]
        codes = [self._operand(x) for x in operands]
        return lambda m, mask: instruction(m, mask, *(code(m, mask) for code in codes))

    def _operand(self, node: Any) -> Code:
        if type(node).__name__ != "TensorLoad":
            return self.code(node)
        load, store = self.code(node), self.store(node.source, node.indices)
        return lambda m, mask: Register(lambda: load(m, mask), lambda value: store(m, value, mask))
