"""The shared library: cubins, constants and the tables of the program, linked with the runtime."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcompiler.backends.cuda.plan import Plan
from qcompiler.backends.cuda.targets import capability
from qcompiler.backends.tvm.memory import ALIGNMENT
from qcompiler.errors import TargetError
from qcompiler.types import TensorType

RUNTIME = Path(__file__).parent / "runtime"
SOURCES = ("driver.c", "model.c", "run.c")
LIBRARY = "model.so"

_DLPACK = {"i": 0, "u": 1, "f": 2, "b": 6}
"""Kind of a numpy dtype → DLDataTypeCode."""


@dataclass(frozen=True)
class Variant:
    """What one GPU architecture runs."""

    architecture: str
    cubin: bytes
    plan: Plan


def link(
    folder: Path,
    compiler: str,
    variants: Sequence[Variant],
    constants: Sequence[tuple[int, np.ndarray]],
    ends: tuple[Sequence[TensorType], Sequence[TensorType]],
) -> Path:
    """Write the library into a folder that is empty, and that it is alone in afterwards.

    Args:
        folder: Where.
        compiler: The C compiler.
        variants: One for each architecture.
        constants: Offset and array of each, in increasing order.
        ends: Types of the inputs and of the outputs.

    Raises:
        TargetError: the C compiler refuses.
    """
    for variant in variants:
        (folder / f"{variant.architecture}.cubin").write_bytes(variant.cubin)
    end = 0
    with (folder / "constants.bin").open("wb") as file:
        for offset, array in constants:
            file.seek(offset)
            file.write(np.ascontiguousarray(array).data)
            end = file.tell()
    (folder / "program.c").write_text(_program(variants, end, ends))
    command = [compiler, "-shared", "-fPIC", "-O2", "-std=gnu11", "-fvisibility=hidden"]
    command += ["-Wl,-Bsymbolic", "-Wl,-z,noexecstack", f"-I{RUNTIME}", "-o", LIBRARY]
    command += ["program.c", *(str(RUNTIME / name) for name in SOURCES), "-ldl", "-pthread"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TargetError(f"{compiler} cannot link the library: {reason}")
    for path in folder.iterdir():
        if path.name != LIBRARY:
            path.unlink()
    return folder / LIBRARY


def _program(
    variants: Sequence[Variant],
    constant_bytes: int,
    ends: tuple[Sequence[TensorType], Sequence[TensorType]],
) -> str:
    """The tables of the program, in C: see runtime.h."""
    blobs = [_blob("constants", "constants.bin")]
    blobs += [_blob(v.architecture, f"{v.architecture}.cubin") for v in variants]
    tables: list[str] = []
    names: dict[int, str] = {}
    for variant in variants:  # several architectures may run the same plan
        key = id(variant.plan)
        if key not in names:
            names[key] = f"plan_{len(names)}"
            tables.append(_plan(variant.plan, names[key]))
    codes = [
        f"{{{capability(v.architecture)}, blob_{v.architecture}, {names[id(v.plan)]}_launches, "
        f"{len(v.plan.nodes)}, {names[id(v.plan)]}_arguments, {names[id(v.plan)]}_after, "
        f"{v.plan.workspace_bytes}}}"
        for v in variants
    ]
    inputs, outputs = (
        _table("struct qc_value", n, map(_value, x))
        for n, x in zip(("inputs", "outputs"), ends, strict=True)
    )
    architectures = " ".join(v.architecture for v in variants)
    program = (
        f'{{"{architectures}", codes, {len(codes)}, blob_constants, {constant_bytes}, '
        f"inputs, outputs, {len(ends[0])}, {len(ends[1])}}}"
    )
    return "\n".join(
        [
            '#include "runtime.h"',
            *blobs,
            *tables,
            _table("struct qc_code", "codes", codes),
            inputs,
            outputs,
            f"const struct qc_program qc_program = {program};",
            "",
        ]
    )


def _blob(name: str, path: str) -> str:
    return (
        f'__asm__(".section .rodata\\n.balign {ALIGNMENT}\\n'
        f'blob_{name}: .incbin \\"{path}\\"\\n.byte 0\\n.text\\n");\n'
        f'extern const char blob_{name}[] __attribute__((visibility("hidden")));'
    )


def _plan(plan: Plan, name: str) -> str:
    launches: list[str] = []
    arguments: list[str] = []
    after: list[str] = []
    for node in plan.nodes:
        launch = node.launch
        grid, block = (", ".join(map(str, sizes)) for sizes in (launch.grid, launch.block))
        launches.append(
            f'{{"{launch.symbol}", {{{grid}}}, {{{block}}}, {launch.shared_bytes}, '
            f"{len(node.arguments)}, {len(arguments)}, {len(node.after)}, {len(after)}}}"
        )
        arguments += [f"{{{a.space}, {a.place}}}" for a in node.arguments]
        after += [str(earlier) for earlier in node.after]
    return "\n".join(
        [
            _table("struct qc_launch", f"{name}_launches", launches),
            _table("struct qc_argument", f"{name}_arguments", arguments),
            _table("int32_t", f"{name}_after", after),
        ]
    )


def _value(kind: TensorType) -> str:
    dtype = np.dtype(kind.dtype)
    shape = ", ".join(map(str, kind.shape)) or "0"
    bits = 8 * dtype.itemsize
    return f"{{{kind.nbytes}, {{{shape}}}, {kind.rank}, {_DLPACK[dtype.kind]}, {bits}}}"


def _table(kind: str, name: str, entries: Iterable[str]) -> str:
    """A static array; C has none of length 0."""
    rows = ",\n    ".join(entries) or "0"
    return f"static const {kind} {name}[] = {{\n    {rows}}};"
