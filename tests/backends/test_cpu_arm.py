"""Arm kernels: their instructions, and their results under QEMU where it is installed.

Debian and Ubuntu: ``apt-get install qemu-user-static gcc-aarch64-linux-gnu``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

from cpu_products import (  # noqa: E402
    Case,
    any_case,
    codes_case,
    raw_case,
    requantized_case,
    table_case,
    vector_case,
)
from kernel_objects import write_object  # noqa: E402
from tvm.target import Target, codegen  # noqa: E402

from qcompiler.backends.cpu import kernels as cpu  # noqa: E402
from qcompiler.backends.cpu.kernels import DOTPROD, GENERIC, I8MM, Isa  # noqa: E402
from qcompiler.backends.cpu.kernels.isa import best_isa  # noqa: E402
from qcompiler.backends.cpu.machine import tvm_target  # noqa: E402
from qcompiler.backends.cpu.targets import ARM  # noqa: E402
from qcompiler.backends.targets import TARGETS  # noqa: E402
from qcompiler.backends.tvm.problem import Conv2d, Matmul  # noqa: E402

CC = shutil.which("aarch64-linux-gnu-gcc")
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
SHAPES = [
    Matmul((1, 64), "uint8", 16),
    Matmul((5, 1), "int8", 1),
    Matmul((3, 11, 100), "int8", 52),
    Conv2d((1, 9, 9, 24), "uint8", 36, (3, 3), (1, 1), (1, 1, 1, 1), groups=3),
    Conv2d((1, 8, 9, 24), "int8", 24, (3, 3), (2, 2), (1, 1, 1, 1), groups=24),
    Conv2d((2, 7, 7, 16), "uint8", 32, (1, 1), (2, 2)),
]
ENDS = (raw_case, requantized_case, vector_case, table_case, codes_case)


def target(isa: Isa) -> Target:
    return Target({"kind": "llvm", "mtriple": ARM, "mcpu": isa.mcpu or "generic"})


def cases(isa: Isa) -> list[Case]:
    if not isa.features:
        return [any_case(seed) for seed in range(8)]
    shaped = [
        end(problem, np.random.default_rng(5), extreme=end is raw_case)
        for problem in SHAPES
        for end in ENDS
    ]
    return [*shaped, *map(any_case, range(16))]


@pytest.mark.skipif(
    CC is None or QEMU is None, reason="needs aarch64-linux-gnu-gcc and qemu-aarch64"
)
@pytest.mark.parametrize("isa", [I8MM, DOTPROD, GENERIC], ids=lambda isa: isa.name)
def test_same_bits_as_numpy(isa: Isa, tmp_path: Path):
    generated = cases(isa)
    kernels = {f"kernel{i}": cpu.build(c.problem, isa, c.epilogue) for i, c in enumerate(generated)}
    write_object(kernels, target(isa), tmp_path / "kernels.o")
    names = ", ".join(kernels)
    declared = "".join(f"extern int {name}();\n" for name in kernels)
    (tmp_path / "list.c").write_text(f"{declared}int (*const kernels[])() = {{{names}}};\n")
    main = Path(__file__).with_name("arm.c")
    program = tmp_path / "program"
    command = [CC, "-O1", "-static", "-Wl,-z,muldefs", "-o", program, main, tmp_path / "list.c"]
    subprocess.run([*command, tmp_path / "kernels.o"], check=True)
    wrong = []
    for i, case in enumerate(generated):
        packed = cpu.pack(case.problem, isa, case.weight, case.bias)
        out = np.full(case.expected.shape, 77, case.expected.dtype)
        files = []
        for j, array in enumerate((case.x, *packed, *case.operands, out)):
            files.append(tmp_path / str(j))
            array.tofile(files[-1])
        done = subprocess.run([QEMU, "-cpu", "max", program, str(i), *files], check=False)
        got = np.fromfile(files[-1], out.dtype).reshape(out.shape)
        if done.returncode or not (got == case.expected).all():
            wrong.append((case.problem, done.returncode))
    assert not wrong


@pytest.mark.parametrize(
    ("name", "isa"),
    [
        ("cpu:cortex-a72", GENERIC),
        ("cpu:cortex-a76", DOTPROD),
        ("cpu:neoverse-n1", DOTPROD),
        ("cpu:neoverse-v1", I8MM),
    ],
)
def test_chosen_by_features(name: str, isa: Isa):
    assert best_isa(tvm_target(TARGETS[name])) == isa


@pytest.mark.parametrize(
    ("isa", "dtype", "mnemonic"),
    [
        (DOTPROD, "int8", "sdot"),
        (DOTPROD, "uint8", "sdot"),
        (I8MM, "int8", "smmla"),
        (I8MM, "uint8", "usmmla"),
    ],
    ids=str,
)
def test_dot_instruction_in_a_loop_without_spills(
    isa: Isa, dtype: str, mnemonic: str, tmp_path: Path
):
    assert all(codegen.target_has_features(feature, target(isa)) for feature in isa.features)
    case = raw_case(Matmul((197, 384), dtype, 1152), np.random.default_rng(0))
    kernel = cpu.build(case.problem, isa, case.epilogue)
    text = write_object({"kernel": kernel}, target(isa), tmp_path / "kernel.o")
    lines = [line.split() for line in text.splitlines() if line.startswith("\t")]
    dots = [i for i, words in enumerate(lines) if words[0] == mnemonic]
    assert len(dots) >= 24
    inside = lines[dots[0] : dots[-1] + 1]
    assert not [w for w in inside if w[0].startswith("st")]
    assert not [w for w in inside if re.search(r"\bsp\b", " ".join(w[1:]))]
