"""CUDA kernels through the compiler: for every architecture, free of float, on tensor cores."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

tvm = pytest.importorskip("tvm")

from simt_graphs import (  # noqa: E402
    attention,
    convolution,
    depthwise,
    lowered,
    normalization,
    product,
)

from qcompiler.backends.cuda.compiler import Code, Compiler  # noqa: E402
from qcompiler.backends.cuda.launches import launches, source  # noqa: E402
from qcompiler.backends.cuda.ptx import float_instructions  # noqa: E402
from qcompiler.backends.cuda.toolkit import find_compiler  # noqa: E402
from qcompiler.errors import TargetError  # noqa: E402
from qcompiler.graph import Graph  # noqa: E402
from qcompiler.ops import Window  # noqa: E402

GRAPHS: dict[str, Graph] = {
    "tokens": product((1, 197, 192), 192, "uint8", "int16"),
    "table": product((197, 384), 1536, "int8", "int8"),
    "odd": product((197, 806), 198, "uint8"),
    "large": product((4096, 1024), 1024, "uint8"),
    "first": convolution((1, 69, 69, 3), 64, Window((7, 7), (2, 2))),
    "bytes": convolution((1, 64, 64, 3), 64, Window((7, 7), (2, 2), (3,) * 4)),
    "3x3": convolution((1, 14, 14, 256), 256, Window((3, 3), (1, 1), (1,) * 4)),
    "depthwise": depthwise((1, 28, 28, 144), Window((3, 3), (1, 1), (1,) * 4)),
    "norm": normalization((1, 198, 384)),
    "long": normalization((64, 4096)),
    "attention": attention((198, 198), (64, 64), heads=3),
    "masked": attention((49, 49), (32, 32), heads=3, batch=4, mask=(4, 1, 49, 49)),
}
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90")


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    try:
        return find_compiler()
    except TargetError as error:
        pytest.skip(str(error))


@cache
def text(generation: int) -> str:
    functions = []
    for name, graph in GRAPHS.items():
        (kernel,) = lowered(graph, generation).kernels
        functions.append(launches(kernel.function, name.replace("3x3", "three")))
    return source(functions)


@cache
def compiled(compiler: Compiler, architecture: str) -> Code:
    return compiler.compile(text(min(int(architecture[3:]), 80)), architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_builds_without_float(compiler: Compiler, architecture: str) -> None:
    if architecture not in compiler.architectures():
        pytest.skip(f"{compiler.version} does not know {architecture}")
    code = compiled(compiler, architecture)
    assert len(code.cubin) > 0
    counts = float_instructions(code.ptx)
    assert len(counts) >= len(GRAPHS)
    assert sum(counts.values()) == 0, counts


def functions(ptx: str) -> dict[str, str]:
    """The instructions of each kernel."""
    parts = re.split(r"\.visible \.entry (\w+?)_kernel\(", ptx)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(
    ("architecture", "shape"), [("sm_75", "m8n8k16"), ("sm_80", "m16n8k32"), ("sm_90", "m16n8k32")]
)
def test_products_run_on_tensor_cores(compiler: Compiler, architecture: str, shape: str) -> None:
    if architecture not in compiler.architectures():
        pytest.skip(f"{compiler.version} does not know {architecture}")
    found = functions(compiled(compiler, architecture).ptx)
    for name in ("tokens", "table", "odd", "large", "first", "three", "attention", "masked"):
        codes = "u8" if name not in ("table", "attention", "masked") else "[su]8"
        pattern = rf"mma\.sync\.aligned\.{shape}\.row\.col\.s32\.{codes}\.s8\.s32"
        assert re.search(pattern, found[name]), name
        assert "ldmatrix.sync" in found[name], name
        copies = "cp.async.c" in found[name]
        assert copies == (architecture != "sm_75"), name


def test_whole_vectors_move_through_memory(compiler: Compiler) -> None:
    """An address whose alignment the code generator cannot see would be read byte by byte."""
    found = functions(compiled(compiler, "sm_80").ptx)
    for name in ("tokens", "table", "large", "three"):
        loads = re.findall(r"\bld\.shared\.?([\w.]*)", found[name])
        assert set(loads) <= {"v4.u32", "v2.u64", "u32", "v4.b32"}, (name, set(loads))
    assert "st.global.u8" not in found["attention"]


def test_nothing_lies_in_local_memory(compiler: Compiler) -> None:
    """Fragments are arrays to the compiler: one variable index, and they leave the registers."""
    for name, ptx in functions(compiled(compiler, "sm_80").ptx).items():
        assert "ld.local" not in ptx, name
        assert "st.local" not in ptx, name


HOST = """
#include <cstdio>
#define __device__
#define __forceinline__ static inline
// CUDA Math API: selector nibble i chooses byte i of the result among the eight of {y, x}.
static int __byte_perm(unsigned x, unsigned y, unsigned s) {
  unsigned long long both = (unsigned long long)y << 32 | x;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) r |= (unsigned)(both >> 8 * (s >> 4 * i & 7) & 255) << 8 * i;
  return (int)r;
}
%s
int main() {
  int r[4] = {0x03020100, 0x13121110, 0x23222120, 0x33323130};
  qc_transpose_4x4(r[0], r[1], r[2], r[3]);
  std::printf("%%08x %%08x %%08x %%08x", r[0], r[1], r[2], r[3]);
}
"""


def test_bytes_change_places_in_the_source_as_in_the_machine(tmp_path: Path) -> None:
    """The only function of `instructions` that is more than one instruction."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    found = re.search(r"\n__device__[^\n]*qc_transpose_4x4.*?\n}\n", text(80), re.DOTALL)
    assert found is not None
    (tmp_path / "main.cc").write_text(HOST % found[0])
    subprocess.run([compiler, "main.cc", "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run([str(tmp_path / "main")], capture_output=True, text=True, check=True)
    assert done.stdout == "30201000 31211101 32221202 33231303"
