"""Compiling for NVIDIA GPUs where none is: with nvcc, which is asked for and never assumed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

from tiny import Example, examples
from vit_tiny import FOLDER, images, needs_vit_tiny

import qcompiler
from qcompiler.backends.cuda import build as module
from qcompiler.backends.cuda import nvrtc, toolkit
from qcompiler.backends.cuda.build import build, check
from qcompiler.backends.cuda.launches import Launch, Launches, launches, source
from qcompiler.backends.cuda.plan import OUTPUT, WORKSPACE, make_plan
from qcompiler.backends.cuda.ptx import float_instructions
from qcompiler.backends.cuda.schedule import schedule
from qcompiler.backends.cuda.targets import DEFAULT, gpu_target
from qcompiler.backends.targets import target
from qcompiler.backends.tvm.lower import Call, Kernel, Program, generic
from qcompiler.errors import TargetError
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.ops import Cast, Dequantize, Exp, Quantize, Relu, Table, skeleton
from qcompiler.types import Quantization, TensorType

ROOT = Path(__file__).parent.parent.parent
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="needs nvcc")
needs_nvrtc = pytest.mark.skipif(nvrtc.find() is None, reason="needs NVRTC")

EXAMPLES = list(examples())
INTEGER = [e for e in EXAMPLES if not any(x.type.is_float for x in skeleton(e.op).graph.ops)]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled must not depend on the GPUs of the machine that runs the tests."""
    monkeypatch.setenv("QCOMPILER_CUDA_DRIVER", "libabsent.so")


def lowered(chosen: list[Example]) -> dict[str, Launches]:
    return {
        f"k{i}": launches(generic(skeleton(e.op), schedule), f"k{i}") for i, e in enumerate(chosen)
    }


def ends(middle: bool = False) -> Graph:
    q = Quantization.per_tensor("uint8", 0.1, 3)
    x = Input(TensorType("float32", (1, 3, 64, 64)), name="x")
    mapped: Op = Table(Quantize(x, q), Constant(np.arange(256)[::-1].astype(np.uint8)), q)
    if middle:
        mapped = Quantize(Relu(Exp(Dequantize(mapped))), q)
    return Graph((x,), {"y": Dequantize(mapped)}, "ends")


@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90"])
def test_integer_ops_have_no_float_in_their_ptx(architecture: str) -> None:
    kernels = lowered(INTEGER)
    code = toolkit.Nvcc(str(NVCC)).compile(source(kernels.values()), architecture)
    assert code.cubin.startswith(b"\x7fELF")
    counts = float_instructions(code.ptx)
    symbols = [launch.symbol for kernel in kernels.values() for launch in kernel.sequence]
    assert counts.keys() == set(symbols)
    assert not any(counts.values())


@needs_nvcc
def test_float_ops_are_compiled_and_counted_without_contraction() -> None:
    arithmetic = ("add", "mul", "div", "quantize", "dequantize", "exp", "batch_normalization")
    kernels = lowered([e for e in EXAMPLES if e not in INTEGER])
    code = toolkit.Nvcc(str(NVCC)).compile(source(kernels.values()), "sm_80")
    counts = float_instructions(code.ptx)
    found = [e for e in EXAMPLES if e not in INTEGER]
    for (symbol, kernel), e in zip(kernels.items(), found, strict=True):
        if e.op.kind() in arithmetic:
            assert sum(counts[x.symbol] for x in kernel.sequence) > 0, (symbol, e.name)
    quantizing = [s for s, e in zip(kernels, found, strict=True) if e.op.kind() == "quantize"]
    bodies = code.ptx.split(".entry")
    own = [body for body in bodies if any(f" {s}_kernel(" in body for s in quantizing)]
    assert len(own) == len(quantizing) > 0
    assert not any("fma." in body or ".approx" in body or ".ftz" in body for body in own)


@needs_nvcc
def test_libraries_have_code_for_all_usual_gpus(tmp_path: Path) -> None:
    model = build(ends(), target("cuda"))
    metadata = model.metadata
    assert metadata.gpus == DEFAULT
    assert (metadata.device, metadata.toolkit.split()[0]) == ("cuda", "nvcc")
    assert [(k.role, k.float_instructions > 0) for k in metadata.kernels] == [
        ("entry", True),
        ("integer", False),
        ("exit", True),
    ]
    assert metadata.float_instructions == 0
    assert metadata.programs[0].calls == (0, 1, 2)
    model.save(tmp_path / "m.so")
    cubins = (tmp_path / "m.so").read_bytes().count(b"qc_0_quantize_kernel\0")
    assert cubins >= len(DEFAULT)


@needs_nvcc
def test_float_in_the_middle_is_counted() -> None:
    metadata = build(ends(middle=True), target("cuda:sm_90")).metadata
    floats = {k.symbol.split("_", 2)[2] for k in metadata.kernels if k.role == "float"}
    assert "exp" in floats
    assert metadata.float_instructions > 0


@needs_nvcc
def test_no_driver_is_one_line() -> None:
    with pytest.raises(TargetError, match=r"its driver: libabsent.so not found$"):
        build(ends(), target("cuda:sm_90"))(np.zeros((1, 3, 64, 64), np.float32))


@needs_nvcc
@needs_vit_tiny
def test_vit_tiny_compiles_to_integers_only() -> None:
    options = qcompiler.Options(require_integer=True)
    samples = {"x": images("calib", 8)}
    model = qcompiler.compile(FOLDER / "model.onnx", "cuda", samples, options=options)
    assert model.metadata.float_instructions == 0
    assert model.metadata.gpus == DEFAULT
    products = [k for k in model.metadata.kernels if k.macs]
    assert all(k.implementation != "generic" for k in products)


