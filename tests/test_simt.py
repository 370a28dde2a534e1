"""The SIMT machine itself: what kernels compute, and that what a GPU leaves undefined is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

from simt import SimtError, run  # noqa: E402
from tvm.script.ir_builder import IRBuilder  # noqa: E402
from tvm.tirx import PrimFunc  # noqa: E402
from tvm.tirx.script import builder as T  # noqa: E402

from qcompiler.backends.cuda.kernels import instructions as ptx  # noqa: E402

Body = Callable[..., None]


def kernel(body: Body, *types: tuple[int, str], blocks: int = 2, threads: int = 64) -> PrimFunc:
    """`body(block, thread, *buffers)` for buffers of these sizes and dtypes."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        buffers = [
            T.arg(f"p{i}", T.buffer((size,), dtype, layout=None))
            for i, (size, dtype) in enumerate(types)
        ]
        with (
            T.launch_thread("blockIdx.x", blocks) as block,
            T.launch_thread("threadIdx.x", threads) as thread,
        ):
            body(block, thread, *buffers)
    return builder.get()


def shared(size: int, dtype: str = "int32") -> Any:
    return T.alloc_buffer((size,), dtype, scope="shared", layout=None)


def local(size: int, dtype: str = "int32") -> Any:
    return T.alloc_buffer((size,), dtype, scope="local", layout=None)


def sync(scope: str = "shared") -> None:
    T.evaluate(T.tvm_storage_sync(scope))


def reverse(barrier: str | None) -> PrimFunc:
    """Each block reverses its 64 numbers through shared memory; in warps, where that is enough."""

    def body(block: Any, thread: Any, x: Any, y: Any) -> None:
        s = shared(64)
        T.buffer_store(s, x[block * 64 + thread], [thread])
        if barrier:
            sync(barrier)
        other = thread // 32 * 32 + 31 - thread % 32 if barrier == "warp" else 63 - thread
        T.buffer_store(y, s[other], [block * 64 + thread])

    return kernel(body, (128, "int32"), (128, "int32"))


@pytest.mark.parametrize(("barrier", "width"), [("shared", 64), ("warp", 32)])
def test_shared_memory_and_barriers(barrier: str, width: int) -> None:
    x, y = np.arange(128, dtype=np.int32), np.zeros(128, np.int32)
    run(reverse(barrier), [x, y])
    np.testing.assert_array_equal(y, x.reshape(-1, width)[:, ::-1].ravel())


def test_a_missing_barrier_is_a_race() -> None:
    with pytest.raises(SimtError, match="race"):
        run(reverse(None), [np.zeros(128, np.int32)] * 2)


def test_a_barrier_of_warps_does_not_order_other_warps() -> None:
    def body(block: Any, thread: Any, y: Any) -> None:
        s = shared(64)
        T.buffer_store(s, thread, [thread])
        sync("warp")
        T.buffer_store(y, s[63 - thread], [thread])

    with pytest.raises(SimtError, match="race"):
        run(kernel(body, (64, "int32"), blocks=1), [np.zeros(64, np.int32)])


def test_overwriting_what_others_still_read_is_a_race() -> None:
    def body(block: Any, thread: Any, y: Any) -> None:
        s = shared(64)
        T.buffer_store(s, thread, [thread])
        sync()
        T.buffer_store(y, s[0], [thread])
        T.buffer_store(s, thread, [thread])

    with pytest.raises(SimtError, match="race"):
        run(kernel(body, (64, "int32"), blocks=1), [np.zeros(64, np.int32)])


