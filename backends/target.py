"""What a target is: data that names its kernels, its builder and its runner."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from qcompiler.errors import TargetError

if TYPE_CHECKING:
    from qcompiler.artifact import CompiledModel
    from qcompiler.graph import Graph
    from qcompiler.programs import Programs


@dataclass(frozen=True)
class Target:
    """A machine to generate code for.

    Everything is named and not imported, so that a target can be looked at without TVM.

    Attributes:
        name: What the user calls it.
        tvm: The fields of TVM's target; a `mcpu` of "native" stands for this machine's CPU.
        kernels: Kernel tables, each `"package.module:NAME"` of a tuple of
            `qcompiler.backends.tvm.table.KernelRule`, in order of preference.
        builder: The module that compiles for it, a `Builder`.
        runner: The module that runs what was compiled: its `Runner` is a
            `qcompiler.artifact.Runner`.  Libraries carry its name.
        architectures: Of GPUs, such as "sm_90": what one library has code for; none stands for
            those of this machine.
    """

    name: str
    tvm: Mapping[str, Any] = field(hash=False)
    kernels: tuple[str, ...]
    builder: str
    runner: str
    architectures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tvm", MappingProxyType(dict(self.tvm)))


class Builder(Protocol):
    """A module that compiles for targets."""

    def check(self, target: Target, *, tune: bool = False) -> None:
        """Refuse what `build` would refuse whatever the graph is, before work is done in vain.

        Raises:
            TargetError: a compiler is missing, or does not know the target; `tune` and this machine
                cannot run its code.
        """
        ...

    def build(
        self,
        graphs: Graph | Programs,
        target: Target,
        *,
        source_sha256: str | None = None,
        threads: int | None = None,
        tune: int = 0,
    ) -> CompiledModel:
        """Compile graphs to a library that lies in a temporary folder until it is saved.

        Raises:
            TargetError: what `check` refuses; the kernel tables are missing.
        """
        ...


def load_builder(found: Target) -> Builder:
    """The module that compiles for the target; imports TVM.

    Raises:
        TargetError: it does not exist.
    """
    try:
        builder: Any = importlib.import_module(found.builder)
    except ImportError as error:
        raise TargetError(f"target {found.name!r}: no builder {found.builder} ({error})") from error
    return builder


def load_kernels(found: Target) -> tuple[Any, ...]:
    """The rules of the target's kernel tables, in order; imports TVM.

    Raises:
        TargetError: a table does not exist.
    """
    rules: list[Any] = []
    for reference in found.kernels:
        module, _, attribute = reference.partition(":")
        try:
            rules += getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise TargetError(
                f"target {found.name!r}: no kernel table {reference} ({error})"
            ) from error
    return tuple(rules)
