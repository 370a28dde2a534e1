"""CPU matrix kernels against a numpy reference, bit for bit, on every ISA that runs here."""

import platform
import re
from collections.abc import Callable

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

from cpu_products import (  # noqa: E402
    RAW,
    Case,
    any_case,
    codes_case,
    raw_case,
    requantized_case,
    table_case,
    vector_case,
)
from tvm.target import Target, codegen  # noqa: E402
from tvm.tirx.script import builder as T  # noqa: E402

from qcompiler.backends.cpu import kernels as cpu  # noqa: E402
from qcompiler.backends.cpu.kernels import Isa  # noqa: E402
from qcompiler.backends.tvm.problem import Conv2d, Epilogue, Matmul  # noqa: E402
from qcompiler.errors import ShapeError  # noqa: E402


def host_target(isa: Isa) -> Target:
    if not isa.features:
        return Target({"kind": "llvm"})
    return Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()})


def runs_here(isa: Isa) -> bool:
    target = host_target(isa)
    return all(codegen.target_has_features(feature, target) for feature in isa.features)


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> None:
    tvm.get_global_func("runtime.config_threadpool")(1, 2)


X86 = (cpu.AVX512_VNNI_VBMI, cpu.AVX512_VNNI, cpu.AVX_VNNI, cpu.AVX2, cpu.SSE2)
ARM = (cpu.I8MM, cpu.DOTPROD)
OTHER = ARM if platform.machine() in ("x86_64", "AMD64") else X86  # in tests of their own


@pytest.fixture(
    params=[isa for isa in cpu.ISAS if not isa.matrix and isa not in OTHER],
    ids=lambda isa: isa.name,
)
def isa(request: pytest.FixtureRequest) -> Isa:
    if not runs_here(request.param):
        pytest.skip(f"this CPU lacks {request.param.name}")
    return request.param


def run_kernel(case: Case, isa: Isa) -> np.ndarray:
    kernel = cpu.build(case.problem, isa, case.epilogue)
    library = tvm.compile(tvm.IRModule({"main": kernel}), target=host_target(isa))
    packed = cpu.pack(case.problem, isa, case.weight, case.bias)
    assert tuple((v.shape, str(v.dtype)) for v in packed) == cpu.packed_types(case.problem, isa)
    out = tvm.runtime.tensor(np.full(case.expected.shape, 77, case.expected.dtype))
    library["main"](*(tvm.runtime.tensor(v) for v in (case.x, *packed, *case.operands)), out)
    return out.numpy()


CONVS = [
    Conv2d((1, 7, 9, 3), "uint8", 16, (7, 7), (2, 2), (3, 3, 3, 3)),
    Conv2d((2, 8, 8, 16), "uint8", 24, (3, 3), (1, 1), (1, 1, 1, 1)),
    Conv2d((1, 17, 15, 64), "uint8", 64, (3, 3), (2, 2), (1, 1, 1, 1)),
    Conv2d((1, 12, 30, 8), "int8", 40, (1, 1)),
    Conv2d((3, 9, 9, 20), "uint8", 33, (1, 1), (2, 2)),
    Conv2d((1, 10, 11, 5), "int8", 7, (3, 2), (1, 2), (0, 1, 2, 0), (2, 3)),
    Conv2d((9, 5, 4, 6), "uint8", 1, (2, 2)),
    Conv2d((1, 6, 40, 12), "int8", 130, (1, 5), (1, 1), (0, 2, 0, 2)),
    Conv2d((1, 9, 9, 24), "uint8", 36, (3, 3), (1, 1), (1, 1, 1, 1), groups=3),
    Conv2d((2, 5, 6, 6), "int8", 4, (2, 3), (1, 1), (1, 0, 0, 1), groups=2),
    Conv2d((1, 14, 14, 32), "uint8", 32, (3, 3), (1, 1), (1, 1, 1, 1), groups=32),
    Conv2d((2, 13, 9, 27), "int8", 27, (5, 3), (2, 1), (2, 1, 2, 1), (1, 2), groups=27),
    Conv2d((1, 4, 4, 3), "uint8", 3, (3, 3), groups=3),
    Conv2d((1, 4, 4, 4), "uint8", 8, (3, 3), groups=4),
    Conv2d((1, 1, 1, 1), "uint8", 1, (1, 1), (3, 3), (2, 4, 0, 0)),
    Conv2d((1, 40, 40, 48), "uint8", 32, (3, 3), (1, 1), (1, 1, 1, 1)),
]
PRODUCTS = [
    Matmul((1, 64), "uint8", 10),
    Matmul((197, 192), "uint8", 96),
    Matmul((2, 3, 49, 30), "int8", 17),
    Matmul((5, 1), "uint8", 1),
]


