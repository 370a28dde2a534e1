"""The instructions of kernels/cuda/instructions.py, as the PTX ISA defines them, on numpy arrays.

Values are arrays [blocks, threads] (those that all threads share may have size 1 there).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from simt_memory import WARP, Memory, SharedMemory, SimtError

if TYPE_CHECKING:
    from simt import Machine


@dataclass(frozen=True)
class Pointer:
    """An address: byte offsets [blocks, threads] into one buffer."""

    memory: Memory
    offsets: np.ndarray


@dataclass(frozen=True)
class Register:
    """An operand that an instruction may write: an element of a thread's own array."""

    load: Callable[[], np.ndarray]
    store: Callable[[np.ndarray], None]


Operands = Sequence[Any]
_LANES = np.arange(WARP)
_BYTES = np.arange(4)


def _warps(machine: Machine, value: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """[blocks, warps, 32] of a value that all threads of a warp must take part with."""
    full = np.broadcast_to(value, machine.shape)
    if mask is not None:
        active = np.broadcast_to(mask, machine.shape).reshape(-1, WARP)
        if (active.any(1) & ~active.all(1)).any():
            raise SimtError("an instruction of whole warps in code that its threads part in")
    return full.reshape(machine.shape[0], -1, WARP)


def _codes(machine: Machine, registers: Operands, dtype: str, mask: Any) -> np.ndarray:
    """[blocks, warps, lane, register, byte] of packed 8-bit operands."""
    values = [_warps(machine, r.load().astype(np.int32), mask) for r in registers]
    stacked = np.ascontiguousarray(np.stack(values, -1))
    return stacked.view(dtype).reshape(*stacked.shape, 4)


def _mma(m: int, n: int, k: int, dtype: str) -> Callable[..., None]:
    """mma.sync.aligned.m‹m›n‹n›k‹k›.row.col.s32.‹dtype›.s8.s32 with d = c in place.

    Fragments as in the PTX ISA, "Matrix Fragments for mma.m8n8k16" and "… mma.m16n8k32" with
    integer types: groupID = lane / 4, threadID_in_group = lane % 4.
    """
    rows, depth = m // 8, k // 16

    def run(machine: Machine, mask: np.ndarray | None, *operands: Any) -> None:
        d = operands[: 2 * rows]
        a = _codes(machine, operands[2 * rows : 2 * rows + rows * depth], dtype, mask)
        b = _codes(machine, operands[2 * rows + rows * depth :], "int8", mask)
        left = np.zeros((*a.shape[:2], m, k), np.float32)  # exact: |sums| < 2^24
        right = np.zeros((*b.shape[:2], k, n), np.float32)
        group, thread = _LANES[:, None, None] // 4, _LANES[:, None, None] % 4
        register = np.arange(rows * depth)[:, None]
        row, column = group + 8 * (register % rows), thread * 4 + _BYTES + 16 * (register // rows)
        left[:, :, row, column] = a
        register = np.arange(depth)[:, None]
        right[:, :, thread * 4 + _BYTES + 16 * register, group + 0 * register + 0 * _BYTES] = b
        total = (left @ right).astype(np.int64)
        for i, out in enumerate(d):
            own = total[:, :, _LANES // 4 + 8 * (i // 2), _LANES % 4 * 2 + i % 2]
            out.store((out.load() + own.reshape(machine.shape)).astype(np.int32))

    return run


def _ldmatrix_x4(machine: Machine, mask: np.ndarray | None, *operands: Any) -> None:
    """ldmatrix.sync.aligned.m8n8.x4.shared.b16: lane i holds the address of row i % 8 of matrix
    i / 8, and receives bytes (lane % 4)·4 … + 3 of row lane / 4 of each matrix."""
    *registers, source = operands
    _warps(machine, np.zeros((1, 1)), mask)
    rows = _shared(source).load(source.offsets, 16, mask)
    rows = np.broadcast_to(rows, (*machine.shape, 16)).reshape(machine.shape[0], -1, WARP, 4, 4)
    for i, register in enumerate(registers):
        own = np.ascontiguousarray(rows[:, :, i * 8 + _LANES // 4, _LANES % 4])
        register.store(own.view(np.int32).reshape(machine.shape))


def _cp_async(size: int) -> Callable[..., None]:
    """cp.async.shared.global [target], [source], size, bytes: the rest is filled with zeros.

    The copy is made when the thread waits for it: until then the target must be left alone.
    """

    def run(machine: Machine, mask: np.ndarray | None, *operands: Any) -> None:
        target, source, count = operands
        count = np.broadcast_to(count, machine.shape)
        if ((count != 0) & (count != size)).any():
            raise SimtError("cp.async: expected all bytes or none")  # what these kernels mean
        wanted = count > 0 if mask is None else (count > 0) & mask
        values = np.broadcast_to(
            source.memory.load(source.offsets, size, wanted), (*machine.shape, size)
        )
        values = np.where((count > 0)[..., None], values, np.uint8(0))
        shared = _shared(target)
        offsets = np.broadcast_to(shared.check(target.offsets, size, mask), machine.shape)
        machine.copies.issue(shared, offsets, values, mask)

    return run


def _shared(pointer: Pointer) -> SharedMemory:
    if not isinstance(pointer.memory, SharedMemory):
        raise SimtError(f"{pointer.memory.name}: expected an address in shared memory")
    return pointer.memory


def _commit(machine: Machine, mask: np.ndarray | None) -> None:
    machine.copies.commit(mask)


def _wait(left: int) -> Callable[..., None]:
    """cp.async.wait_group: at most so many of the newest groups stay on their way."""
    return lambda machine, mask: machine.copies.wait(left, mask)


@dataclass(frozen=True)
class _Copy:
    shared: SharedMemory
    offsets: np.ndarray
    values: np.ndarray
    mask: np.ndarray | None


class Copies:
    """Asynchronous copies on their way; groups are committed by all threads together."""

    def __init__(self) -> None:
        self.open: list[_Copy] = []
        self.groups: list[list[_Copy]] = []

    def issue(
        self, shared: SharedMemory, offsets: np.ndarray, values: np.ndarray, mask: np.ndarray | None
    ) -> None:
        bytes_ = offsets[..., None] + np.arange(values.shape[-1])
        shared.note_write(bytes_, mask)  # a race with earlier accesses; undone until it arrives
        self.open.append(_Copy(shared, offsets, values, mask))
        self._mark(self.open[-1], True)

    def commit(self, mask: np.ndarray | None) -> None:
        if mask is not None:
            raise SimtError("cp.async.commit_group in code that threads part in")
        self.groups.append(self.open)
        self.open = []

    def wait(self, left: int, mask: np.ndarray | None) -> None:
        if mask is not None:
            raise SimtError("cp.async.wait_group in code that threads part in")
        count = max(len(self.groups) - left, 0)
        done, self.groups = self.groups[:count], self.groups[count:]
        for copy in (c for group in done for c in group):
            self._mark(copy, False)
            copy.shared.store(copy.offsets, copy.values, copy.mask)

    def _mark(self, copy: _Copy, pending: bool) -> None:
        places = copy.shared.places(copy.offsets[..., None] + np.arange(copy.values.shape[-1]))
        places = np.broadcast_arrays(*places)
        if copy.mask is not None:
            active = np.broadcast_to(copy.mask, copy.offsets.shape)
            places = [p[active] for p in places]
        copy.shared.pending[tuple(places)] = pending


def _transpose(machine: Machine, mask: np.ndarray | None, *registers: Any) -> None:
    """Byte j of register i ↔ byte i of register j."""
    stacked = np.stack([np.broadcast_to(r.load(), machine.shape) for r in registers], -1)
    codes = np.ascontiguousarray(stacked.astype(np.int32)).view(np.uint8)
    codes = codes.reshape(*machine.shape, 4, 4).swapaxes(-1, -2)
    words = np.ascontiguousarray(codes).view(np.int32)[..., 0]
    for i, register in enumerate(registers):
        register.store(words[..., i])


def _mul_wide(machine: Machine, mask: np.ndarray | None, a: Any, b: Any) -> np.ndarray:
    """mul.wide.s32: the 64-bit product of two 32-bit integers."""
    left, right = (x.load() if isinstance(x, Register) else x for x in (a, b))
    assert left.dtype == right.dtype == np.int32
    return left.astype(np.int64) * right.astype(np.int64)


INSTRUCTIONS: dict[str, Callable[..., Any]] = {
    "qc_mma_m16n8k32_s8": _mma(16, 8, 32, "int8"),
    "qc_mma_m16n8k32_u8": _mma(16, 8, 32, "uint8"),
    "qc_mma_m8n8k16_s8": _mma(8, 8, 16, "int8"),
    "qc_mma_m8n8k16_u8": _mma(8, 8, 16, "uint8"),
    "qc_ldmatrix_x4": _ldmatrix_x4,
    "qc_cp_async_16": _cp_async(16),
    "qc_cp_async_8": _cp_async(8),
    "qc_cp_async_4": _cp_async(4),
    "qc_cp_async_commit": _commit,
    **{f"qc_cp_async_wait_{left}": _wait(left) for left in range(8)},
    "qc_transpose_4x4": _transpose,
    "qc_mul_wide": _mul_wide,
}
"""By the name that the kernels call; `Register` and `Pointer` operands as in their C signatures."""


def shuffle(
    machine: Machine, kind: str, value: np.ndarray, lane: np.ndarray, width: int
) -> np.ndarray:
    """__shfl_sync and its kin ("", "_up", "_down", "_xor"); all lanes take part."""
    rows = np.broadcast_to(value, machine.shape).reshape(machine.shape[0], -1, WARP)
    arg = np.broadcast_to(lane, machine.shape).reshape(rows.shape)
    base = _LANES // width * width
    own = _LANES - base
    if kind == "_xor":
        source = own ^ arg
    elif kind == "_up":
        source = own - arg
    elif kind == "_down":
        source = own + arg
    else:
        source = arg % width
    inside = (source >= 0) & (source < width)
    source = np.where(inside, source + base, _LANES)
    return np.take_along_axis(rows, source, 2).reshape(machine.shape)
