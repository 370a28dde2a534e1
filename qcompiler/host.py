"""The machine that compiles and runs: its architecture, its cores, its C compiler."""

from __future__ import annotations

import os
import platform
import shutil

from qcompiler.errors import TargetError


def architecture() -> str:
    """The machine's architecture as LLVM calls it, such as "x86_64" or "aarch64"."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def c_compiler(target: str) -> str:
    """The C compiler to link libraries of that architecture with.

    Raises:
        TargetError: there is none.
    """
    names = ["cc", "gcc", "clang"]
    if target != architecture():
        names = [f"{target}-linux-gnu-gcc"]
    for name in (os.environ.get("CC"), *names):
        if name and (found := shutil.which(name)):
            return found
    raise TargetError(
        f"no C compiler to link the library with: install {' or '.join(names)}, or set CC"
    )
