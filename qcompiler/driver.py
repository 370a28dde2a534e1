"""The pipeline from a float model to an artifact."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from qcompiler.batching import output_axes
from qcompiler.calibrate import SampleOptions
from qcompiler.calibrate.collect import CollectOptions
from qcompiler.config import QuantizationConfig
from qcompiler.errors import NotIntegerError, ShapeError
from qcompiler.evidence import DEFAULT_SAMPLES, Calibration, Recorded
from qcompiler.frontends import import_model
from qcompiler.frontends.open_batch import with_checked_batch
from qcompiler.graph import Graph
from qcompiler.invariants import float_ops
from qcompiler.lengths import lengths_of
from qcompiler.metadata import Lengths
from qcompiler.passes import (
    DEFAULT,
    LOWERING,
    Instrument,
    Pass,
    PassManager,
    Verify,
)
from qcompiler.passes.evidence import Evidence, Observations
from qcompiler.programs import Programs, batched
from qcompiler.report.summary import Summary, constant_bytes, summarize
from qcompiler.states import with_states

if TYPE_CHECKING:
    from qcompiler.artifact import CompiledModel


DEFAULT_BATCHES = (1, 8)
"""Numbers of samples that programs are compiled for where a model leaves the number open."""


@dataclass(frozen=True)
class Options:
    """Everything that shapes a compilation, besides the model and its calibration data.

    Attributes:
        config: Widths, methods and exceptions of quantization.
        samples: Which calibration samples to use, and how images are preprocessed.
        passes: From the real graph to the integer one, in order.
        instruments: Watch the passes.
        require_integer: Raise `NotIntegerError` if an op stays in float.
        input_shapes: Shapes for inputs, by name, where the model leaves dimensions open.
        input_values: Values of inputs, by name, that are no inputs of the compiled model.
        states: Input name → name of the output that replaces it in the next call: integer codes
            from then on, which `CompiledModel.session` keeps.
        batches: Numbers of samples to compile programs for: a library then takes any number, and
            cuts it into these.  None: `DEFAULT_BATCHES` for a model that leaves the number open,
            else only what the model says.
        lengths: Capacities for sequences whose length the model leaves open: a library then takes
            any length up to the largest, and pads it to the next one.  Calibration data are as long
            as the largest.
        seed: Of synthetic calibration data.
        threads: Threads of calibration, and the compiled model's default, stored in its file; None:
            the cores that the process may use, wherever that is.
        tune: Tiles to measure for each product on this machine; what was measured is kept in a file
            (`qcompiler.backends.cpu.tuning_cache`). 0: take what the cost model says.
        progress: Show calibration on stderr.
    """

    config: QuantizationConfig = field(default_factory=QuantizationConfig)
    samples: SampleOptions = field(
        default_factory=lambda: SampleOptions(num_samples=DEFAULT_SAMPLES)
    )
    passes: tuple[Pass, ...] = DEFAULT
    instruments: tuple[Instrument, ...] = (Verify(),)
    require_integer: bool = False
    input_shapes: Mapping[str, Sequence[int]] | None = None
    input_values: Mapping[str, ArrayLike] | None = None
    states: Mapping[str, str] | None = None
    batches: tuple[int, ...] | None = None
    lengths: tuple[int, ...] | None = None
    seed: int = 0
    threads: int | None = None
    tune: int = 0
    progress: bool = False

    def imported(self, model: Any, example_inputs: Any = None, length: int | None = None) -> Graph:
        """A model with the shapes and values of inputs that these options say.

        Args:
            model: What `qcompiler.frontends.import_model` takes.
            example_inputs: Likewise.
            length: Of sequences; by default the largest of `lengths`.

        Raises:
            ShapeError: an open first dimension counts no independent samples.
            UsageError: `states` are no pairs of an input and an output of one type.
            UnsupportedError: `batches`, and the model cannot compute several samples at once.
        """

        chosen = length or max(self.lengths or (0,)) or None

        def imported(shapes: Mapping[str, Sequence[int]]) -> Graph:
            return import_model(
                model,
                example_inputs,
                input_shapes={**(self.input_shapes or {}), **shapes},
                input_values=self.input_values,
                length=None if shapes else chosen,
            )

        graph = with_checked_batch(imported({}), imported)
        if chosen:
            _check_length(graph, chosen)
        if self.states:
            graph = with_states(graph, self.states)
        if self.batches:
            output_axes(graph)  # what cannot be is refused before minutes of calibration
        return graph

    def programs(self, graph: Graph, lengths: LengthGraphs | None = None) -> Programs:
        """What becomes of an integer graph in a library: a program for each number of samples.

        Args:
            graph: For one sample, or as many as the model says.
            lengths: It and others for other lengths of sequences.

        Raises:
            UnsupportedError: an op cannot compute several samples at once; it is named.
        """
        sizes = self.batches or (DEFAULT_BATCHES if graph.open_batch else ())
        manager = PassManager(LOWERING, self.instruments)
        if lengths is None:
            found = batched(graph, sizes) if sizes else Programs.of(graph)
            kernels = {name: manager(graph) for name, graph in found.graphs.items()}
            return Programs(kernels, found.batch)
        kernels = {}
        for capacity, own in sorted(lengths.graphs.items()):
            found = batched(own, sizes) if sizes else Programs.of(own)
            kernels |= {f"{name}-of-{capacity}": manager(g) for name, g in found.graphs.items()}
        return Programs(kernels, found.batch, lengths.lengths)

    def calibration(self, graph: Graph, source: Any = None) -> Calibration:
        """The samples of a graph as these options say, to quantize with several configurations.

        Args:
            graph: As `import_onnx` gives it.
            source: As `calibration` of `quantize`; one that is a `Calibration` already stays it.

        Raises:
            CalibrationError: the samples do not fit the model.
        """
        if isinstance(source, Calibration):
            source.check(graph)
            return source
        collecting = CollectOptions(threads=self.threads, progress=self.progress)
        return Calibration(
            graph, source, samples=self.samples, seed=self.seed, collecting=collecting
        )


@dataclass(frozen=True)
class Compilation:
    """What a compilation produced.

    Attributes:
        model: The artifact.
        integer: The integer graph that it computes, before layout and fusion.
        summary: Figures for people.
    """

    model: CompiledModel
    integer: Graph
    summary: Summary


def quantize(graph: Graph, calibration: Any = None, *, options: Options | None = None) -> Graph:
    """Quantize a float graph after training: from the real language to the integer one.

    Args:
        graph: As `import_onnx` gives it.
        calibration: A few hundred unlabelled samples: a path (.npz, .npy, folder of images,
            `script.py:function`), a dict of arrays by input name, one array, an iterable of feeds,
            or a callable that returns one; or a `Calibration`, which several calls share.  None
            calibrates on random numbers, with a warning, what the model does not say itself by
            being quantized already.
        options: See `Options`.

    Returns:
        A graph whose ops are integer between entry and exit; what could not be is listed by
        `qcompiler.invariants.float_ops`.

    Raises:
        CalibrationError: the samples do not fit the model.
        NotIntegerError: `options.require_integer` and an op stays in float.
    """
    return _quantized([graph], calibration, options or Options())


def _quantized(held: list[Graph], calibration: Any, chosen: Options) -> Graph:
    """`quantize` the only graph in the list and take it out, so that weights are free to go."""
    evidence = Evidence(chosen.config, chosen.calibration(held[0], calibration))
    integer = PassManager(chosen.passes, chosen.instruments, evidence).run(held.pop())
    if chosen.require_integer:
        check_integer(integer)
    return integer


@dataclass(frozen=True)
class LengthGraphs:
    """One model for several lengths of sequences.

    Attributes:
        graphs: Capacity → the integer graph.
        lengths: What a library says of them.
    """

    graphs: Mapping[int, Graph]
    lengths: Lengths


def _of_lengths(
    model: Any, example_inputs: Any, held: list[Graph], calibration: Any, chosen: Options
) -> LengthGraphs:
    """Quantize the model at its longest, and with what was seen there at the other lengths."""
    capacities = sorted(set(chosen.lengths or ()))
    seen = Recorded(chosen.calibration(held[0], calibration))

    def quantized(graph: Graph, samples: Observations) -> Graph:
        evidence = Evidence(chosen.config, samples)
        integer = PassManager(chosen.passes, chosen.instruments, evidence).run(graph)
        if chosen.require_integer:
            check_integer(integer)
        return integer

    graphs = {capacities[-1]: quantized(held.pop(), seen)}
    probe = max(1, capacities[0] // 2)
    for length in (*capacities[:-1], probe):
        graph = chosen.imported(model, example_inputs, length)
        graphs[length] = quantized(graph, seen.replayed())
    exact = graphs[probe] if probe in capacities else graphs.pop(probe)
    return LengthGraphs(graphs, lengths_of(graphs, (probe, exact)))


def _check_length(graph: Graph, length: int) -> None:
    """Refuse a graph whose sequences are not of that length."""
    shapes = {str(x.name): x.type.shape for x in graph.inputs}
    sizes = {shapes[name][axis] for name, axis in graph.open_length.items()}
    if sizes != {length}:
        found = "none" if not sizes else f"a graph of length {max(sizes)}"
        raise ShapeError(
            f"--length: expected a model with an open dimension besides the number of samples, "
            f"found {found}"
        )


def check_integer(graph: Graph) -> None:
    """Refuse a graph that computes in float between its ends.

    Raises:
        NotIntegerError: names the ops, in the user's node names.
    """
    found = [node.label() for node in float_ops(graph)]
    if not found:
        return
    shown = "; ".join(found[:8]) + (f"; and {len(found) - 8} more" if len(found) > 8 else "")
    raise NotIntegerError(
        f"--require-integer: {len(found)} operators have no integer form and would stay in float: "
        f"{shown}; accept them without the option, or add a pass that rewrites them (a plugin)"
    )


def compile_model(
    model: Any,
    target: str = "cpu",
    calibration: Any = None,
    *,
    example_inputs: Any = None,
    options: Options | None = None,
) -> Compilation:
    """Compile a float model to an integer-only library; see `compile` for the arguments."""
    from qcompiler.backends.target import load_builder
    from qcompiler.backends.targets import target as find_target

    chosen = options or Options()
    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal start
        now = time.perf_counter()
        seconds[stage] = now - start
        start = now

    machine = find_target(target)
    builder = load_builder(machine)
    builder.check(machine, tune=chosen.tune > 0)  # before minutes of calibration
    lengths = None
    held = [chosen.imported(model, example_inputs)]
    source = digest(model if isinstance(model, (str, os.PathLike, bytes)) else held[0])
    before = constant_bytes(held[0])
    lap("import")
    if chosen.lengths:
        lengths = _of_lengths(model, example_inputs, held, calibration, chosen)
        integer = lengths.graphs[max(lengths.graphs)]
    else:
        integer = _quantized(held, calibration, chosen)
    lap("quantize")
    programs = chosen.programs(integer, lengths)
    lap("fuse")
    compiled = builder.build(
        programs,
        machine,
        source_sha256=source,
        threads=chosen.threads,
        tune=chosen.tune,
    )
    lap("build")
    return Compilation(compiled, integer, summarize(before, integer, compiled, seconds))


def compile(
    model: Any,
    target: str = "cpu",
    calibration: Any = None,
    *,
    example_inputs: Any = None,
    options: Options | None = None,
) -> CompiledModel:
    """Compile a float model to an integer-only library.

    Args:
        model: Path or bytes of an ONNX or .pt2 file, an `onnx.ModelProto`, an `onnx_ir.Model`, a
            `torch.nn.Module`, a `torch.export.ExportedProgram` or a `Graph`.
        target: Name of a target, such as "cpu" (this machine) or "cpu:cascadelake".
        calibration: As for `quantize`.
        example_inputs: What a `torch.nn.Module` is exported with; see `import_torch`.
        options: See `Options`.

    Returns:
        A callable that takes and returns numpy arrays; `save(path)` writes one file to deploy.

    Raises:
        QcompilerError: a subclass says what is wrong with the model, the samples or the target.
    """
    done = compile_model(model, target, calibration, example_inputs=example_inputs, options=options)
    return done.model


def digest(model: Any) -> str:
    """SHA-256 of the source model: of its file where it has one, else of its text."""
    if isinstance(model, (str, os.PathLike)):
        found = hashlib.sha256()
        with Path(model).open("rb") as file:
            while part := file.read(1 << 20):
                found.update(part)
        return found.hexdigest()
    if isinstance(model, bytes):
        return hashlib.sha256(model).hexdigest()
    return hashlib.sha256(str(model).encode()).hexdigest()
