"""Normalization and the requantization behind it: two passes over each row, both on vectors.

The first adds up codes and squares; Σ(n·q − Σq)² follows from these, n·(n·Σq² − (Σq)²).  Roots
are computed for eight rows side by side, since Newton's iteration is one long chain.  In the second
pass every 64-bit product has factors of 32 bits, even and odd elements apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm.ir.prim.expr import Shuffle
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Expr

from .loops import argument, flat, loop

LANES = 16
"""Elements of a row that are handled at once."""

ROWS = 8
"""Rows whose roots are computed side by side."""

_HALF = 32


@dataclass(frozen=True)
class Normalization:
    """What one kernel computes; see `qcompiler.ops.NormalizeInteger` and `Requantize`.

    Attributes:
        shape: [..., n], normalized over the last axis, of at least `LANES` elements.
        x_dtype: Integers of at most 16 bits.
        low: Smallest code of the result.
        high: Largest code.
        dtype: Of the result.
    """

    shape: tuple[int, ...]
    x_dtype: str
    low: int
    high: int
    dtype: str

    @property
    def starts(self) -> list[int]:
        """First element of each vector; the last may overlap the one before."""
        n = self.shape[-1]
        return [min(i, n - LANES) for i in range(0, n, LANES)]


RowFunction = Callable[[Expr, list[Expr]], tuple[Expr, Expr]]
"""From Σd² of some rows, a buffer, and the op's three numbers to buffers of what d is multiplied
by: the factor, an int32 in an int64, and the root, an int32; emits what computes them."""


def pack_normalization(
    problem: Normalization, multipliers: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers per element in the order of the vectors' even and odd lanes.

    Args:
        problem: The kernel's.
        multipliers: int32, broadcastable to [n].
        offsets: int64, likewise.

    Returns:
        int32 and int64 [vectors, 2, LANES / 2].
    """
    n = problem.shape[-1]
    index = np.add.outer(problem.starts, np.arange(LANES)).reshape(-1, LANES // 2, 2)
    index = index.transpose(0, 2, 1)
    return tuple(
        np.ascontiguousarray(np.broadcast_to(x.reshape(-1), (n,))[index])
        for x in (multipliers, offsets)
    )  # type: ignore[return-value]


def build_normalization(problem: Normalization, factors: RowFunction) -> PrimFunc:
    """Generate the kernel.

    Args:
        problem: Shapes and bounds.
        factors: From sums of squares to what deviations are multiplied by.

    Returns:
        A function of x, packed multipliers and offsets, the shift and the op's `numbers` (int64
        []), out.
    """
    *leading, n = problem.shape
    rows = math.prod(leading)
    block = min(ROWS, rows)
    vectors = len(problem.starts)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        x = argument("x", problem.shape, problem.x_dtype)
        multipliers = argument("multipliers", (vectors, 2, LANES // 2), "int32")
        offsets = argument("offsets", (vectors, 2, LANES // 2), "int64")
        shift = argument("shift", (), "int64")
        scalars = [argument(f"scalar{i}", (), "int64") for i in range(3)]
        out = argument("out", problem.shape, problem.dtype)
        source = flat(x, rows * n, problem.x_dtype)
        target = flat(out, rows * n, problem.dtype)
        with loop(-(-rows // block), 8 * rows * n) as index:
            first = T.bind(T.min(index * block, rows - block))
            totals, squares = (T.alloc_buffer((ROWS,), "int64", layout=None) for _ in range(2))
            if block < ROWS:  # vectors are whole all the same
                T.buffer_store(squares, T.broadcast(T.int64(0), ROWS), [T.Ramp(0, 1, ROWS)])
            with T.serial(block) as r:
                _moments(n, source, T.bind((first + r) * n), totals, squares, r)
            scales, roots = factors(squares, [s[()] for s in scalars])
            with T.serial(block) as r:
                _Row(problem, totals[r], scales[r], roots[r]).emit(
                    source, T.bind((first + r) * n), multipliers, offsets, shift, target
                )
    return builder.get()


def _moments(n: int, source: Expr, base: Expr, totals: Expr, squares: Expr, r: Expr) -> None:
    """totals[r] = Σq, and squares[r] = Σ(n·q − Σq)²."""
    total = T.alloc_buffer((LANES,), "int32", layout=None)
    square = T.alloc_buffer((LANES // 2,), "uint64", layout=None)
    span, half = [T.Ramp(0, 1, LANES)], [T.Ramp(0, 1, LANES // 2)]
    T.buffer_store(total, T.broadcast(T.int32(0), LANES), span)
    T.buffer_store(square, T.broadcast(T.uint64(0), LANES // 2), half)

    def codes(at: Expr) -> Expr:
        return T.cast(source[T.Ramp(base + at, 1, LANES)], f"int32x{LANES}")

    def add(vectors: list[Expr]) -> None:
        """Two squares of 16 bits fit a uint32."""
        for vector in vectors:
            T.buffer_store(total, total[span[0]] + vector, span)
        parts = [T.reinterpret(f"uint32x{LANES}", vector * vector) for vector in vectors]
        both = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        wide = T.reinterpret(f"uint64x{LANES // 2}", both)
        low = T.broadcast(T.uint64(0xFFFFFFFF), LANES // 2)
        high = T.broadcast(T.uint64(_HALF), LANES // 2)
        added = T.bitwise_and(wide, low) + T.shift_right(wide, high)
        T.buffer_store(square, square[half[0]] + added, half)

    pairs = n // (2 * LANES)
    if pairs:
        with T.serial(pairs) as i:
            add([T.bind(codes(i * 2 * LANES)), T.bind(codes(i * 2 * LANES + LANES))])
    done = pairs * 2 * LANES
    if n - done >= LANES:
        add([T.bind(codes(done))])
        done += LANES
    if done < n:
        # The last elements, behind those of the vector that have been counted.
        counted = T.Ramp(T.int32(0), 1, LANES) < T.broadcast(T.int32(LANES - n + done), LANES)
        last = T.Select(counted, T.broadcast(T.int32(0), LANES), codes(n - LANES))
        add([T.bind(last)])
    whole = T.bind(
        T.cast(T.call_llvm_pure_intrin("int32", "llvm.vector.reduce.add", total[span[0]]), "int64")
    )
    sum_of_squares = T.call_llvm_pure_intrin("uint64", "llvm.vector.reduce.add", square[half[0]])
    T.buffer_store(totals, whole, [r])
    count = T.int64(n)
    variance = count * (count * T.cast(sum_of_squares, "int64") - whole * whole)
    T.buffer_store(squares, variance, [r])


@dataclass(frozen=True)
class _Row:
    """The second pass over a row, from its numbers."""

    problem: Normalization
    total: Expr
    factor: Expr
    root: Expr

    def emit(
        self,
        source: Expr,
        base: Expr,
        multipliers: Expr,
        offsets: Expr,
        shift: Expr,
        target: Expr,
    ) -> None:
        n = self.problem.shape[-1]
        # d·factor = q·(n·factor) − Σq·factor fits an int32, if not each of its terms.
        scale = T.bind(T.cast(T.int64(n) * self.factor, "uint32"))
        term = T.bind(T.cast(self.total * self.factor, "uint32"))
        root = T.bind(T.cast(self.root, "int64"))
        amount = T.bind(T.cast(shift[()], "int32") - _HALF)
        with T.serial(len(self.problem.starts)) as i:
            at = T.bind(T.min(i * LANES, n - LANES))
            codes = T.cast(source[T.Ramp(base + at, 1, LANES)], f"int32x{LANES}")
            wrapped = T.reinterpret(f"uint32x{LANES}", codes) * T.broadcast(scale, LANES)
            scaled = T.bind(T.reinterpret(f"int32x{LANES}", wrapped - T.broadcast(term, LANES)))
            halves = [
                self._half(scaled, odd, root, multipliers[i, odd, T.Ramp(0, 1, LANES // 2)])
                + offsets[i, odd, T.Ramp(0, 1, LANES // 2)]
                for odd in (0, 1)
            ]
            low, high = (T.reinterpret(f"int32x{LANES}", half) for half in halves)
            order = [LANES * (lane % 2) + lane // 2 * 2 + 1 for lane in range(LANES)]
            code = Shuffle([low, high], [T.int32(j) for j in order])
            code = code >> T.broadcast(amount, LANES)
            code = T.max(code, T.broadcast(T.int32(self.problem.low), LANES))
            code = T.min(code, T.broadcast(T.int32(self.problem.high), LANES))
            stored = T.cast(code, f"{self.problem.dtype}x{LANES}")
            T.buffer_store(target, stored, [T.Ramp(base + at, 1, LANES)])

    def _half(self, scaled: Expr, odd: int, root: Expr, multipliers: Expr) -> Expr:
        """Every other element, rounded to 30 fraction bits, times its multiplier."""
        wide = _signed(T.reinterpret(f"int64x{LANES // 2}", scaled), odd)
        product = wide * T.broadcast(root, LANES // 2) + T.broadcast(T.int64(1 << 30), LANES // 2)
        rounded = product >> T.broadcast(T.int64(31), LANES // 2)
        return _signed(rounded, 0) * T.cast(multipliers, f"int64x{LANES // 2}")


def _signed(wide: Expr, odd: int) -> Expr:
    """The upper or the lower int32 of each int64, as an int64: a factor of a 32-bit product."""
    amount = T.broadcast(T.int64(_HALF), LANES // 2)
    return (wide if odd else wide << amount) >> amount
