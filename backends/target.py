"""What code is generated for: targets as data, chosen by name."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from qcompiler.backends.targets.cpu import CPUS, KERNELS, TRIPLES
from qcompiler.errors import TargetError

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
    """

    name: str
    tvm: Mapping[str, Any] = field(hash=False)
    kernels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tvm", MappingProxyType(dict(self.tvm)))


def _cpu(name: str) -> Target:
    architecture, mcpu = CPUS[name]
    fields: dict[str, Any] = {"kind": "llvm"}
    if mcpu != "native":
        fields["mtriple"] = TRIPLES[architecture]
    return Target(name, {**fields, "mcpu": mcpu}, KERNELS)


TARGETS: Mapping[str, Target] = {name: _cpu(name) for name in CPUS}
"""The targets that come with qcompiler."""


def target(name: str) -> Target:
    """The target of that name: "cpu" (this machine), "cpu:cascadelake", …

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
