"""Targets by name: those that come with qcompiler, and those of other packages."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from importlib.metadata import entry_points

from qcompiler.backends.cpu.targets import CPUS
from qcompiler.backends.cuda.targets import GPUS
from qcompiler.backends.target import Target
from qcompiler.errors import TargetError

GROUP = "qcompiler.targets"
"""Entry points of third parties: name → a `Target`."""

TARGETS: Mapping[str, Target] = {found.name: found for found in (*CPUS, *GPUS)}
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
