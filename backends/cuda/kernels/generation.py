"""Generations of GPUs that the kernels are generated for, as data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.target import Target

from qcompiler.backends.cuda.targets import capability

from .instructions import Expr, mma_m16n8k32, mma_m16n8k32_in_parts


@dataclass(frozen=True)
class Generation:
    """What a kernel builder has to know about GPUs of one capability and all later ones.

    Attributes:
        capability: Of the oldest, such as 80.
        mma: `mma(dtype, d, a, b)`: d += a·b of 16×32 by 32×8 codes; see `mma_m16n8k32`.
        asynchronous: Whether copies into shared memory need no registers and no waiting (cp.async).
        most_shared: Bytes of shared memory that every card gives when asked.
    """

    capability: int
    mma: Callable[[str, Sequence[Expr], Sequence[Expr], Sequence[Expr]], None]
    asynchronous: bool
    most_shared: int


SM_80 = Generation(80, mma_m16n8k32, asynchronous=True, most_shared=99 << 10)
SM_75 = Generation(75, mma_m16n8k32_in_parts, asynchronous=False, most_shared=64 << 10)

GENERATIONS = (SM_80, SM_75)
"""Newest first.  Later architectures have faster instructions of their own, but these run
everywhere."""


def best_generation(target: Target) -> Generation | None:
    """The newest generation whose kernels the target's GPU runs; None if it is too old for all."""
    found = capability(str(target.attrs["arch"]))
    return next((g for g in GENERATIONS if g.capability <= found), None)
