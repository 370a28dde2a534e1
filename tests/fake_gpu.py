"""GPUs without a GPU: a driver that is not one (fake_gpu.c), and kernels that run on the CPU.

    gpu = FakeGpu(driver)
    model = gpu.build(graph)     # what `qcompiler.backends.cuda.build.build` gives, without nvcc
    model(x)

Kernels of the default schedule run as the C++ that their CUDA source is (fake_threads.h); kernels
that were written for tensor cores run on the SIMT machine (simt.py).
"""

from __future__ import annotations

import ctypes
import itertools
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from simt import run as run_simt
from tvm import s_tir, tirx

from qcompiler.artifact import CompiledModel
from qcompiler.backends.cuda import build as builder
from qcompiler.backends.cuda.compiler import Code
from qcompiler.backends.cuda.launches import Launch, Launches, launches, source
from qcompiler.backends.targets import target
from qcompiler.graph import Graph

HERE = Path(__file__).parent
MAGIC = b"\x7fELF"

_PROTOTYPE = re.compile(r'extern "C" __global__ void __launch_bounds__\(\d+\) (\w+)\((.*)\);')
_BODY = r"void __launch_bounds__\(\d+\) {}\([^;]*?\) {{\n(.*?)^}}"


def build_driver(folder: Path) -> Path | None:
    """The driver's library, or None where there is no compiler."""
    if shutil.which("gcc") is None or shutil.which("g++") is None:
        return None
    library = folder / "libfake_cuda.so"
    command = ["gcc", "-std=gnu11", "-shared", "-fPIC", "-O1", "-o", library, HERE / "fake_gpu.c"]
    subprocess.run([*command, "-pthread"], check=True)
    return library


@dataclass(frozen=True)
class Call:
    """A launch that took place: whose code it ran, its grid, block and dynamic shared memory."""

    architecture: str
    symbol: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_bytes: int


class State(ctypes.Structure):
    """`struct fake` of the driver."""

    ARITY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p)
    LAUNCH = ctypes.CFUNCTYPE(
        None,
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.c_uint),
        ctypes.POINTER(ctypes.c_uint),
        ctypes.c_uint,
        ctypes.POINTER(ctypes.c_ulonglong),
    )
    _fields_ = (
        ("capability", ctypes.c_int),
        ("devices", ctypes.c_int),
        ("version", ctypes.c_int),
        ("failing", ctypes.c_char * 64),
        ("failure", ctypes.c_int),
        ("arity", ARITY),
        ("launch", LAUNCH),
        ("launched_graphs", ctypes.c_int),
        ("updates", ctypes.c_int),
        ("contexts", ctypes.c_int),
        ("waits", ctypes.c_int),
        ("leaked", ctypes.c_int),
        ("seed", ctypes.c_int),
        ("copied", ctypes.c_size_t),
    )


class FakeGpu:
    """The driver with a machine behind it.

    Attributes:
        state: What the driver has counted, and what it is to do.
        calls: The launches so far.
        errors: What went wrong inside kernels.
    """

    def __init__(self, driver: Path) -> None:
        self.path = str(driver)
        self.library = ctypes.CDLL(self.path)
        self.state = State.in_dll(self.library, "fake_state")
        self.calls: list[Call] = []
        self.errors: list[Exception] = []
        self._modules: dict[str, _Module] = {}
        self._numbers = itertools.count()
        self._callbacks = State.ARITY(self._arity), State.LAUNCH(self._launch)
        self.state.arity, self.state.launch = self._callbacks

    def finish(self) -> None:
        """Do all that was enqueued."""
        self.library.fake_finish()

    def build(
        self, graph: Graph, name: str = "cuda:sm_90", *, tables: bool = True
    ) -> CompiledModel:
        """Compile for this machine.

        Args:
            graph: As for `build`.
            name: Of a CUDA target.
            tables: Whether the target's kernel tables take part.
        """
        chosen = target(name) if tables else replace(target(name), kernels=())
        lowered: dict[str, tuple[tirx.PrimFunc, Launches]] = {}

        def record(function: tirx.PrimFunc, symbol: str) -> Launches:
            lowered[symbol] = function, launches(function, symbol)
            return lowered[symbol][1]

        compiler = _Compiler(lambda architecture: self._new_module(architecture, lowered))
        with (
            patch.object(builder, "launches", record),
            patch.object(builder, "find_compiler", lambda: compiler),
        ):
            return builder.build(graph, chosen)

    def _new_module(
        self, architecture: str, lowered: dict[str, tuple[tirx.PrimFunc, Launches]]
    ) -> str:
        name = f"{architecture}.{next(self._numbers)}"
        self._modules[name] = _Module(lowered)
        return name

    def _arity(self, symbol: bytes) -> int:
        module, _, name = symbol.decode().partition("/")
        launch = self._modules[module].launch.get(name)
        return -1 if launch is None else len(launch.arguments)

    def _launch(self, symbol: bytes, grid: Any, block: Any, shared: int, values: Any) -> None:
        try:
            module, _, name = symbol.decode().partition("/")
            architecture = module.partition(".")[0]
            self.calls.append(Call(architecture, name, tuple(grid[:3]), tuple(block[:3]), shared))
            self._modules[module].run(name, grid, block, values)
        except Exception as error:  # a callback of C has nobody to raise to
            self.errors.append(error)


