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

Ends = tuple[Sequence[TensorType], Sequence[TensorType]]
"""Types of the inputs and of the outputs of a program."""


@dataclass(frozen=True)
class Variant:
    """What one GPU architecture runs: its code, and the plan of each program."""

    architecture: str
    cubin: bytes
    plans: tuple[Plan, ...]


def link(
    folder: Path,
    compiler: str,
    variants: Sequence[Variant],
    constants: Sequence[tuple[int, np.ndarray]],
    ends: Sequence[Ends],
) -> Path:
    """Write the library into a folder that is empty, and that it is alone in afterwards.

    Args:
        folder: Where.
        compiler: The C compiler.
        variants: One for each architecture.
        constants: Offset and array of each, in increasing order.
        ends: Of each program.

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


def _program(variants: Sequence[Variant], constant_bytes: int, ends: Sequence[Ends]) -> str:
    """The tables of the programs, in C: see runtime.h."""
    blobs = [_blob("constants", "constants.bin")]
    blobs += [_blob(v.architecture, f"{v.architecture}.cubin") for v in variants]
    tables: list[str] = []
    names: dict[int, str] = {}
    for plan in (plan for variant in variants for plan in variant.plans):
        if id(plan) not in names:  # several architectures may run the same plan
            names[id(plan)] = f"plan_{len(names)}"
            tables.append(_plan(plan, names[id(plan)]))
    for v in variants:
        own = (f"&{names[id(plan)]}" for plan in v.plans)
        tables.append(_table("struct qc_plan *const", f"plans_{v.architecture}", own))
    codes = [
        f"{{{capability(v.architecture)}, blob_{v.architecture}, plans_{v.architecture}}}"
        for v in variants
    ]
    programs = []
    for i, (inputs, outputs) in enumerate(ends):
        for name, kinds in (("inputs", inputs), ("outputs", outputs)):
            tables.append(_table("int64_t", f"{name}_{i}", (str(kind.nbytes) for kind in kinds)))
        programs.append(f"{{inputs_{i}, outputs_{i}, {len(inputs)}, {len(outputs)}}}")
    architectures = " ".join(v.architecture for v in variants)
    library = (
        f'{{"{architectures}", codes, {len(codes)}, blob_constants, {constant_bytes}, '
        f"programs, {len(programs)}}}"
    )
    return "\n".join(
        [
            '#include "runtime.h"',
            *blobs,
            *tables,
            _table("struct qc_code", "codes", codes),
            _table("struct qc_ends", "programs", programs),
            f"const struct qc_library qc_library = {library};",
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
            f"static const struct qc_plan {name} = {{{name}_launches, {len(plan.nodes)}, "
            f"{name}_arguments, {name}_after, {plan.workspace_bytes}}};",
        ]
    )


def _table(kind: str, name: str, entries: Iterable[str]) -> str:
    """A static array; C has none of length 0."""
    rows = ",\n    ".join(entries) or "0"
    return f"static const {kind} {name}[] = {{\n    {rows}}};"
