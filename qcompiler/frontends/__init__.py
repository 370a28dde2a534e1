"""The way in: which frontend reads a model is decided here, by its content or its class."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qcompiler.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from qcompiler.graph import Graph

_ARCHIVE = b"PK\x03\x04"
"""How zip files begin, and with them whatever torch writes; no ONNX model does."""


def import_model(
    model: Any,
    example_inputs: Any = None,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    input_values: Mapping[str, ArrayLike] | None = None,
    length: int | None = None,
) -> Graph:
    """Import a float model of any kind into the real language.

    Args:
        model: What `import_onnx` or `import_torch` takes, or a `Graph`, which is returned as it is,
            or the path of one that was saved.
        example_inputs: Of a torch model; see `import_torch`.
        input_shapes: Input name → shape, for inputs with open dimensions.
        input_values: Input name → value, for inputs that become constants.
        length: Of sequences: the size of the only dimension that is open besides the first.

    Raises:
        QcompilerError: a subclass says what is wrong with the model.
    """
    from qcompiler.graph import Graph
    from qcompiler.graph.archive import is_saved

    if is_saved(model):
        return Graph.load(model)
    if is_torch(model):
        from qcompiler.frontends.torch import import_torch

        return import_torch(
            model,
            example_inputs,
            input_shapes=input_shapes,
            input_values=input_values,
            length=length,
        )
    if example_inputs is not None:
        raise UsageError(
            f"example_inputs: only for torch models, found {type(model).__name__}; leave them out"
        )
    if isinstance(model, Graph):
        return model
    from qcompiler.frontends.onnx import import_onnx

    return import_onnx(model, input_shapes=input_shapes, input_values=input_values, length=length)


def as_onnx(model: Any) -> Any:
    """What `import_onnx` takes in place of the model: the model itself, unless it is torch's."""
    if not is_torch(model):
        return model
    from qcompiler.frontends.torch import to_onnx

    return to_onnx(model)


def is_torch(model: Any) -> bool:
    """Whether the model is a torch module or program, or a file or bytes that torch wrote."""
    if isinstance(model, bytes):
        return model.startswith(_ARCHIVE)
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model).endswith(".pt2") or _begins_with(model, _ARCHIVE)
    torch = sys.modules.get("torch")  # whoever has such an object has imported torch
    return torch is not None and isinstance(model, (torch.nn.Module, torch.export.ExportedProgram))


def _begins_with(path: str | os.PathLike[str], magic: bytes) -> bool:
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return file.read(len(magic)) == magic
    except (OSError, ValueError):  # whoever reads the file says so
        return False
