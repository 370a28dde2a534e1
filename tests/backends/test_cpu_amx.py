"""AMX kernels as compiled, on any x86-64 CPU: where it has no AMX, `amx.c` is the tile unit.

All buffers end where unmapped memory begins, so nothing can be read or written behind them.
"""

from __future__ import annotations

import ctypes
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi

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

from qcompiler import evaluate, import_onnx, load, quantize  # noqa: E402
from qcompiler.backends.cpu import kernels as cpu  # noqa: E402
from qcompiler.backends.cpu.build import build  # noqa: E402
from qcompiler.backends.cpu.kernels import AMX_INT8  # noqa: E402
from qcompiler.backends.cpu.kernels.plan import make_plan  # noqa: E402
from qcompiler.backends.cpu.targets import X86, cpu_target  # noqa: E402
from qcompiler.backends.tvm.problem import Conv2d, Matmul  # noqa: E402
from qcompiler.passes import LOWERING, PassManager  # noqa: E402

DIGITS = Path(__file__).parents[2] / "models" / "digits"
HOST = (platform.machine(), sys.platform) == ("x86_64", "linux")
CC = shutil.which("cc")
TILES = ("amx-tile", "amx-int8")
VECTORS = ("avx512f", "avx512bw", "avx512vl")


def features_here() -> dict[str, bool]:
    """LLVM's feature → whether this CPU has it; the tiles it need not have."""
    found = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return {str(name): bool(has) for name, has in found.items()} | dict.fromkeys(TILES, True)


needs_emulation = pytest.mark.skipif(
    not HOST or CC is None or not all(features_here().get(f, False) for f in VECTORS),
    reason="AMX kernels run on x86-64 Linux with AVX-512, whose vectors they use, and a C compiler",
)


def isa_here() -> cpu.Isa:
    """AMX with what else this CPU has."""
    has = features_here()
    return replace(AMX_INT8, permutes=all(has.get(f, False) for f in AMX_INT8.features))


def target_here() -> Target:
    """A CPU with AMX as far as this one agrees with it."""
    amx = {"kind": "llvm", "mcpu": AMX_INT8.mcpu}
    features = tvm.get_global_func("target.llvm_get_cpu_features")(Target(amx))
    has = features_here()
    return Target({**amx, "mattr": [f"-{f}" for f in features if not has.get(str(f), True)]})


