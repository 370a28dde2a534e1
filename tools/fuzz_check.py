"""What must hold for a random graph: the judge of the fuzzer.

The import computes what an independent runtime computes.  Quantized, it is the same in numpy, in
the compiled library and as integer ONNX in ONNX Runtime, bit for bit.  Where the graph is well
conditioned, the integers are near the real numbers.  What is refused is refused by an error that a
user can act on.
"""

from __future__ import annotations

import functools
import platform
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from fuzz_graphs import Case
from fuzz_noise import Noise
from fuzz_runtime import RejectedError, distance, opinion, run, session

import qcompiler
from qcompiler.errors import CalibrationError, QcompilerError, ShapeError, UnsupportedError
from qcompiler.graph import Constant, Graph, Input
from qcompiler.invariants import float_ops

MARGIN, FLOOR, ENOUGH, MORE = 15.0, 20.0, 45.0, 300
"""dB that an integer network may be worse than noise of 8 bits on every value; the least signal to
noise of that model for a graph to count as well conditioned; what is never too little; how many
times a graph that fails is disturbed."""

SATURATING = re.compile(r"QLinear(Conv|MatMul)|QGemm|ConvInteger|MatMulInteger|QuantizeMatMul")
"""Products of codes in which ONNX Runtime saturates 16-bit pairs on x86 CPUs without VNNI."""
UNCOMPARED = re.compile("Dynamic|QLinearSoftmax")
"""What is made static when samples have been seen, and what ONNX Runtime rounds down."""
LOOSE = re.compile("Quantize|QLinear|QGemm|NBits|InstanceNorm|MeanVariance")
"""Operators that round to codes, where runtimes differ by a step, and those that ONNX Runtime
computes as x·s + (b − m·s) or by E[x²] − m², which cancels: compared by signal to noise."""

FAILURES = ("crash", "refusal", "import", "bits", "accuracy", "timeout", "died")


@dataclass(frozen=True)
class Outcome:
    """What became of a graph.

    Attributes:
        kind: "integer" (nothing left in float), "float" (something left), "refused", "discarded",
            or one of `FAILURES`.
        what: The reason or the failure without names and numbers: equal for equal defects.
        detail: One line for people.
        case: The graph, where it failed.
    """

    kind: str
    what: str = ""
    detail: str = ""
    case: Case | None = None

    @property
    def failed(self) -> bool:
        """Whether this is a defect."""
        return self.kind in FAILURES


def check(case: Case, *, library: bool = True) -> Outcome:
    """Judge one graph."""
    try:
        if all(n.domain or onnx.defs.has(n.op_type) for n in case.model.graph.node):
            onnx.checker.check_model(case.model, full_check=True)
        expected = run(case.model, case.feeds)
    except RejectedError as error:
        return Outcome("discarded", pattern(str(error), case), str(error))
    except Exception as error:  # of onnx: its checker and its inference
        return Outcome("discarded", type(error).__name__, str(error)[:200])
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        try:
            return _judge(case, expected, library, Path(folder))
        except QcompilerError as error:
            return _refusal(case, error)
        except Exception as error:
            return crash(error)


def crash(error: BaseException) -> Outcome:
    """The outcome of an exception that nobody should see."""
    frames = [
        f"{Path(f.filename).name}:{f.name}"
        for f in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in f.filename and "fuzz_" not in f.filename
    ]
    where = frames[-1] if frames else "?"
    line = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return Outcome(
        "crash", f"{type(error).__name__} in {where}", f"{line} ({' '.join(frames[-4:])})"
    )


def pattern(text: str, case: Case) -> str:
    """A message without what differs from graph to graph."""
    text = re.sub(r"\b[nvxc]\d+(_\d+)?\b", "…", text)
    return re.sub(r"-?\d[\d.e+x-]*", "#", " ".join(text.split()))[:600]


def _refusal(case: Case, error: QcompilerError) -> Outcome:
    """A refusal is documented if it is one line, names its cause and blames no sound model."""
    text = str(error)
    names = {n.name for n in case.model.graph.node} | {x.name for x in case.model.graph.input}
    names |= {y for n in case.model.graph.node for y in n.output}
    names |= {t.name for t in case.model.graph.initializer}
    what = f"{type(error).__name__}: {pattern(text, case)}"
    if not isinstance(error, (UnsupportedError, CalibrationError, ShapeError)):
        return Outcome("refusal", what, text)
    if "\n" in text or not names & set(re.findall(r"\w+", text)):
        return Outcome("refusal", f"names no node: {what}", text)
    return Outcome("refused", what, text)


