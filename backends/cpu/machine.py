"""CPUs and their features: this machine's, and those that a target has.

TVM is only imported where a target is compiled for, or where the kernel cannot vouch for a feature.
"""

from __future__ import annotations

import ctypes
import platform
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompiler.backends.target import Target
from qcompiler.host import architecture

if TYPE_CHECKING:
    from tvm.target import Target as TvmTarget

CODE_FEATURES = re.compile(
    r"(s?sse|avx|amx|fma|f16c|bmi|lzcnt|popcnt|movbe|gfni|vpclmul|cmov)|"
    r"(neon|dotprod|i8mm|bf16|fullfp16|sve|sme|lse|rdm|rcpc|complxnum|jsconv|fp-armv8)"
)
"""The features of LLVM that compiled arithmetic may use (x86, Arm), unlike those for operating
systems, which virtual machines often hide."""

LINUX_NAMES = {"pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "bmi1": "bmi", "abm": "lzcnt"}
"""Flags in /proc/cpuinfo whose name in LLVM is not the same without underscores."""

ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18
"""x86-64 Linux: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)."""


@cache
def host_features() -> dict[str, bool]:
    """LLVM's feature name → whether this CPU has it and the system lets this process use it."""
    import tvm  # noqa: F401  # registers the function
    import tvm_ffi

    found = tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return {str(f): bool(has) and _permitted(str(f)) for f, has in found.items()}


def lacking(features: Iterable[str]) -> list[str]:
    """Those of LLVM's features that this machine does not have.

    What the kernel lists needs no further proof; only what it does not list is asked of LLVM, whose
    library is large.
    """
    listed = _listed_features()
    doubtful = [f for f in features if f not in listed or not _permitted(f)]
    return [f for f in doubtful if not host_features().get(f, False)] if doubtful else []


@cache
def _listed_features() -> frozenset[str]:
    """Features of x86 CPUs that Linux lists, by LLVM's names."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    names = {LINUX_NAMES.get(flag, flag.replace("_", "")) for flag in flags}
    return frozenset(names | {f.replace("amx", "amx-") for f in names if f.startswith("amx")})


def _permitted(feature: str) -> bool:
    return not feature.startswith("amx") or amx_permitted()


@cache
def amx_permitted() -> bool:
    """Ask Linux for the tile registers, which a process must do once; False where it refuses."""
    if sys.platform != "linux" or architecture() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0


def tvm_target(target: Target) -> TvmTarget:
    """TVM's form of a target; "native" becomes this machine's CPU as it is.

    A virtual machine may hide features that its CPU model has, and Linux may refuse AMX; they are
    switched off.
    """
    import tvm_ffi
    from tvm.target import Target as TvmTarget
    from tvm.target import codegen

    fields: dict[str, Any] = dict(target.tvm)
    if fields.get("mcpu") == "native":
        fields["mcpu"] = codegen.llvm_get_system_cpu()
        features = tvm_ffi.get_global_func("target.llvm_get_cpu_features")(TvmTarget(fields))
        hidden = [f"-{f}" for f in features if not host_features().get(str(f), True)]
        if hidden:
            fields["mattr"] = hidden
    return TvmTarget(fields)


def target_architecture(target: TvmTarget) -> str:
    """The architecture that code for the target is for."""
    triple = str(target.attrs.get("mtriple", ""))
    return triple.partition("-")[0] or architecture()


def code_features(target: TvmTarget) -> tuple[str, ...]:
    """The CPU features that code for the target may use."""
    import tvm_ffi

    found = tvm_ffi.get_global_func("target.llvm_get_cpu_features")(target)
    return tuple(sorted(str(f) for f in found if CODE_FEATURES.match(str(f))))


@cache
def cpu_name() -> str:
    """What the processor calls itself, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
