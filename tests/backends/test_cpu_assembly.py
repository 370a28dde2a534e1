"""Counting floating-point instructions."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from qcompiler.backends.cpu import machine
from qcompiler.backends.cpu.assembly import float_instructions
from qcompiler.backends.cpu.build import build
from qcompiler.backends.cpu.program import PIPELINE, plain
from qcompiler.backends.cpu.schedule import schedule
from qcompiler.backends.target import Target
from qcompiler.backends.targets import target
from qcompiler.backends.tvm.lower import lower
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.ops import Dequantize, Exp, Quantize, Relu, Table, Transpose
from qcompiler.types import Quantization, TensorType

X86 = """
	.globl	qc_0_a
	.type	qc_0_a,@function
qc_0_a:
.Lfunc_begin0:
	.cfi_startproc
	leaq	.L__tvm_parallel_lambda(%rip), %rdi
	vmovups	(%rax), %zmm0
	vxorps	%xmm1, %xmm1, %xmm1
	vpdpbusd	%zmm2, %zmm1, %zmm0
	jmp	.LBB0_3
	callq	*(%rax)
	callq	memset@PLT
	retq
.Lfunc_end0:
	.size	qc_0_a, .Lfunc_end0-qc_0_a
	.type	.L__tvm_parallel_lambda,@function
.L__tvm_parallel_lambda:
	vfmadd132ps	%zmm0, %zmm1, %zmm3
	vcvttps2dq	%zmm3, %zmm3
	vaddps	(%rax), %ymm3, %ymm3 {%k1}
	cmpltsd	%xmm0, %xmm1
	jne	.LBB1_2
	retq
	.type	qc_1_b,@function
qc_1_b:
	vpaddd	%zmm0, %zmm1, %zmm3
	vpmulld	%zmm0, %zmm1, %zmm3
	vbroadcastss	(%rdx), %zmm0
	vmovd	%xmm0, %eax
	retq
	.type	qc_2_c,@function
qc_2_c:
	callq	expf@PLT
	jmp	tanhf
	.type	.L__tvm_parallel_lambda.7,@function
.L__tvm_parallel_lambda.7:
	addss	%xmm0, %xmm1
"""

ARM = """
	.type	qc_0_a,@function
qc_0_a:
	fmov	w0, s0
	fmul	v0.4s, v0.4s, v1.4s
	scvtf	s0, w0
	fcvtzs	w0, s0
	sdot	v0.4s, v1.16b, v2.16b
	bfi	w0, w1, #8, #8
	bl	memcpy
	bl	expf
	b	.LBB0_1
	ret
"""


def test_x86_counts_arithmetic_and_strangers_only() -> None:
    counts = float_instructions(X86, ["qc_0_a", "qc_1_b", "qc_2_c"], "x86_64")
    assert counts == {"qc_0_a": 4, "qc_1_b": 0, "qc_2_c": 2}


def test_aarch64_counts_arithmetic_and_strangers_only() -> None:
    assert float_instructions(ARM, ["qc_0_a"], "aarch64") == {"qc_0_a": 4}


def test_a_kernel_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        float_instructions(X86, ["qc_9"], "x86_64")


def ends_and_float() -> Graph:
    q = Quantization.per_tensor("uint8", 0.1, 3)
    x = Input(TensorType("float32", (1, 3, 64, 64)), name="x")
    code = Quantize(Transpose(x, (0, 2, 3, 1)), q)
    mapped: Op = Table(code, Constant(np.arange(256)[::-1].astype(np.uint8)), q)
    middle = Quantize(Relu(Exp(Dequantize(mapped))), q)
    return Graph((x,), {"y": Dequantize(middle)})


def test_roles() -> None:
    metadata = build(ends_and_float(), target("cpu")).metadata
    roles = {k.symbol.split("_", 2)[2]: k.role for k in metadata.kernels}
    assert roles == {
        "transpose": "move",
        "quantize": "float",  # shared by the entry and one in the middle
        "table": "integer",
        "dequantize": "float",
        "exp": "float",
        "relu": "float",
    }
    counts = {k.symbol.split("_", 2)[2]: k.float_instructions for k in metadata.kernels}
    assert counts["transpose"] == counts["table"] == 0
    assert min(counts["quantize"], counts["dequantize"], counts["exp"], counts["relu"]) > 0
    assert metadata.float_instructions == sum(counts.values())


def test_ends_do_not_count() -> None:
    q = Quantization.per_tensor("uint8", 0.1, 3)
    x = Input(TensorType("float32", (256,)), name="x")
    metadata = build(Graph((x,), {"y": Dequantize(Quantize(x, q))}), target("cpu")).metadata
    assert [k.role for k in metadata.kernels] == ["entry", "exit"]
    assert all(k.float_instructions > 0 for k in metadata.kernels)
    assert metadata.float_instructions == 0


@pytest.mark.parametrize("name", ["cpu:generic", "cpu:sapphirerapids", "cpu:cortex-a76"])
def test_foreign_targets_are_counted(name: str) -> None:
    chosen = target(name)
    tvm_target = machine.tvm_target(chosen)
    program = lower(ends_and_float(), tvm_target, (), schedule)
    functions = {k.symbol: plain(k.function, k.symbol) for k in program.kernels}
    library = tvm.compile(tvm.IRModule(functions), tvm_target, tir_pipeline=PIPELINE).mod
    architecture = "aarch64" if "cortex" in name else "x86_64"
    counts = float_instructions(library.inspect_source("s"), functions, architecture)
    whats = {symbol.split("_", 2)[2]: count for symbol, count in counts.items()}
    assert whats["transpose"] == whats["table"] == 0
    assert min(whats["quantize"], whats["dequantize"], whats["exp"], whats["relu"]) > 0


def test_target_needs_no_tvm() -> None:
    assert isinstance(target("cpu:cortex-a72"), Target)