@pytest.mark.parametrize("problem", [*CONVS, *PRODUCTS], ids=str)
def test_accumulators(problem: Conv2d | Matmul, isa: Isa):
    case = raw_case(problem, np.random.default_rng(0))
    assert (run_kernel(case, isa) == case.expected).all()


@pytest.mark.parametrize("problem", [*CONVS[1:4], *PRODUCTS[:3]], ids=str)
def test_extreme_codes(problem: Conv2d | Matmul, isa: Isa):
    case = raw_case(problem, np.random.default_rng(0), extreme=True)
    assert (run_kernel(case, isa) == case.expected).all()


@pytest.mark.parametrize("seed", range(16))
def test_generated(seed: int, isa: Isa):
    case = any_case(seed)
    assert (run_kernel(case, isa) == case.expected).all()


@pytest.mark.parametrize("end", [requantized_case, vector_case, table_case, codes_case])
@pytest.mark.parametrize(
    "problem",
    [
        Conv2d((2, 9, 7, 12), "uint8", 42, (3, 3), (1, 1), (1, 1, 1, 1)),
        Conv2d((2, 9, 7, 12), "int8", 20, (1, 1)),
        Conv2d((1, 8, 9, 24), "uint8", 24, (3, 3), (2, 2), (1, 1, 1, 1), groups=24),
        Matmul((3, 11, 40), "uint8", 52),
    ],
    ids=str,
)
def test_epilogues(problem: Conv2d | Matmul, end: Callable[..., Case], isa: Isa):
    case = end(problem, np.random.default_rng(1))
    assert len(np.unique(case.expected)) > 100
    assert (run_kernel(case, isa) == case.expected).all()


FLOAT_INSTRUCTION = re.compile(
    r"v?(add|sub|mul|div|min|max|sqrt|rcp|rsqrt|round|rndscale|fn?m(add|sub)|u?comi|cmp|h?add"
    r"|addsub|dp|scalef)\w*(ps|pd|ss|sd|ph|sh)|v?cvt\w+"  # x86
    r"|f(add|sub|mul|div|n?madd|n?msub|ml[as]|min|max|sqrt|cmp|cvt|rint)\w*|[su]cvtf"  # aarch64
)
HALF_CONVERSIONS = ("__truncsfhf2", "__extendhfsf2")  # TVM adds them to every module, unused


def float_instructions(assembly: str) -> set[str]:
    found, function = set(), ""
    for line in assembly.splitlines():
        if label := re.match(r"([A-Za-z_]\w*):", line):
            function = label[1]
        words = line.split()
        if function not in HALF_CONVERSIONS and words and FLOAT_INSTRUCTION.fullmatch(words[0]):
            found.add(words[0])
    return found


INTEGER_ONLY = [
    Conv2d((1, 9, 9, 5), "int8", 40, (3, 3), (1, 1), (1, 1, 1, 1)),
    Conv2d((1, 8, 9, 24), "uint8", 24, (3, 3), groups=24),
]


def assembly_of(problem: Conv2d, isa: Isa, epilogue: Epilogue, target: Target) -> str:
    module = tvm.IRModule({"main": cpu.build(problem, isa, epilogue)})
    return tvm.compile(module, target=target).mod.inspect_source("asm")


@pytest.mark.parametrize("problem", INTEGER_ONLY, ids=str)
def test_no_floating_point_instruction(problem: Conv2d, isa: Isa):
    assert not float_instructions(assembly_of(problem, isa, RAW, host_target(isa)))


def test_floating_point_instructions_are_seen(isa: Isa):
    scaled = Epilogue((), "float32", lambda acc, buffers, index: T.cast(acc, "float32") * 0.1)
    assert float_instructions(assembly_of(INTEGER_ONLY[0], isa, scaled, host_target(isa)))


@pytest.mark.parametrize("isa", X86, ids=lambda isa: isa.name)
def test_dot_instruction_is_used(isa: Isa):
    target = Target({"kind": "llvm", "mcpu": isa.mcpu})
    assert all(codegen.target_has_features(feature, target) for feature in isa.features)
    assembly = assembly_of(INTEGER_ONLY[0], isa, RAW, target)
    assert {4: "vpdpbusd", 2: "pmaddwd"}[isa.group] in assembly
    assert "pmaddubsw" not in assembly


def test_index_beyond_int32_is_refused(isa: Isa):
    with pytest.raises(ShapeError, match="2147483648 elements"):
        cpu.build(Conv2d((8, 4096, 4096, 16), "uint8", 16, (1, 1)), isa, RAW)
