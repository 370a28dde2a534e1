"""Facts about models and libraries, as plain values whose keys are stable."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompiler.errors import QcompilerError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import ArrayLike

    from qcompiler.graph import Graph
    from qcompiler.metadata import KernelInfo, Value
    from qcompiler.types import Quantization, TensorType

_LIBRARY_MAGIC = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"MZ")
"""How shared libraries begin: ELF, Mach-O, PE."""


def is_library(path: Path) -> bool:
    """Whether the file is a shared library, of whomever."""
    with path.open("rb") as file:
        return file.read(4).startswith(_LIBRARY_MAGIC)


def library_facts(path: Path) -> dict[str, Any]:
    """What a compiled library says about itself.

    Raises:
        FileError: it is damaged or no library of qcompiler.
    """
    from qcompiler.artifact import read_metadata

    metadata = read_metadata(path)
    batch, lengths = metadata.batch, metadata.lengths
    return {
        "kind": "library",
        "path": str(path),
        "file_bytes": path.stat().st_size,
        "model": metadata.model,
        "inputs": _ends(metadata.inputs, *(x.inputs for x in (batch, lengths) if x)),
        "outputs": _ends(metadata.outputs, *(x.outputs for x in (batch, lengths) if x)),
        "target": metadata.target,
        "architecture": metadata.architecture,
        "cpu": metadata.cpu,
        "features": list(metadata.features),
        "device": metadata.device,
        "gpus": list(metadata.gpus),
        "toolkit": metadata.toolkit,
        "qcompiler": metadata.qcompiler,
        "tvm": metadata.tvm,
        "source_sha256": metadata.source_sha256,
        "states": {
            metadata.inputs[x].name: metadata.outputs[y].name
            for x, y in metadata.programs[0].states
        },
        "programs": [program.name for program in metadata.programs],
        "batch": batch and list(batch.sizes),
        "lengths": lengths and list(lengths.capacities),
        "weight_bytes": metadata.weight_bytes,
        "workspace_bytes": metadata.workspace_bytes,
        "threads": metadata.threads,
        "float_instructions": metadata.float_instructions,
        "kernels": [dataclasses.asdict(k) for k in metadata.kernels],
    }


def kernel_line(kernel: KernelInfo) -> str:
    """A kernel of a library, for people."""
    return (
        f"{kernel.symbol}: {kernel.implementation}, {kernel.role}, "
        f"{kernel.float_instructions} float instructions: {', '.join(kernel.ops)}"
    )


def graph_facts(path: Path) -> dict[str, Any]:
    """What a saved graph holds, and what it was saved for.

    Raises:
        FileError: it is damaged.
    """
    from qcompiler.graph import Constant, Graph, Input
    from qcompiler.graph.archive import read_note

    graph = Graph.load(path)
    computed = [x for x in graph.ops if not isinstance(x, (Constant, Input))]
    outputs = graph.outputs.items()
    return {
        "kind": "graph",
        "path": str(path),
        "file_bytes": path.stat().st_size,
        "model": graph.name,
        "note": read_note(path).splitlines(),
        "inputs": [_typed(str(x.name), x.type, x.type.quantization) for x in graph.inputs],
        "outputs": [_typed(name, y.type, y.type.quantization) for name, y in outputs],
        "operators": dict(Counter(x.kind() for x in computed).most_common()),
        "parameters": sum(x.array.size for x in graph.ops if isinstance(x, Constant)),
    }


def _ends(values: Sequence[Value], *chosen: Sequence[int | None]) -> list[dict[str, Any]]:
    """Inputs or outputs; axes whose size a call chooses are None."""
    found = [_typed(v.name, v.type, v.quantization) for v in values]
    for axes in chosen:
        for end, axis in zip(found, axes, strict=True):
            if axis is not None:
                end["shape"][axis] = None
    return found


def _typed(name: str, type: TensorType, meaning: Quantization | None) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": type.dtype,
        "shape": list(type.shape),
        "quantization": None if meaning is None else dataclasses.asdict(meaning),
    }


def model_facts(
    path: Path,
    shapes: Mapping[str, Sequence[int]] | None,
    values: Mapping[str, ArrayLike] | None,
) -> dict[str, Any]:
    """What a model holds, as ONNX, and what would become of it.

    `problem` is what a compilation would refuse it for, or None; `macs` and `stays_float` are None
    for a model with a problem.

    Raises:
        FileError: it cannot be read as a model.
        ModelError: it is damaged.
        UnsupportedError: torch cannot export it.
    """
    from qcompiler.frontends import as_onnx
    from qcompiler.frontends.onnx import import_onnx
    from qcompiler.frontends.onnx_model import load
    from qcompiler.ops import macs

    try:
        model = as_onnx(path)
        source = load(model)
    except QcompilerError as error:
        raise type(error)(f"{path}: {error}") from None
    graph = source.model.graph
    operators = Counter(
        node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        for node in graph.all_nodes()
    )
    facts = {
        "kind": "model",
        "path": str(path),
        "file_bytes": path.stat().st_size,
        "model": graph.name,
        "opset": source.opset,
        "inputs": [_declared(x) for x in graph.inputs if x.const_value is None],
        "outputs": [_declared(y) for y in graph.outputs],
        "operators": dict(operators.most_common()),
        "parameters": sum(
            x.const_value.size for x in graph.initializers.values() if x.const_value is not None
        ),
    }
    try:
        real = import_onnx(model, input_shapes=shapes, input_values=values)
        found = {
            "macs": sum(macs(node) for node in real.ops),
            "stays_float": _stays_float(real),
            "problem": None,
        }
    except QcompilerError as error:
        found = {"macs": None, "stays_float": None, "problem": str(error)}
    return {**facts, **found}


def _declared(value: ir.Value) -> dict[str, Any]:
    """Name, dtype and shape as the model states them; open dimensions are their symbol or None."""
    shape = None
    if value.shape is not None:
        shape = [d if isinstance(d, int) else d.value for d in value.shape]
    dtype = None if value.dtype is None else value.dtype.name.lower()
    renamed = {"float": "float32", "double": "float64"}
    return {"name": value.name, "dtype": renamed.get(str(dtype), dtype), "shape": shape}


@dataclass(frozen=True)
class _AnyRange:
    """Ranges for whom only the structure of the result counts."""

    def range(self, name: str, storage: str, method: str) -> tuple[float, float]:
        return -1.0, 1.0

    def knows(self, name: str) -> bool:
        return True

    def channels(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError("one scale per tensor needs no channels")


def _stays_float(graph: Graph) -> list[str]:
    """The ops that the default passes leave in float, in the user's node names."""
    from qcompiler.config import QuantizationConfig
    from qcompiler.invariants import float_ops
    from qcompiler.passes import DEFAULT, InsertQdq, PassManager
    from qcompiler.passes.evidence import CalibratedPass

    # Passes that only move scales change nothing about what can be an integer.
    insert = InsertQdq(_AnyRange(), config=QuantizationConfig(table_scales=1))
    steps = [insert if isinstance(step, InsertQdq) else step for step in DEFAULT]
    steps = [step for step in steps if step is insert or not isinstance(step, CalibratedPass)]
    return [node.label() for node in float_ops(PassManager(tuple(steps), ())(graph))]
