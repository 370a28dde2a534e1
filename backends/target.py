"""What code is generated for: targets as data, chosen by name."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from qcompiler.backends.targets import cuda
from qcompiler.backends.targets.cpu import CPUS, KERNELS, TRIPLES
from qcompiler.errors import TargetError

if TYPE_CHECKING:
    from qcompiler.artifact import CompiledModel
    from qcompiler.graph import Graph

GROUP = "qcompiler.targets"
"""Entry points of third parties: name → a `Target`."""


@dataclass(frozen=True)
class Target:
    """A machine to generate code for.

    Attributes:
        name: What the user calls it.
        tvm: The fields of TVM's target; a `mcpu` of "native" stands for this machine's CPU.
        kernels: Kernel tables, each `"package.module:NAME"` of a tuple of
            `qcompiler.backends.tvm.table.KernelRule`, in order of preference.  Names, so that a
            target can be looked at without importing TVM.
        builder: The module that compiles for it, a `Builder`.
        architectures: Of GPUs, such as "sm_90": what one library has code for; none stands for
            those of this machine.
    """

    name: str
    tvm: Mapping[str, Any] = field(hash=False)
    kernels: tuple[str, ...] = ()
    builder: str = "qcompiler.backends.tvm.build"
    architectures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tvm", MappingProxyType(dict(self.tvm)))


def _cpu(name: str) -> Target:
    architecture, mcpu = CPUS[name]
    fields: dict[str, Any] = {"kind": "llvm"}
    if mcpu != "native":
        fields["mtriple"] = TRIPLES[architecture]
    return Target(name, {**fields, "mcpu": mcpu}, KERNELS)


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
        graph: Graph,
        target: Target,
        *,
        source_sha256: str | None = None,
        threads: int | None = None,
        tune: int = 0,
    ) -> CompiledModel:
        """Compile a graph to a library that lies in a temporary folder until it is saved.

        Raises:
            TargetError: what `check` refuses; the kernel tables are missing.
        """
        ...


def _cuda(name: str, *architectures: str) -> Target:
    fields = {"kind": "cuda", "max_num_threads": 1024, "thread_warp_size": 32}
    return Target(name, fields, cuda.KERNELS, "qcompiler.backends.cuda.build", architectures)


TARGETS: Mapping[str, Target] = {
    **{name: _cpu(name) for name in CPUS},
    "cuda": _cuda("cuda"),
    **{f"cuda:{sm}": _cuda(f"cuda:{sm}", sm) for sm in cuda.ARCHITECTURES},
}
"""The targets that come with qcompiler."""


def target(name: str) -> Target:
    """The target of that name: "cpu" (this machine), "cpu:cascadelake", "cuda", …

    Raises:
        TargetError: nobody provides it, or the package that does cannot be imported.
    """
    if name in TARGETS:
        return TARGETS[name]
    foreign = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in foreign:
        known = [*TARGETS, *foreign]
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise TargetError(f"unknown target {name!r}: expected one of {', '.join(known)}{hint}")
    try:
        found = foreign[name].load()
    except (ImportError, AttributeError) as error:
        raise TargetError(
            f"target {name!r}: cannot be loaded from {foreign[name].value} ({error}): reinstall "
            "the package that provides it"
        ) from error
    if not isinstance(found, Target):
        raise TargetError(f"target {name!r}: expected a Target in {foreign[name].value}")
    return dataclasses.replace(found, name=name)


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