class Machine:
    """Runs kernels in this process, AMX instructions in `amx.c` if need be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        library = folder / "amx.so"
        source = Path(__file__).with_name("amx.c")
        command = [str(CC), "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        self.amx = ctypes.CDLL(str(library))
        self.amx.amx_error.restype = ctypes.c_char_p
        self.amx.guarded.restype = ctypes.c_void_p
        self.amx.guarded.argtypes = [ctypes.c_size_t]
        self.amx.release_guarded.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.modules: list[tvm_ffi.Module] = []

    def run(self, case: Case) -> np.ndarray:
        isa = isa_here()
        name = f"kernel{len(self.modules)}"
        built = self.folder / f"{name}.o"
        kernel = cpu.build(case.problem, isa, case.epilogue)
        write_object({name: kernel}, target_here(), built)
        library = built.with_suffix(".so")
        subprocess.run([str(CC), "-shared", "-o", str(library), str(built)], check=True)
        packed = cpu.pack(case.problem, isa, case.weight, case.bias)
        out = np.full(case.expected.shape, 77, case.expected.dtype)
        arrays = (case.x, *packed, *case.operands, out)
        memory = [ctypes.c_void_p(self.amx.guarded(v.nbytes)) for v in arrays]
        for address, array in zip(memory, arrays, strict=True):
            data = np.ascontiguousarray(array)
            ctypes.memmove(address, data.ctypes.data, data.nbytes)
        self.modules.append(tvm_ffi.load_module(str(library)))  # which connects TVM's runtime
        assert ctypes.CDLL(str(library))[name](*memory) == 0
        ctypes.memmove(out.ctypes.data, memory[-1], out.nbytes)
        for address, array in zip(memory, arrays, strict=True):
            self.amx.release_guarded(address, array.nbytes)
        assert self.amx.amx_error() == b""
        return out


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    found = Machine(tmp_path_factory.mktemp("amx"))
    tvm.get_global_func("runtime.config_threadpool")(1, 2)
    found.amx.amx_install()
    yield found
    found.amx.amx_remove()


@needs_emulation
@pytest.mark.parametrize("seed", range(16))
def test_generated(seed: int, machine: Machine):
    case = any_case(seed)
    assert (machine.run(case) == case.expected).all()


SHAPES = [
    Matmul((197, 192), "uint8", 96),  # whole tiles of depth
    Matmul((1, 64), "uint8", 16),
    Matmul((5, 1), "int8", 1),
    Matmul((3, 11, 100), "int8", 52),
    Conv2d((1, 14, 14, 32), "uint8", 48, (3, 3), (1, 1), (1, 1, 1, 1)),  # tiles below each other
    Conv2d((2, 7, 7, 64), "int8", 32, (1, 1), (2, 2)),
    Conv2d((1, 20, 40, 3), "uint8", 33, (7, 7), (2, 2), (3, 3, 3, 3)),
    Conv2d((1, 9, 9, 24), "uint8", 36, (3, 3), (1, 1), (1, 1, 1, 1), groups=3),
    Conv2d((1, 8, 9, 24), "uint8", 24, (3, 3), (2, 2), (1, 1, 1, 1), groups=24),
]


@needs_emulation
@pytest.mark.parametrize("problem", SHAPES, ids=str)
@pytest.mark.parametrize("end", [raw_case, requantized_case, vector_case, table_case, codes_case])
def test_shapes(problem: Conv2d | Matmul, end, machine: Machine):
    case = end(problem, np.random.default_rng(3), extreme=end is raw_case)
    assert (machine.run(case) == case.expected).all()


@needs_emulation
def test_tiles_are_what_runs(machine: Machine):
    here = Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})
    if codegen.target_has_features("amx-int8", here):
        pytest.skip("this CPU executes AMX by itself")
    before = machine.amx.amx_count()
    machine.run(raw_case(SHAPES[0], np.random.default_rng(0)))
    tiles = 7 * 3  # 197 pixels by 96 channels, in tiles of 30 by 32 of 3 chunks
    assert machine.amx.amx_count() - before >= tiles * (4 + 3 * (4 + 4) + 4)


def assembly(problem: Conv2d | Matmul, tmp_path: Path, mcpu: str = AMX_INT8.mcpu) -> str:
    case = table_case(problem, np.random.default_rng(0))
    target = Target({"kind": "llvm", "mcpu": mcpu})
    assert all(codegen.target_has_features(feature, target) for feature in AMX_INT8.features)
    kernel = cpu.build(problem, AMX_INT8, case.epilogue)
    return write_object({"kernel": kernel}, target, tmp_path / "kernel.o")


@pytest.mark.parametrize("mcpu", ["sapphirerapids", "graniterapids", "diamondrapids"])
@pytest.mark.parametrize(("dtype", "dot"), [("uint8", "tdpbusd"), ("int8", "tdpbssd")])
def test_reduction_stays_in_tiles(dtype: str, dot: str, mcpu: str, tmp_path: Path):
    text = assembly(Matmul((197, 1536), dtype, 384), tmp_path, mcpu)
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.startswith("\t")]
    products = [i for i, line in enumerate(lines) if line[0] == dot]
    inside = [line[0] for line in lines[products[0] : products[-1] + 1]]
    assert inside.count("tileloadd") == len(products) - 2  # one per product, two before the first
    assert not {"tilestored", "tilezero", "ldtilecfg"} & set(inside)
    assert not [mnemonic for mnemonic in inside if re.match("v?p|vmov", mnemonic)]
    # LLVM must not rename registers, whose shapes differ.
    assert {lines[i][1] for i in products} == {
        f"%tmm{right}, %tmm{left}, %tmm{total}"
        for total, left, right in [(0, 6, 4), (1, 6, 5), (2, 7, 4), (3, 7, 5)]
    }


def test_one_configuration_per_thread(tmp_path: Path):
    text = assembly(Matmul((197, 384), "uint8", 1152), tmp_path)
    assert len(re.findall(r"\bldtilecfg\b", text)) == 1
    assert len(re.findall(r"\btilerelease\b", text)) == 1


@pytest.mark.parametrize(
    ("problem", "tile", "vectors"),
    [
        (Matmul((197, 384), "uint8", 1152), (1, 30), 2),
        (Matmul((128, 768), "uint8", 768), (1, 32), 2),
        (Matmul((1, 2048), "uint8", 1000), (1, 1), 3),
        (Conv2d((1, 14, 14, 256), "uint8", 256, (3, 3), (1, 1), (1, 1, 1, 1)), (2, 14), 2),
    ],
    ids=str,
)
def test_tile_choice(problem: Conv2d | Matmul, tile: tuple[int, int], vectors: int):
    plan = make_plan(problem, AMX_INT8)
    assert (plan.tile, plan.vectors) == (tile, vectors)


@needs_emulation
@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_whole_network(name: str, machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qcompiler.backends.cpu.machine.lacking", lambda features: [])
    graph = import_onnx(DIGITS / f"{name}.onnx")
    integer = quantize(graph, DIGITS / "calib.npz")
    chosen = target_here().attrs
    features = tuple(str(f) for f in chosen["mattr"])
    amx = cpu_target("amx", X86, str(chosen["mcpu"]), features)
    monkeypatch.setattr(
        "qcompiler.backends.cpu.kernels.product_rule.best_isa", lambda _: isa_here()
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.so"
        kernels = PassManager(LOWERING)(integer)
        build(kernels, amx).save(path)
        model = load(path, threads=2)
        x = np.load(DIGITS / "test.npz")["x"]
        before = machine.amx.amx_count()
        for sample in x[:5]:
            (want,) = evaluate(integer, {str(integer.inputs[0].name): sample[None]}).values()
            (got,) = model(sample[None]).values()
            assert (got == want).all()
    assert machine.amx.amx_error() == b""
    assert machine.amx.amx_count() > before
