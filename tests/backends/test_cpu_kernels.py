"""CPU matrix kernels against a numpy reference, bit for bit, on every ISA that runs here."""

import re
from typing import Any

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

from tvm.target import Target, codegen  # noqa: E402
from tvm.tirx.script import builder as T  # noqa: E402

from qcompiler.backends.tvm.kernels import cpu  # noqa: E402
from qcompiler.backends.tvm.kernels.cpu import Conv2d, Epilogue, Isa, Matmul  # noqa: E402
from qcompiler.errors import ShapeError  # noqa: E402

RAW = Epilogue((), "int32", lambda acc, buffers, index: acc)


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


@pytest.fixture(params=cpu.ISAS, ids=lambda isa: isa.name)
def isa(request: pytest.FixtureRequest) -> Isa:
    if not runs_here(request.param):
        pytest.skip(f"this CPU lacks {request.param.name}")
    return request.param


def conv_reference(p: Conv2d, x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    n, oh, ow, o = p.out_shape
    top, left, bottom, right = p.pads
    x = np.pad(x.astype(np.int64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    acc = np.zeros((n, oh, ow, o), np.int64) + bias
    cg, og = p.x_shape[3] // p.groups, o // p.groups
    for ky in range(p.kernel[0]):
        for kx in range(p.kernel[1]):
            y0, x0 = ky * p.dilations[0], kx * p.dilations[1]
            seen = x[:, y0 :: p.strides[0], x0 :: p.strides[1]][:, :oh, :ow]
            for g in range(p.groups):
                part = w[g * og : (g + 1) * og, :, ky, kx].astype(np.int64)
                acc[..., g * og : (g + 1) * og] += seen[..., g * cg : (g + 1) * cg] @ part.T
    return acc.astype(np.int32)


def codes(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, extreme: bool
) -> np.ndarray:
    info = np.iinfo(dtype)
    if extreme:
        return rng.choice(np.array([info.min, info.max], dtype), shape)
    return rng.integers(info.min, info.max + 1, shape, dtype)


def run_kernel(
    problem: Conv2d | Matmul,
    isa: Isa,
    epilogue: Epilogue,
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray,
    operands: tuple[Any, ...] = (),
) -> np.ndarray:
    kernel = cpu.build(problem, isa, epilogue)
    library = tvm.compile(tvm.IRModule({"main": kernel}), target=host_target(isa))
    packed = cpu.pack(problem, isa, w, bias)
    assert tuple((v.shape, str(v.dtype)) for v in packed) == cpu.packed_types(problem, isa)
    out = tvm.runtime.tensor(np.full(problem.out_shape, 77, epilogue.dtype))
    library["main"](*(tvm.runtime.tensor(v) for v in (x, *packed, *operands)), out)
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


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("problem", CONVS, ids=str)
def test_conv2d(problem: Conv2d, isa: Isa, extreme: bool):
    rng = np.random.default_rng(0)
    c, o = problem.x_shape[3], problem.out_channels
    x = codes(rng, problem.x_shape, problem.x_dtype, extreme)
    w = codes(rng, (o, c // problem.groups, *problem.kernel), "int8", extreme)
    bias = rng.integers(-(2**20), 2**20, o, dtype=np.int32)
    got = run_kernel(problem, isa, RAW, x, w, bias)
    assert (got == conv_reference(problem, x, w, bias)).all()


def any_conv(rng: np.random.Generator) -> Conv2d:
    """A small convolution with odd everything."""
    kernel, strides, dilations = (tuple(map(int, rng.integers(1, e, 2))) for e in (5, 4, 3))
    pads = tuple(map(int, rng.integers(0, 4, 4)))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    n, h, w = (int(v) for v in rng.integers([1, *reach], [10, 20, 20]))
    groups = int(rng.choice([1, 1, 2, 5]))
    c, o = (groups * int(v) for v in rng.integers(1, [20, 40]))
    dtype = str(rng.choice(["uint8", "int8"]))
    return Conv2d((n, h, w, c), dtype, o, kernel, strides, pads, dilations, groups)


@pytest.mark.parametrize("seed", range(16))
def test_generated_conv2d(seed: int, isa: Isa):
    rng = np.random.default_rng(seed)
    problem = any_conv(rng)
    c, o = problem.x_shape[3], problem.out_channels
    x = codes(rng, problem.x_shape, problem.x_dtype, False)
    w = codes(rng, (o, c // problem.groups, *problem.kernel), "int8", False)
    bias = rng.integers(-(2**31), 2**31, o, dtype=np.int32)
    got = run_kernel(problem, isa, RAW, x, w, bias)
    assert (got == conv_reference(problem, x, w, bias)).all()


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extreme"])
@pytest.mark.parametrize("problem", PRODUCTS, ids=str)
def test_matmul(problem: Matmul, isa: Isa, extreme: bool):
    rng = np.random.default_rng(0)
    k, n = problem.x_shape[-1], problem.out_features
    x = codes(rng, problem.x_shape, problem.x_dtype, extreme)
    w = codes(rng, (k, n), "int8", extreme)
    bias = rng.integers(-(2**20), 2**20, n, dtype=np.int32)
    expected = x.astype(np.int64) @ w.astype(np.int64) + bias
    assert (run_kernel(problem, isa, RAW, x, w, bias) == expected).all()


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
def test_requantize_with_residual_and_table(problem: Conv2d | Matmul, isa: Isa):
    rng = np.random.default_rng(1)
    o = problem.out_shape[-1]
    multiplier = rng.integers(2**29, 2**30, o, dtype=np.int32)
    offset = rng.integers(-(2**44), 2**44, o)
    shift, residual_multiplier = np.array(38), np.array(2**37 // 3)
    residual = rng.integers(-300, 300, problem.out_shape, dtype=np.int16)
    table = rng.permutation(256).astype(np.uint8)
    operands = (multiplier, offset, shift, residual, residual_multiplier, table)

    def value(acc: Any, buffers: list[Any], index: tuple[Any, ...]) -> Any:
        m, z, k, r, rm, t = buffers
        wide = T.cast(acc, "int64") * T.cast(m[index[-1]], "int64") + z[index[-1]]
        wide = T.shift_right(wide + T.cast(r[index], "int64") * rm[()], k[()])
        code = T.min(T.max(wide, T.int64(-128)), T.int64(127))
        return t[T.cast(code, "int32") + 128]

    epilogue = Epilogue(tuple((v.shape, str(v.dtype)) for v in operands), "uint8", value)
    x = codes(rng, problem.x_shape, problem.x_dtype, False)
    bias = rng.integers(-(2**12), 2**12, o, dtype=np.int32)
    if isinstance(problem, Matmul):
        w = codes(rng, (problem.x_shape[-1], o), "int8", False)
        acc = x.astype(np.int64) @ w.astype(np.int64) + bias
    else:
        depth = problem.x_shape[3] // problem.groups
        w = codes(rng, (o, depth, *problem.kernel), "int8", False)
        acc = conv_reference(problem, x, w, bias).astype(np.int64)
    code = (acc * multiplier + offset + residual * residual_multiplier) >> shift
    expected = table[np.clip(code, -128, 127) + 128]
    assert len(np.unique(expected)) > 100
    assert (run_kernel(problem, isa, epilogue, x, w, bias, operands) == expected).all()


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


@pytest.mark.parametrize("problem", INTEGER_ONLY, ids=str)
def test_generic_kernel_compiles_for_aarch64(problem: Conv2d):
    target = Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu"})
    assembly = assembly_of(problem, cpu.GENERIC, RAW, target)
    assert "smlal" in assembly or "smull" in assembly
    assert not float_instructions(assembly)


@pytest.mark.parametrize("isa", [isa for isa in cpu.ISAS if isa.dot], ids=lambda isa: isa.name)
def test_dot_instruction_is_used(isa: Isa):
    target = Target({"kind": "llvm", "mcpu": isa.mcpu})
    assert all(codegen.target_has_features(feature, target) for feature in isa.features)
    assembly = assembly_of(INTEGER_ONLY[0], isa, RAW, target)
    assert {4: "vpdpbusd", 2: "pmaddwd"}[isa.group] in assembly
    assert "pmaddubsw" not in assembly


def test_index_beyond_int32_is_refused(isa: Isa):
    with pytest.raises(ShapeError, match="2147483648 elements"):
        cpu.build(Conv2d((8, 4096, 4096, 16), "uint8", 16, (1, 1)), isa, RAW)