@needs_nvrtc
def test_nvrtc_compiles_the_same_kernels() -> None:
    compiler = nvrtc.find()
    assert compiler is not None
    kernels = lowered(INTEGER[:12])
    code = compiler.compile(source(kernels.values()), "sm_80")
    assert code.cubin.startswith(b"\x7fELF")
    assert not any(float_instructions(code.ptx).values())
    assert compiler.version.startswith("NVRTC ")
    assert "sm_80" in compiler.architectures()
    with pytest.raises(TargetError, match=r"cannot compile the kernels: .*error"):
        compiler.compile("this is not C", "sm_80")


@needs_nvcc
def test_what_nvcc_does_not_know() -> None:
    with pytest.raises(TargetError, match=r"target 'cuda:sm_999': nvcc .* does not know sm_999"):
        check(gpu_target("cuda:sm_999", "sm_999"))
    with pytest.raises(TargetError, match=r"cannot compile the kernels: .*error"):
        toolkit.Nvcc(str(NVCC)).compile("this is not C", "sm_80")


def test_no_compiler_is_said_before_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    def calibration() -> Mapping[str, np.ndarray]:
        raise AssertionError("calibrated in vain")

    monkeypatch.setattr(toolkit.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(nvrtc, "find", lambda: None)
    monkeypatch.setattr(module.host, "c_compiler", lambda architecture: "cc")
    with pytest.raises(
        TargetError, match=r"no CUDA compiler: install .*nvidia-cuda-nvrtc"
    ) as error:
        qcompiler.compile(ROOT / "models" / "digits" / "cnn.onnx", "cuda", calibration)
    assert "\n" not in str(error.value)


PTX = """
.visible .entry k_kernel(
	.param .u64 k_kernel_param_0
)
{
	ld.global.nc.f32 	%f1, [%rd4];
	mov.f32 	%f2, %f1;
	@%p1 bra 	$L__BB0_2;
	add.s32 	%r1, %r2, 0f3F800000;
	mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%r1}, {%r2}, {%r3}, {%r4};
	st.global.f32 	[%rd4], %f2;
}
.visible .entry f_kernel(
)
{
	mul.rn.f32 	%f3, %f1, %f2;
	@%p1 cvt.rni.s32.f32 	%r1, %f3;
	setp.lt.f64 	%p1, %fd1, %fd2;
	fma.rn.f16x2 	%r1, %r2, %r3, %r4;
	mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1}, {%r2}, {%r3}, {%f4};
	call.uni (retval0), helper, (param0);
	call.uni (retval0), stranger, (param0);
}
.func  (.param .b32 func_retval0) helper(
)
{
	rcp.approx.ftz.f32 	%f1, %f2;
}
"""


def test_ptx_is_counted_with_what_it_calls() -> None:
    assert float_instructions(PTX) == {"k_kernel": 0, "f_kernel": 7, "helper": 1}


def chain(places: list[tuple[str, list[int]]]) -> tuple[Program, dict[str, Launches]]:
    """A program of one-launch kernels: each (name, numbers of the earlier calls it reads)."""
    kind = TensorType("int32", (1024,))
    x = Input(kind, name="x")
    nodes: list[Op] = []
    calls, kernels = [], {}
    for name, reads in places:
        node = Cast(nodes[reads[0]] if reads else x, "int32")
        operands = tuple(nodes[i] for i in reads) or (x,)
        kernel = Kernel(name, None, "test", [node])  # type: ignore[arg-type]
        calls.append(Call(kernel, operands, node))
        launch = Launch(name, (1, 1, 1), (1, 1, 1), 0, tuple(range(len(operands) + 1)))
        kernels[name] = Launches(None, (launch,), ())  # type: ignore[arg-type]
        nodes.append(node)
    graph = Graph((x,), {"y": nodes[-1]})
    program = Program(graph, tuple(c.kernel for c in calls), tuple(calls), {}, (nodes[-1],))
    return program, kernels


class NoConstants:
    def offset(self, array: np.ndarray) -> int:
        raise AssertionError("no constants here")


def test_launches_wait_for_what_they_read_and_no_more() -> None:
    plan = make_plan(*chain([("a", []), ("b", [0]), ("c", [0]), ("d", [1, 2])]), NoConstants())
    assert [node.after for node in plan.nodes] == [(), (0,), (0,), (1, 2)]
    spaces = [node.arguments[-1].space for node in plan.nodes]
    assert spaces == [WORKSPACE, WORKSPACE, WORKSPACE, OUTPUT]


def test_memory_that_is_used_again_is_waited_for() -> None:
    """c takes a's memory: it must wait for b, which reads a, although it does not read b."""
    plan = make_plan(*chain([("a", []), ("b", [0]), ("c", []), ("d", [1, 2])]), NoConstants())
    a, b, c, _ = plan.nodes
    assert plan.workspace_bytes == 2 * 4096
    assert c.arguments[-1] == a.arguments[-1] != b.arguments[-1]
    assert c.after == (1,)


def test_generated_tables_are_c(tmp_path: Path) -> None:
    """The runtime compiles without warnings, also as strict C99 with extensions."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    for path in sorted((ROOT / "backends" / "cuda" / "runtime").glob("*.c")):
        command = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-c", str(path)]
        subprocess.run([*command, "-o", str(tmp_path / "x.o")], check=True)