def _judge(case: Case, expected: list[list[np.ndarray]], library: bool, folder: Path) -> Outcome:
    graph = qcompiler.import_onnx(case.model)
    noise = Noise(graph, case.feeds)
    if (problem := _import_differs(case, expected, noise)) is not None:
        return problem
    compiled = None
    if library:
        made = qcompiler.compile_model(graph, "cpu", list(case.feeds))
        integer, compiled = made.integer, made.model
    else:
        integer = qcompiler.quantize(graph, list(case.feeds))
    left = list(float_ops(integer))
    path = folder / "integer.onnx"
    qcompiler.export_onnx(integer, path)
    try:
        opened = session(str(path), optimize=True)
    except Exception as error:
        return Outcome("crash", "ONNX Runtime refuses the integer model", str(error)[-260:])
    names = list(integer.outputs)
    results = []
    for i, feed in enumerate([*case.feeds, beyond(case.feeds[0])]):
        reference = qcompiler.evaluate(integer, feed)
        if i < len(case.feeds):
            results.append(reference)
        others = {"integer ONNX": dict(zip(names, opened.run(None, dict(feed)), strict=True))}
        if compiled is not None:
            others["library"] = compiled(feed)
        for executor, found in others.items():
            if (problem := _differs(executor, reference, found, exact=not left)) is not None:
                return problem
    if (problem := _inaccurate(integer, noise, results)) is not None:
        return problem
    if left:
        kinds = sorted({x.kind() for x in left if not isinstance(x, (Input, Constant))})
        return Outcome("float", " ".join(kinds[:4]))
    return Outcome("integer", "with library" if library else "without library")


def beyond(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same sample with floats far outside what was calibrated."""
    return {k: np.asarray(4 * x, x.dtype) if x.dtype.kind == "f" else x for k, x in feed.items()}


def _import_differs(case: Case, expected: list[list[np.ndarray]], noise: Noise) -> Outcome | None:
    for j, name in enumerate(y.name for y in case.model.graph.output):
        for i, reference in enumerate(expected):
            y = noise.exact[i][name]
            if y.shape != reference[j].shape or y.dtype != reference[j].dtype:
                detail = f"{name}: {y.dtype}{y.shape}, expected {reference[j].dtype}"
                return Outcome("import", "shape or dtype", f"{detail}{reference[j].shape}")
            if not noise.comparable or not np.isfinite(reference[j]).all():
                continue
            if LOOSE.search(" ".join(case.operators)):
                continue  # below, with all samples together
            error = distance(y, reference[j])
            allowed = noise.tolerance(name, i)
            if not (error <= allowed).all():
                allowed = noise.tolerance(name, i, near=True)
                if (other := opinion(case.model, case.feeds)) is not None:
                    allowed = allowed + np.nan_to_num(distance(other[i][j], reference[j]))
            if not (error <= allowed).all():
                ops = "+".join(dict.fromkeys(case.operators))
                detail = f"{name}: off by {np.nanmax(error):.3g}, allowed {np.max(allowed):.3g}"
                return Outcome("import", "values", f"{detail} in {ops}")
        if LOOSE.search(" ".join(case.operators)):
            if UNCOMPARED.search(" ".join(case.operators)):
                continue
            if _saturates() and SATURATING.search(" ".join(case.operators)):
                continue
            theirs = [{name: results[j]} for results in expected]
            floor, found = noise.decibels(name), noise.measure(name, theirs)
            if not noise.comparable or floor < FLOOR:
                continue
            if (
                found < min(floor - MARGIN, FLOOR)
                and (other := opinion(case.model, case.feeds)) is not None
            ):
                found = noise.measure(name, [{name: results[j]} for results in other])
            if found < min(floor - MARGIN, FLOOR):
                detail = f"{name}: {found:.1f} dB, noise of 8 bits gives {floor:.1f} dB"
                return Outcome("import", "quantized values", detail)
    return None


@functools.cache
def _saturates() -> bool:
    """Whether this is an x86 CPU without VNNI."""
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    return platform.machine() in ("x86_64", "AMD64") and "vnni" not in flags


def _differs(
    executor: str,
    reference: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    *,
    exact: bool,
) -> Outcome | None:
    if list(reference) != list(found):
        return Outcome("bits", f"{executor}: outputs", f"{list(found)}, expected {list(reference)}")
    for name, y in reference.items():
        other = np.asarray(found[name])
        if y.dtype != other.dtype or y.shape != other.shape:
            detail = f"{name}: {other.dtype}{other.shape}, expected {y.dtype}{y.shape}"
            return Outcome("bits", f"{executor}: shape or dtype", detail)
        if not exact:
            continue
        if y.tobytes() != other.tobytes():
            count = int((y != other).sum())
            worst = np.abs(y.astype(float) - other.astype(float)).max()
            detail = f"{name}: {count} of {y.size} differ, by up to {worst:.6g}"
            return Outcome("bits", f"{executor}: values", detail)
    return None


def _inaccurate(
    integer: Graph, noise: Noise, results: list[dict[str, np.ndarray]]
) -> Outcome | None:
    """Whether an output is worse than rounding every value to 8 bits explains."""
    if not noise.comparable:
        return None
    for name in integer.outputs:
        floor = noise.decibels(name)
        if floor < FLOOR:
            continue
        found = noise.measure(name, results)
        if found < min(floor - MARGIN, ENOUGH):
            floor = noise.decibels(name, MORE)  # a recurrence may be calm in a few trials
        if floor >= FLOOR and found < min(floor - MARGIN, ENOUGH):
            detail = f"{name}: {found:.1f} dB, noise of 8 bits gives {floor:.1f} dB"
            return Outcome("accuracy", f"{10 * int((floor - found) // 10)} dB", detail)
    return None
