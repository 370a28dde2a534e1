"""Kernels as plain C functions in an object file, outside of any library of the project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tvm
from tvm.target import Target
from tvm.tirx import PrimFunc

from qcompiler.backends.cpu.program import PIPELINE, plain


def write_object(kernels: Mapping[str, PrimFunc], target: Target, path: Path) -> str:
    """Write `int symbol(pointers…)` for each kernel by symbol; returns the assembly."""
    functions = {symbol: plain(kernel, symbol) for symbol, kernel in kernels.items()}
    module = tvm.compile(tvm.IRModule(functions), target, tir_pipeline=PIPELINE).mod
    module.write_to_file(str(path))
    return str(module.inspect_source("s"))