@dataclass(frozen=True)
class _Compiler:
    """What stands for nvcc: cubins are names of modules."""

    new_module: Callable[[str], str]
    version: str = "fake 1.0"

    def architectures(self) -> tuple[str, ...]:
        return ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90")

    def compile(self, source: str, architecture: str) -> Code:
        return Code("", MAGIC + self.new_module(architecture).encode() + b"\0")


@dataclass
class _Module:
    """The kernels of one model."""

    lowered: dict[str, tuple[tirx.PrimFunc, Launches]]
    folder: Any = field(default_factory=tempfile.TemporaryDirectory)

    @cached_property
    def launch(self) -> dict[str, Launch]:
        """By symbol of the device function."""
        return {x.symbol: x for _, kernel in self.lowered.values() for x in kernel.sequence}

    @cached_property
    def written(self) -> dict[str, tirx.PrimFunc]:
        """The functions that the SIMT machine runs, by symbol of the device function."""
        return {
            kernel.sequence[0].symbol: function
            for function, kernel in self.lowered.values()
            if not isinstance(function.body, s_tir.SBlockRealize)
        }

    @cached_property
    def compiled(self) -> Any:
        """The library of all other kernels."""
        scheduled = [
            kernel
            for function, kernel in self.lowered.values()
            if isinstance(function.body, s_tir.SBlockRealize)
        ]
        text = source(scheduled)
        text = text[text.index('extern "C" __global__') :]
        lines = [f'#include "{HERE / "fake_threads.h"}"', text]
        for name, parameters in _PROTOTYPE.findall(text):
            lines += _runner(name, parameters, "__syncthreads" in _body(text, name))
        place = Path(self.folder.name)
        (place / "kernels.cpp").write_text("\n".join(lines))
        command = ["g++", "-std=c++17", "-O0", "-w", "-shared", "-fPIC", "-ffp-contract=off"]
        subprocess.run([*command, "-o", "kernels.so", "kernels.cpp"], cwd=place, check=True)
        return ctypes.CDLL(str(place / "kernels.so"))

    def run(self, symbol: str, grid: Any, block: Any, values: Any) -> None:
        """Launch."""
        if symbol not in self.written:
            getattr(self.compiled, f"run_{symbol}")(grid, block, values)
            return
        function = self.written[symbol]
        addresses = dict(zip(self.launch[symbol].arguments, values, strict=False))
        arrays = [_array(buffer, addresses.get(i)) for i, buffer in enumerate(function.params)]
        run_simt(function, arrays)


def _body(text: str, name: str) -> str:
    found = re.search(_BODY.format(name), text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def _runner(name: str, parameters: str, together: bool) -> list[str]:
    """A function that unpacks the arguments of a kernel, and one that runs its grid."""
    kinds = [p.replace("__restrict__", "").rsplit(None, 1)[0] for p in parameters.split(",")]
    arguments = ", ".join(f"({kind})a[{i}]" for i, kind in enumerate(kinds))
    return [
        f"static void call_{name}(const unsigned long long *a) {{ {name}({arguments}); }}",
        f'extern "C" void run_{name}(const unsigned *grid, const unsigned *block, '
        f"const unsigned long long *a) {{ run(call_{name}, {str(together).lower()}, grid, block, "
        "a); }",
    ]


def _array(buffer: Any, address: int | None) -> np.ndarray:
    """The memory of an argument; any, if the kernel does not use it."""
    shape = tuple(int(d) for d in buffer.shape)
    dtype = np.dtype(str(buffer.dtype))
    if address is None:
        return np.zeros(shape, dtype)
    memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(address)
    return np.frombuffer(memory, dtype).reshape(shape)
