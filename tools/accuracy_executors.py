"""A model in float and in integers: ONNX Runtime, the library, numpy and the integer ONNX file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import qcompiler

Arrays = Mapping[str, np.ndarray]


class Executors:
    """One model, quantized and compiled for this CPU.

    Attributes:
        differing: Output values that had other bits in numpy or in ONNX Runtime than in the
            library, over all calls of `integer`.
        float_instructions: Of the library.
    """

    def __init__(
        self, model: Path, calibration: Any, options: qcompiler.Options, *, fused: bool = True
    ) -> None:
        """Unless `fused`, ONNX Runtime computes Q and DQ of the given model as they are written.

        The products that it fuses from them saturate on CPUs without VNNI.
        """
        made = qcompiler.compile_model(model, "cpu", calibration, options=options)
        self.library, self.graph = made.model, made.integer
        self.differing = 0
        self.float_instructions = made.model.metadata.float_instructions
        self._reference = _session(model, fused)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, "integer.onnx")
            qcompiler.export_onnx(made.integer, file)
            self._onnx = _session(file)

    @property
    def input(self) -> str:
        """The name of the first input."""
        return str(self.graph.inputs[0].name)

    def real(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """What the float model gives."""
        return _run(self._reference, feeds)

    def integer(self, feeds: Arrays, compare: bool = True) -> dict[str, np.ndarray]:
        """What the library gives; its bits are compared with the other executors'."""
        found = dict(self.library(feeds))
        if compare:
            for other in (qcompiler.evaluate(self.graph, feeds), _run(self._onnx, feeds)):
                for name, y in found.items():
                    same = other[name].view(np.uint8) == y.view(np.uint8)
                    self.differing += int((~same).reshape(-1, y.itemsize).any(1).sum())
        return found


@dataclass(frozen=True)
class Line:
    """What was measured of one model, as text, and whether its bounds hold."""

    samples: int
    real: str
    integer: str
    agreement: str
    holds: bool


def _session(model: Path, fused: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, feeds: Arrays) -> dict[str, np.ndarray]:
    names = [y.name for y in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))
