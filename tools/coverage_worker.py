"""One architecture of `coverage.py`, measured in a process of its own."""

from __future__ import annotations

import os
import resource
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import onnxruntime
from coverage_models import Architecture, Feed, architectures

import qcompiler
from qcompiler.errors import QcompilerError
from qcompiler.invariants import float_ops
from qcompiler.report.deviation import decibels

CALIBRATION, FRESH, COMPARED = 32, 4, 2  # samples: for ranges, for signal to noise, for bits


@dataclass
class Result:
    """What came of one architecture.

    Attributes:
        stage: What was being done last: "export", "import", "quantize", "float", "bits", "library"
            or "done".
        reason: Why it ended there, one line.
        refused: A `QcompilerError` said so; what else ends a stage is a crash.
        operators: Ops of the integer graph.
        floats: Operator → how many of it compute in float.
        float_nodes: The first of them, in the model's names.
        snr: Worst output's signal to noise on fresh inputs, dB.
        differing: Output values whose bits differ between executors; None where none ran.
        executors: Beside numpy.
        seconds: Stage → how long it took, of this process's own time: the machine may be busy.
    """

    name: str
    stage: str = "export"
    reason: str = ""
    refused: bool = False
    operators: int = 0
    floats: dict[str, int] = field(default_factory=dict)
    float_nodes: list[str] = field(default_factory=list)
    snr: float | None = None
    differing: int | None = None
    executors: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


Run = Callable[[Feed], Mapping[str, np.ndarray]]


def session(path: Path) -> Run:
    """A model in ONNX Runtime, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    runtime = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    names = [y.name for y in runtime.get_outputs()]
    inputs = {x.name for x in runtime.get_inputs()}

    def run(feed: Feed) -> Mapping[str, np.ndarray]:
        found = runtime.run(None, {k: v for k, v in feed.items() if k in inputs})
        return dict(zip(names, found, strict=True))

    return run


def measure(architecture: Architecture, path: Path, library: bool, result: Result) -> None:
    """Fill in the result, stage by stage; what goes wrong is raised."""
    start = time.process_time()

    def lap(following: str) -> None:
        nonlocal start
        now = time.process_time()
        result.seconds[result.stage] = round(now - start, 2)
        result.stage, start = following, now

    if not path.exists():
        from coverage_build import export

        export(architecture, path)
    lap("import")
    graph = qcompiler.import_onnx(path)
    lap("quantize")
    names = [str(x.name) for x in graph.inputs]  # what the exporter found unused is gone

    def samples(first: int, count: int) -> list[Feed]:
        drawn = (architecture.sample(first + i) for i in range(count))
        return [{k: v for k, v in feed.items() if k in names} for feed in drawn]

    options = qcompiler.Options(threads=1)
    integer = qcompiler.quantize(graph, samples(1, CALIBRATION), options=options)
    left = list(float_ops(integer))
    result.operators = len(integer.ops)
    result.floats = dict(Counter(type(node).__name__ for node in left).most_common())
    result.float_nodes = [node.label() for node in left[:4]]
    lap("float")
    fresh = samples(10_000, FRESH)
    found = [qcompiler.evaluate(integer, feed) for feed in fresh]
    result.snr = signal_to_noise(map(session(path), fresh), found)
    lap("bits")
    expected = found[:COMPARED]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "integer.onnx")
        qcompiler.export_onnx(integer, file)
        result.differing = differing(session(file), fresh, expected)
    result.executors.append("ONNX Runtime")
    lap("library" if library else "done")
    if library:
        compiled = compile_integer(integer)
        result.differing += differing(compiled, fresh, expected)
        result.executors.append("library")
        lap("done")


def compile_integer(integer: qcompiler.Graph) -> Run:
    """The library of an integer graph for this CPU."""
    from qcompiler.backends.target import load_builder
    from qcompiler.backends.targets import target
    from qcompiler.passes import LOWERING, PassManager

    machine = target("cpu")
    kernels = PassManager(LOWERING)(integer)
    return load_builder(machine).build(kernels, machine, source_sha256="", threads=1)


def signal_to_noise(
    real: Iterable[Mapping[str, np.ndarray]], found: Iterable[Mapping[str, np.ndarray]]
) -> float:
    """The worst output's 10·log10(Σ r² / Σ (r − v)²) over all samples."""
    signal: Counter[str] = Counter()
    noise: Counter[str] = Counter()
    for references, values in zip(real, found, strict=True):
        for name, y in references.items():
            reference = y.astype(np.float64)
            signal[name] += float(np.square(reference).sum())
            noise[name] += float(np.square(values[name] - reference).sum())
    return min(decibels(signal[name], noise[name]) for name in signal)


def differing(run: Run, feeds: Sequence[Feed], expected: Sequence[Mapping[str, np.ndarray]]) -> int:
    """Values that differ in any bit."""
    count = 0
    for feed, wanted in zip(feeds, expected, strict=False):
        found = run(feed)
        for name, y in wanted.items():
            got = np.ascontiguousarray(found[name])
            bits = np.dtype(f"u{y.dtype.itemsize}")
            count += int((got.view(bits) != np.ascontiguousarray(y).view(bits)).sum())
    return count


def run(connection: Connection, name: str, cache: Path, library: bool, limit: int) -> None:
    """Measure the architecture of a name, and send its `Result` as a dict.

    After `limit` seconds of processor time the process is ended.
    """
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    (architecture,) = [a for a in architectures() if a.name == name]
    path = cache / architecture.file
    result = Result(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            measure(architecture, path, library, result)
    except Exception as raised:  # what escapes is what the table is about
        error: BaseException = raised
        result.refused = isinstance(error, QcompilerError)
        while result.stage == "export" and error.__cause__ is not None:
            error = error.__cause__  # torch wraps what happened in advice
        text = str(error) if result.refused else f"{type(error).__name__}: {error}"
        result.reason = " ".join(text.removeprefix(f"{path}: ").split())
        if not result.refused:
            result.reason += f" [{_where(error)}]"
    connection.send(asdict(result))


def _where(error: BaseException) -> str:
    """The innermost place in this project where it happened."""
    frames = traceback.extract_tb(error.__traceback__)
    root = str(Path(__file__).resolve().parents[1])
    own = [f for f in frames if f.filename.startswith(root)] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"
