"""Kernel tables: what a target computes with code of its own instead of the generic kernel."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from qcompiler.graph import Op
from qcompiler.ops import Skeleton
from tvm.target import Target
from tvm.tirx import PrimFunc


@dataclass(frozen=True)
class Match:
    """A kernel for one op.

    Attributes:
        key: Equal where the kernel is the same.
        build: Makes it: a function of the arguments' buffers and the result's.
        arguments: Leaves of the skeleton, or arrays that are packed for the kernel.
    """

    key: Hashable
    build: Callable[[], PrimFunc]
    arguments: tuple[Op | np.ndarray, ...]


class KernelRule(Protocol):
    """An entry of a kernel table."""

    @property
    def name(self) -> str:
        """What the metadata calls the kernels."""
        ...

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """The kernel for an op, or None: then the next rule is asked."""
        ...
