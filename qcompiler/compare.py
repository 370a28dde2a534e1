"""Float against integer, layer by layer: where a quantized network loses its accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompiler.calibrate import Feed
from qcompiler.calibrate.spool import Spool
from qcompiler.driver import Options, quantize
from qcompiler.errors import UsageError
from qcompiler.graph import Constant, Graph, Input, Op, fold, rebuilt
from qcompiler.ops import Dequantize
from qcompiler.passes import InsertQdq, Pass, place_of
from qcompiler.passes.annotations import unrounded
from qcompiler.report.comparison import MODES, Comparison, LibraryOutput, Mode, Output
from qcompiler.report.deviation import DeviationSums, looks_like_scores
from qcompiler.report.isolate import Links, link
from qcompiler.report.observe import ObserveOptions, measure, observe
from qcompiler.report.rows import Rows, output_pair

VARIANTS = 16
"""Variants of a network in one session: they share what lies in front of their roundings."""


@dataclass(frozen=True)
class Stages:
    """One model on its way from real to integer numbers; the values keep the user's names.

    Attributes:
        real: Right in front of `InsertQdq`: the float reference.
        quantized: Right behind it.
        integer: Behind all passes.
    """

    real: Graph
    quantized: Graph
    integer: Graph


def stages(graph: Graph, calibration: Any = None, *, options: Options | None = None) -> Stages:
    """Quantize a float graph as `quantize` does, and keep the stages.

    A model that is quantized already is compared with what it would be without any rounding.

    Values that the model does not name (parts of what passes took apart) are named as the real
    graph prints them, so that all stages can be compared.

    Args:
        graph: As `import_onnx` gives it.
        calibration: As for `quantize`.
        options: As for `quantize`.

    Raises:
        UsageError: `options.passes` has no `insert-qdq`.
        QcompilerError: as `quantize` does.
    """
    chosen = options or Options()
    place = place_of(chosen.passes, InsertQdq.title())
    seen = chosen.calibration(graph, calibration)

    def through(current: Graph, passes: tuple[Pass, ...], *, integer: bool = False) -> Graph:
        part = dataclasses.replace(chosen, passes=passes, require_integer=integer)
        return quantize(current, seen, options=part)

    real = through(graph, chosen.passes[:place])
    quantized = through(real, chosen.passes[place : place + 1])
    real = unrounded(real)
    quantized = _named(quantized, real.names, link(real, quantized))
    integer = through(quantized, chosen.passes[place + 1 :], integer=chosen.require_integer)
    return Stages(real, quantized, integer)


def _named(quantized: Graph, names: Mapping[Op, str], links: Links) -> Graph:
    """The quantized graph with each value called like the real value that it stands for."""

    def visit(node: Op, operands: list[Op]) -> Op:
        name = names.get(links.get(node, node))
        if any(a is not b for a, b in zip(operands, node.operands, strict=True)):
            node = node.with_operands(operands)
        if isinstance(node, (Constant, Input, Dequantize)) or node.name == name:
            return node
        return dataclasses.replace(node, name=name)

    return quantized.with_outputs(fold(quantized.ops, {}, visit))


def compare(
    real: Graph,
    integer: Graph,
    feeds: Iterable[Feed],
    *,
    quantized: Graph | None = None,
    mode: Mode = "cumulative",
    options: ObserveOptions | None = None,
) -> Comparison:
    """Compare every value of a quantized network with the float value of the same name.

    *Cumulative*: the integer network as it is; a value's deviation holds the errors of everything
    before it, and those of integer approximations (softmax, normalization).

    *Isolated*: one rounding at a time.  The row of a value says what happens when this value alone
    is rounded to its codes, computed from exact operands by products with rounded weights, and
    the rest of the network goes on in float: the deviation of the value itself, and that of the
    outputs.  Each rounding of the network is in exactly one row, the one whose name the
    configuration's rules match; the approximations of integer ops are in none.

    Args:
        real: Right in front of `InsertQdq`.
        integer: Made from it, in the integer or in the quantized language; values of another
            shape or without a name of `real.names` are left out.
        feeds: Inputs by name for each run, in the exact shapes; what comes only once is kept in a
            temporary file.
        quantized: Right behind `InsertQdq`, for the isolated mode, if that is not `integer`.
        mode: What to compare.
        options: Memory, threads, progress.

    Raises:
        CalibrationError: no feeds.
        ModelError: ONNX Runtime cannot run the graphs.
        UsageError: an unknown mode, graphs that do not belong together.
    """
    chosen = options or ObserveOptions()
    if mode not in MODES:
        raise UsageError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    if isinstance(feeds, Iterator):
        feeds = Spool(feeds)
    rows = Rows(real)
    outputs: list[tuple[str, DeviationSums]] = []
    runs = 0
    if mode != "isolated":
        integer = on_inputs(integer, real.inputs)
        pairs = list(rows.cumulative(integer))
        for name, y in real.outputs.items():
            pair = output_pair(name, y, integer.outputs)
            outputs.append((name, pair.sums))
            pairs.append(pair)
        runs = measure(real.inputs, pairs, feeds, chosen)
    if mode != "cumulative":
        source = on_inputs(quantized or integer, real.inputs)
        pairs = list(rows.isolated(source, link(real, source)))
        together = VARIANTS * (1 + len(real.outputs))
        runs = measure(real.inputs, pairs, feeds, chosen, together=together)
    done = tuple(Output(name, sums.result()) for name, sums in outputs)
    return Comparison(real.name, mode, runs, rows.result(), done)


def compare_library(
    library: Callable[[Feed], Mapping[str, np.ndarray]],
    real: Graph,
    feeds: Iterable[Feed],
    *,
    integer: Graph | None = None,
    options: ObserveOptions | None = None,
) -> Comparison:
    """Compare what a library returns with the float model, and bit by bit with the integer one.

    Args:
        library: Such as `qcompiler.load` gives.
        real: The float model.
        feeds: As for `compare`.
        integer: The integer graph that the library should compute.
        options: Threads.

    Returns:
        A comparison without rows.

    Raises:
        UsageError: the library has other inputs or outputs than the model.
        QcompilerError: as `compare` does, and whatever the library raises.
    """
    sums = {n: DeviationSums(scores=looks_like_scores(y.type)) for n, y in real.outputs.items()}
    elements, differing = dict.fromkeys(sums, 0), dict.fromkeys(sums, 0)
    other = None if integer is None else on_inputs(integer, real.inputs)
    ops = [*real.outputs.values(), *(() if other is None else other.outputs.values())]
    runs = 0
    for feed, values in observe(real.inputs, ops, feeds, options or ObserveOptions()):
        found = library(feed)
        runs += 1
        for name, y in real.outputs.items():
            if name not in found or found[name].shape != y.type.shape:
                raise UsageError(
                    f"library: no output {name!r} of {y.type}: compile it from this model"
                )
            sums[name].update(values[y], found[name])
            elements[name] += found[name].size
            if other is not None:
                differing[name] += _differing(values[other.outputs[name]], found[name])
    outputs = tuple(
        LibraryOutput(name, s.result(), elements[name], None if other is None else differing[name])
        for name, s in sums.items()
    )
    return Comparison(real.name, "cumulative", runs, (), (), outputs)


def _differing(expected: np.ndarray, found: np.ndarray) -> int:
    """Elements whose bits differ."""
    if expected.dtype != found.dtype:
        return found.size
    width = expected.dtype.itemsize
    left, right = (np.ascontiguousarray(v).reshape(-1).view(f"V{width}") for v in (expected, found))
    return int((left != right).sum())


def on_inputs(graph: Graph, inputs: tuple[Input, ...]) -> Graph:
    """The graph over other inputs of the same names, such as those of the graph it came from.

    Raises:
        UsageError: names or types differ.
    """
    wanted = {x.name: x for x in inputs}
    env: dict[Op, Op] = {}
    for x in graph.inputs:
        if x.name not in wanted or wanted[x.name].type != x.type:
            expected = ", ".join(f"{y.name}: {y.type}" for y in inputs)
            raise UsageError(f"input {x.name}: {x.type} of the other graph, expected {expected}")
        env[x] = wanted[x.name]

    def visit(node: Op, operands: list[Op]) -> Op:
        return rebuilt(node, operands)

    fold(graph.outputs.values(), env, visit)
    return Graph(inputs, {name: env[y] for name, y in graph.outputs.items()}, graph.name)
