"""The machine that runs this: its CPU, its features, its cores."""

from __future__ import annotations

import os
import platform
import re
from functools import cache
from typing import Any

import tvm_ffi
from tvm.target import Target as TvmTarget
from tvm.target import codegen

from qcompiler.backends.target import Target

CODE_FEATURES = re.compile(
    r"(s?sse|avx|amx|fma|f16c|bmi|lzcnt|popcnt|movbe|gfni|vpclmul|cmov)|"
    r"(neon|dotprod|i8mm|bf16|fullfp16|sve|sme|lse|rdm|rcpc|complxnum|jsconv|fp-armv8)"
)
"""The features of LLVM that compiled arithmetic may use (x86, Arm), unlike those for operating
systems, which virtual machines often hide."""


@cache
def host_features() -> dict[str, bool]:
    """LLVM's feature name → whether this CPU has it."""
    found = tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return {str(name): bool(has) for name, has in found.items()}


def tvm_target(target: Target) -> TvmTarget:
    """TVM's form of a target; "native" becomes this machine's CPU as it is.

    A virtual machine may hide features that its CPU model has; they are switched off.
    """
    fields: dict[str, Any] = dict(target.tvm)
    if fields.get("mcpu") == "native":
        fields["mcpu"] = codegen.llvm_get_system_cpu()
        features = tvm_ffi.get_global_func("target.llvm_get_cpu_features")(TvmTarget(fields))
        hidden = [f"-{f}" for f in features if not host_features().get(str(f), True)]
        if hidden:
            fields["mattr"] = hidden
    return TvmTarget(fields)


def code_features(target: TvmTarget) -> tuple[str, ...]:
    """The CPU features that code for the target may use."""
    found = tvm_ffi.get_global_func("target.llvm_get_cpu_features")(target)
    return tuple(sorted(str(f) for f in found if CODE_FEATURES.match(str(f))))


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def architecture() -> str:
    """The machine's architecture as LLVM calls it, such as "x86_64" or "aarch64"."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)
