"""What kernels have in common: arguments, flat views, parallel loops."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.tirx.script import builder as T  # noqa: N812

from qcompiler.backends.tvm.problem import Expr

PARALLEL_ELEMENTS = 1 << 15
"""Elements below which waking another thread takes longer than it saves."""

PARALLEL_CYCLES = 8000
"""Estimated cycles below which it does."""


def argument(name: str, shape: Sequence[int], dtype: str) -> Expr:
    """A buffer parameter, dense in row-major order."""
    return T.arg(name, T.buffer(tuple(shape), dtype, layout=None))


def flat(buffer: Expr, size: int, dtype: str) -> Expr:
    """The same memory as a vector."""
    return T.decl_buffer((size,), dtype, data=buffer.data, layout=None)


def loop(extent: int, elements: int) -> Expr:
    """A loop over `extent` iterations, on several threads if it handles enough elements."""
    return either_loop(extent, elements >= PARALLEL_ELEMENTS and extent > 1)


def either_loop(extent: int, parallel: bool) -> Expr:
    """A loop on several threads, or on one."""
    return T.parallel(extent) if parallel else T.serial(extent)


def spans(extent: int, width: int) -> list[tuple[int, int, int]]:
    """Vectorized loops over an axis: first element, lanes, how many."""
    whole, rest = divmod(extent, width)
    found = [(0, width, whole)] if whole else []
    return [*found, (whole * width, rest, 1)] if rest else found
