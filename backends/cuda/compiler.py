"""What a CUDA compiler is, and what it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Code:
    """What the compiler made for one architecture: PTX as text, and the machine's code."""

    ptx: str
    cubin: bytes


class Compiler(Protocol):
    """Compiles CUDA C without fast math: products and sums of floats are rounded one by one."""

    @property
    def version(self) -> str:
        """Such as "nvcc 13.0"."""
        ...

    def architectures(self) -> tuple[str, ...]:
        """What it generates code for: "sm_80", …."""
        ...

    def compile(self, source: str, architecture: str) -> Code:
        """Compile a module.

        Raises:
            TargetError: the compiler refuses it.
        """
        ...
