"""What a compilation can be asked for: a library, an ONNX file, or a graph on the way."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcompiler.driver import Options
    from qcompiler.graph import Graph
    from qcompiler.metadata import Metadata
    from qcompiler.passes import Pass
    from qcompiler.report.summary import Summary


@dataclass(frozen=True)
class Job:
    """A model, and all that shapes its compilation.

    Attributes:
        model: Path of the float model.
        target: Name of a target.
        calibration: As for `qcompiler.compile`.
        options: See `Options`.
    """

    model: Path
    target: str
    calibration: str | None
    options: Options

    def library(self, output: Path) -> tuple[Summary, Metadata]:
        """Write a shared library."""
        from qcompiler.driver import compile_model

        done = compile_model(self.model, self.target, self.calibration, options=self.options)
        start = time.perf_counter()
        done.model.save(output)
        seconds = {**done.summary.seconds, "write": time.perf_counter() - start}
        return dataclasses.replace(done.summary, seconds=seconds), done.model.metadata

    def onnx(self, output: Path, *, inline: bool) -> Summary:
        """Write the integer graph as an ONNX model."""
        from qcompiler.backends.onnx import export_onnx
        from qcompiler.batching import rebatched
        from qcompiler.report.summary import constant_bytes, summarize

        start = time.perf_counter()
        graph = self._imported()
        imported = time.perf_counter()
        integer = self._quantized(graph, self.options.passes)
        quantized = time.perf_counter()
        sizes = self.options.batches
        export_onnx(rebatched(integer, *sizes) if sizes else integer, output, inline=inline)
        seconds = {
            "import": imported - start,
            "quantize": quantized - imported,
            "write": time.perf_counter() - quantized,
        }
        return summarize(constant_bytes(graph), integer, None, seconds)

    def qdq(self, output: Path) -> None:
        """Write the quantized stage as a QDQ ONNX model."""
        from qcompiler.backends.onnx import export_qdq
        from qcompiler.passes import InsertQdq

        passes = _until(self.options.passes, InsertQdq.title(), "--emit qdq: pass")
        export_qdq(self._quantized(self._imported(), passes), output)

    def graph_after(self, name: str) -> Graph:
        """The graph behind a pass, those that lower integer graphs to kernels included."""
        from qcompiler.passes import LOWERING

        passes = _until((*self.options.passes, *LOWERING), name, "--stop-after")
        return self._quantized(self._imported(), passes)

    def _imported(self) -> Graph:
        return self.options.imported(self.model)

    def _quantized(self, graph: Graph, passes: tuple[Pass, ...]) -> Graph:
        from qcompiler.driver import quantize

        options = dataclasses.replace(self.options, passes=passes)
        return quantize(graph, self.calibration, options=options)


def _until(passes: tuple[Pass, ...], name: str, asked: str) -> tuple[Pass, ...]:
    from qcompiler.passes import place_of

    return passes[: place_of(passes, name, asked) + 1]