def test_two_writers_of_one_byte_are_a_race() -> None:
    def body(block: Any, thread: Any, y: Any) -> None:
        s = shared(32)
        T.buffer_store(s, thread, [thread // 2])
        T.buffer_store(y, thread, [thread])

    with pytest.raises(SimtError, match="two threads"):
        run(kernel(body, (64, "int32"), blocks=1), [np.zeros(64, np.int32)])


def test_blocks_do_not_order_each_other() -> None:
    def body(block: Any, thread: Any, y: Any) -> None:
        T.buffer_store(y, block, [thread])

    with pytest.raises(SimtError, match="two threads"):
        run(kernel(body, (64, "int32")), [np.zeros(64, np.int32)])


def test_results_of_another_block_are_not_there_yet() -> None:
    def body(block: Any, thread: Any, y: Any) -> None:
        at = block * 64 + thread
        T.buffer_store(y, 1, [at])
        T.buffer_store(y, y[(at + 64) % 128] + 1, [at])

    with pytest.raises(SimtError, match="another thread wrote"):
        run(kernel(body, (128, "int32")), [np.zeros(128, np.int32)], blocks_at_once=1)


@pytest.mark.parametrize("shift", [-1, 1])
def test_out_of_bounds(shift: int) -> None:
    def body(block: Any, thread: Any, x: Any, y: Any) -> None:
        T.buffer_store(y, x[block * 64 + thread + shift], [block * 64 + thread])

    with pytest.raises(SimtError, match="out of bounds"):
        run(kernel(body, (128, "int32"), (128, "int32")), [np.zeros(128, np.int32)] * 2)


def test_a_branch_guards_what_is_inside() -> None:
    def body(block: Any, thread: Any, x: Any, y: Any) -> None:
        with T.If(block * 64 + thread < 99), T.Then():
            T.buffer_store(y, x[block * 64 + thread] + 1, [block * 64 + thread])

    x, y = np.arange(99, dtype=np.int32), np.zeros(99, np.int32)
    run(kernel(body, (99, "int32"), (99, "int32")), [x, y])
    np.testing.assert_array_equal(y, x + 1)


def test_misaligned_vectors() -> None:
    def body(block: Any, thread: Any, x: Any, y: Any) -> None:
        at = T.Ramp(thread * 4 + 2, 1, 4)
        T.buffer_store(y, T.reinterpret("int32", x[at]), [thread])

    function = kernel(body, (512, "int8"), (64, "int32"), blocks=1)
    with pytest.raises(SimtError, match="not aligned"):
        run(function, [np.zeros(512, np.int8), np.zeros(64, np.int32)])


def test_unwritten_memory() -> None:
    def body(block: Any, thread: Any, y: Any) -> None:
        a = local(2)
        T.buffer_store(a, thread, [0])
        T.buffer_store(y, a[1], [thread])

    with pytest.raises(SimtError, match="before anything was written"):
        run(kernel(body, (64, "int32"), blocks=1), [np.zeros(64, np.int32)])


def test_more_shared_memory_than_there_is() -> None:
    def body(block: Any, thread: Any, y: Any) -> None:
        s = shared(13000)
        T.buffer_store(s, thread, [thread])
        T.buffer_store(y, s[thread], [thread])

    with pytest.raises(SimtError, match="52000 bytes of shared memory"):
        run(kernel(body, (64, "int32"), blocks=1), [np.zeros(64, np.int32)])


def test_divergent_barriers() -> None:
    def body(block: Any, thread: Any, y: Any) -> None:
        with T.If(thread < 7), T.Then():
            sync()
        T.buffer_store(y, thread, [thread])

    with pytest.raises(SimtError, match="barrier"):
        run(kernel(body, (64, "int32"), blocks=1), [np.zeros(64, np.int32)])


@pytest.mark.parametrize("value", [2**30, 2**20])
def test_int32_overflow(value: int) -> None:
    def body(block: Any, thread: Any, x: Any, y: Any) -> None:
        T.buffer_store(y, x[thread] * 4, [thread])

    x, y = np.full(64, value, np.int32), np.zeros(64, np.int32)
    function = kernel(body, (64, "int32"), (64, "int32"), blocks=1)
    if value == 2**30:
        with pytest.raises(SimtError, match="overflow"):
            run(function, [x, y])
    else:
        run(function, [x, y])
        assert (y == 4 * value).all()


def copy_async(wait: bool, barrier: bool) -> PrimFunc:
    def body(block: Any, thread: Any, x: Any, y: Any) -> None:
        s = shared(256, "int8")
        ptx.cp_async(4, s[thread * 4], x[thread * 4], T.Select(thread < 60, 4, 0))
        ptx.cp_async_commit()
        if wait:
            ptx.cp_async_wait(0)
        if barrier:
            sync()
        T.buffer_store(y, T.reinterpret("int32", s[T.Ramp(252 - thread * 4, 1, 4)]), [thread])

    return kernel(body, (256, "int8"), (64, "int32"), blocks=1)


def test_asynchronous_copies() -> None:
    x, y = np.arange(256, dtype=np.uint8).view(np.int8), np.zeros(64, np.int32)
    run(copy_async(True, True), [x, y])
    expected = x.view(np.int32)[::-1].copy()
    expected[:4] = 0
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(("wait", "barrier"), [(False, True), (True, False), (False, False)])
def test_asynchronous_copies_that_nobody_waits_for(wait: bool, barrier: bool) -> None:
    with pytest.raises(SimtError, match=r"race|on its way"):
        run(copy_async(wait, barrier), [np.zeros(256, np.int8), np.zeros(64, np.int32)])


@pytest.mark.parametrize("kind", ["", "up", "down", "xor"])
@pytest.mark.parametrize("width", [32, 8])
def test_shuffles(kind: str, width: int) -> None:
    def body(block: Any, thread: Any, x: Any, y: Any) -> None:
        call = getattr(T, "tvm_warp_shuffle" + (f"_{kind}" if kind else ""))
        T.buffer_store(y, call(T.uint32(0xFFFFFFFF), x[thread], 3, width, 32), [thread])

    x, y = np.arange(64, dtype=np.int32), np.zeros(64, np.int32)
    run(kernel(body, (64, "int32"), (64, "int32"), blocks=1), [x, y])
    for i in range(64):
        first = i // width * width
        source = {"": first + 3, "up": i - 3, "down": i + 3, "xor": i ^ 3}[kind]
        assert y[i] == (source if first <= source < first + width else i)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("tall", [True, False])
def test_matrix_products(tall: bool, dtype: str) -> None:
    """Fragments as the ISA's figures have them, filled and read element by element."""
    m, k = (16, 32) if tall else (8, 16)

    def body(block: Any, thread: Any, a: Any, b: Any, c: Any) -> None:
        group, own = thread // 4, thread % 4
        d, x, y = local(m // 4), local(m * k // 128), local(k // 16)
        for i in range(m // 4):
            T.buffer_store(d, 1000, [i])
        for i in range(m * k // 128):
            row, column = group + 8 * (i % (m // 8)), own * 4 + 16 * (i // (m // 8))
            T.buffer_store(x, T.reinterpret("int32", a[T.Ramp(row * k + column, 1, 4)]), [i])
        for i in range(k // 16):
            at = T.Ramp(group * k + own * 4 + 16 * i, 1, 4)
            T.buffer_store(y, T.reinterpret("int32", b[at]), [i])
        if tall:
            registers = ([d[i] for i in range(4)], [x[i] for i in range(4)], [y[0], y[1]])
            ptx.mma_m16n8k32(dtype, *registers)
        else:
            ptx.mma_m8n8k16(dtype, [d[0], d[1]], x[0], y[0])
        for i in range(m // 4):
            at = (group + 8 * (i // 2)) * 8 + own * 2 + i % 2
            T.buffer_store(c, d[i], [at])

    rng = np.random.default_rng(0)
    info = np.iinfo(dtype)
    a = rng.integers(info.min, info.max + 1, (m, k)).astype(dtype)
    b, c = rng.integers(-128, 128, (8, k)).astype(np.int8), np.zeros((m, 8), np.int32)
    types = [(m * k, dtype), (8 * k, "int8"), (m * 8, "int32")]
    run(kernel(body, *types, blocks=1, threads=32), [a.ravel(), b.ravel(), c.reshape(-1)])
    np.testing.assert_array_equal(c, a.astype(np.int32) @ b.T.astype(np.int32) + 1000)


def test_ldmatrix_transposes_nothing_and_counts_conflicts() -> None:
    def body(block: Any, thread: Any, x: Any, y: Any, stride: int) -> None:
        s, r = shared(32 * stride, "int8"), local(4)
        at = T.Ramp(thread * stride, 1, 16)
        T.buffer_store(s, x[T.Ramp(thread * 16, 1, 16)], [at])
        sync()
        ptx.ldmatrix_x4([r[i] for i in range(4)], s[thread * stride])
        for i in range(4):
            T.buffer_store(y, r[i], [thread * 4 + i])

    x, y = np.arange(512).astype(np.int8), np.zeros(128, np.int32)
    conflicts = []
    for stride in (16, 128):
        function = kernel(
            lambda *v, stride=stride: body(*v, stride), (512, "int8"), (128, "int32"),
            blocks=1, threads=32,
        )  # fmt: skip
        conflicts.append(run(function, [x, y]).conflicts)
        rows = x.reshape(4, 8, 4, 4).view(np.int32)[..., 0]  # matrix, row, word
        np.testing.assert_array_equal(y.reshape(8, 4, 4), rows.transpose(1, 2, 0))
    assert conflicts == [0, 2 * 4 * 7]


def test_transposed_bytes() -> None:
    def body(block: Any, thread: Any, x: Any, y: Any) -> None:
        r = local(4)
        for i in range(4):
            T.buffer_store(r, x[thread * 4 + i], [i])
        ptx.transpose_4x4([r[i] for i in range(4)])
        for i in range(4):
            T.buffer_store(y, r[i], [thread * 4 + i])

    x, y = np.arange(32 * 16, dtype=np.uint8).view(np.int32), np.zeros(128, np.int32)
    run(kernel(body, (128, "int32"), (128, "int32"), blocks=1, threads=32), [x, y])
    expected = x.view(np.uint8).reshape(32, 4, 4).swapaxes(1, 2)
    np.testing.assert_array_equal(y.view(np.uint8).reshape(32, 4, 4), expected)
