"""What a library brings along to run: its threads and its memory."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from qcompiler import host
from qcompiler.artifact import CompiledModel, load, read_metadata
from qcompiler.backends.cpu.build import build
from qcompiler.backends.cpu.program import RUNTIME
from qcompiler.backends.targets import target
from qcompiler.graph import Constant, Graph, Input
from qcompiler.interpret import evaluate
from qcompiler.ops import ConvInteger, MaxPool, Requantize, Window
from qcompiler.types import Quantization, TensorType

SHAPE = (1, 40, 44, 16)
Q = Quantization.per_tensor("uint8", 0.1, 7)


def network() -> Graph:
    """Kernels that run in parallel, with scratch memory of their own."""
    rng = np.random.default_rng(0)
    x = Input(TensorType("uint8", SHAPE), name="x")
    weight = Constant(rng.integers(-128, 128, (48, 16, 3, 3), dtype=np.int8))
    window = Window((3, 3), pads=(1, 1, 1, 1))
    sums = ConvInteger(x, weight, None, window, channels_last=True)
    multiplier = Constant(rng.integers(2**28, 2**29, 48, dtype=np.int32))
    codes = Requantize((sums,), (multiplier,), Constant(np.array(7 << 40)), 40, Q)
    return Graph((x,), {"y": MaxPool(codes, window, channels_last=True)}, "network")


def feed(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return network()


@pytest.fixture(scope="module")
def expected(graph: Graph) -> list[np.ndarray]:
    return [evaluate(graph, {"x": feed(seed)})["y"] for seed in range(4)]


@pytest.fixture(scope="module")
def path(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / "network.so"
    build(graph, target("cpu"), threads=1).save(path)
    return path


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cores", lambda: 7)


def own_threads() -> int:
    return psutil.Process().num_threads()


def test_running_imports_no_tvm(path: Path) -> None:
    code = (
        "import sys, numpy as np; from qcompiler.artifact import load; "
        f"load({str(path)!r})(np.zeros({SHAPE}, np.uint8)); "
        "assert not {'tvm', 'tvm_ffi', 'torch', 'onnx'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True)


def test_a_library_needs_nothing_but_libc(path: Path) -> None:
    if shutil.which("ldd") is None:
        pytest.skip("no ldd")
    needed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    assert "libc.so" in needed
    assert "tvm" not in needed


@pytest.mark.usefixtures("many_cores")
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads(path: Path, expected: list[np.ndarray], threads: int) -> None:
    before = own_threads()
    model = load(path, threads)
    for seed, y in enumerate(expected):
        np.testing.assert_array_equal(model(feed(seed))["y"], y)
    assert own_threads() - before == threads - 1
    del model
    assert own_threads() == before


@pytest.mark.usefixtures("many_cores")
def test_the_default_is_in_the_file(path: Path, graph: Graph) -> None:
    assert read_metadata(path).threads == 1
    assert load(path).runner.threads == 1
    assert load(path, 3).runner.threads == 3
    assert load(path, 10**6).runner.threads == 7
    assert build(graph, target("cpu")).runner.threads == 7
    assert build(graph, target("cpu"), threads=8).runner.threads == 7


@pytest.mark.usefixtures("many_cores")
def test_callers_share_a_model(path: Path, expected: list[np.ndarray]) -> None:
    """Two models of one file, each called by two threads at once."""
    models = [load(path, 3), load(path, 2)]
    wrong: list[int] = []
    together = threading.Barrier(4)

    def work(seed: int) -> None:
        together.wait()
        found = (models[seed % 2](feed(seed))["y"] for _ in range(200))
        wrong.extend(n for n, y in enumerate(found) if not np.array_equal(y, expected[seed]))

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


@pytest.mark.usefixtures("many_cores")
def test_a_model_survives_its_twin(path: Path, expected: list[np.ndarray]) -> None:
    """The dynamic linker loads one file once, so that two models share threads and memory."""
    one, other = load(path, 3), load(path, 3)
    one(feed())
    del one
    np.testing.assert_array_equal(other(feed())["y"], expected[0])


def _call_in_child(model: CompiledModel, right: np.ndarray) -> None:
    assert np.array_equal(model(feed())["y"], right)


@pytest.mark.usefixtures("many_cores")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(path: Path, expected: list[np.ndarray]) -> None:
    model = load(path, 3)
    model(feed())
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_call_in_child, args=(model, expected[0]))
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_kernel_times(path: Path, expected: list[np.ndarray]) -> None:
    model = load(path)
    times = model.runner.kernel_times(0, [feed()])  # type: ignore[attr-defined]
    assert times.shape == (len(model.metadata.programs[0].calls),)
    assert times.dtype == np.int64
    assert (times > 0).all()


COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

static _Atomic long count;

#define COUNTED(result, name, parameters, ...) \
    result name parameters {                   \
        static result(*real) parameters;       \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        count++;                               \
        return real(__VA_ARGS__);              \
    }

COUNTED(void *, malloc, (size_t n), n)
COUNTED(void *, realloc, (void *p, size_t n), p, n)
COUNTED(int, posix_memalign, (void **p, size_t a, size_t n), p, a, n)
COUNTED(void *, mmap, (void *p, size_t n, int a, int b, int c, long d), p, n, a, b, c, d)

typedef int (*Run)(int, void *, int, void *);

long count_allocations(Run run, void *arguments, int threads, int calls) {
    long before = count;
    while (calls--) run(0, arguments, threads, 0);
    return count - before;
}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD")
def test_calls_allocate_nothing(path: Path, tmp_path: Path) -> None:
    """All threads counted, within the library; Python's arrays for the outputs are outside."""
    source, counter = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", counter, source, "-ldl"], check=True)
    code = f"""
import ctypes, sys
import numpy as np
from qcompiler.artifact import load
runner = load({str(path)!r}).runner
count = ctypes.CDLL({str(counter)!r}).count_allocations
count.restype = ctypes.c_long
x, y = np.zeros({SHAPE}, np.uint8), np.zeros((1, 40, 44, 48), np.uint8)
arguments = (ctypes.c_void_p * 2)(x.ctypes.data, y.ctypes.data)
run = runner._library.functions.qc_run
found = [count(run, arguments, threads, n) for threads in (1, 3) for n in (20, 200)]
print(*found)
"""
    command = [sys.executable, "-I", "-c", code]
    environment = {"LD_PRELOAD": str(counter), "PATH": "/usr/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    alone, again, _, later = map(int, done.stdout.split())
    assert alone > 0  # the first call's workspace: the counter counts
    assert again == 0
    assert later == 0


@pytest.mark.parametrize("sanitizer", [None, "thread", "address,undefined"])
def test_under_stress(tmp_path: Path, sanitizer: str | None) -> None:
    """Callers that open, run and close as they like; no data race, no leak, no wrong sum."""
    program = tmp_path / "stress"
    sources = ["-I", str(RUNTIME.parent), str(Path(__file__).with_name("runtime_stress.c"))]
    command = ["cc", "-O1", "-g", "-pthread", "-o", str(program), *sources]
    if sanitizer is not None:
        command.append(f"-fsanitize={sanitizer}")
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and sanitizer is not None:
        pytest.skip(f"no {sanitizer} sanitizer")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=120)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the thread sanitizer does not bear this kernel's address randomization")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0 wrong, 0 workers, empty\n"
