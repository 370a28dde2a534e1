"""The way in for torch: modules, `torch.export` programs and the files of `torch.export.save`.

torch's own exporter turns them into ONNX, with its default opset and its optimizer, so that a model
is the same graph whether it comes from here or from the file that `torch.onnx.export` writes.  Only
node names differ: here they are `module.path/Operator`.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx_ir as ir
from numpy.typing import ArrayLike

from qcompiler.errors import FileError, QcompilerError, UnsupportedError, UsageError
from qcompiler.frontends.onnx import import_onnx
from qcompiler.frontends.onnx_model import label_of, printable
from qcompiler.graph import Graph

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    TorchModel: TypeAlias = nn.Module | ExportedProgram | str | os.PathLike[str] | bytes

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where the exporter notes the modules around a node, as a printed list that ends with the op."""

_TRAINING = 5  # the argument of aten.batch_norm that says whether it normalizes by the batch


def import_torch(
    model: TorchModel,
    example_inputs: Any = None,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    input_values: Mapping[str, ArrayLike] | None = None,
    length: int | None = None,
) -> Graph:
    """Import a torch model into the real language, in float32 and with static shapes.

    Inputs are named after the parameters of `forward`, the `sources` of an op after the modules
    that it comes from (`blocks.0.mlp/Gelu`).  The model is not modified; a module in training mode
    is exported as a copy in evaluation mode.

    Args:
        model: A `torch.nn.Module`, a `torch.export.ExportedProgram`, or what `torch.export.save`
            writes: its path or bytes.  torch runs code that such a file holds: read only files
            that you trust.
        example_inputs: One tensor, a tuple of arguments by position or a dict by name.  A module
            needs them, and their shapes become the graph's; of an exported program they fix
            the open dimensions.
        input_shapes: Input name → shape, for the open dimensions of an exported program.
        input_values: Input name → value, for inputs that become constants.
        length: Of sequences: the size of the only dimension that is open besides the first.

    Raises:
        FileError: the file is missing or holds no exported program.
        ShapeError: a dimension is not fixed, or shapes do not fit together.
        UnsupportedError: torch cannot export the model, or it uses what has no importer.
        UsageError: an argument of another kind, or tensors that are not on the CPU.
        QcompilerError: torch is not installed.
    """
    try:
        exported = to_onnx(model, example_inputs)
        shapes: dict[str, Sequence[int]] = {}
        if example_inputs is not None and not _is_module(model):
            shapes = _shapes(exported, *_arguments(example_inputs))
        shapes |= input_shapes or {}
        return import_onnx(exported, input_shapes=shapes, input_values=input_values, length=length)
    except QcompilerError as error:
        text = str(error).removeprefix(f"{label_of(None)}: ")  # as `import_onnx` calls its model
        raise type(error)(printable(f"{label_of(model)}: {text}")) from error.__cause__


def to_onnx(model: TorchModel, example_inputs: Any = None) -> ir.Model:
    """The ONNX model that torch's exporter makes, its nodes named after their modules.

    Raises:
        QcompilerError: as `import_torch`, without the model's name.
    """
    torch = _torch()
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    program = _program(model) if isinstance(model, (str, os.PathLike, bytes)) else model
    if isinstance(program, torch.export.ExportedProgram):
        _check_inference(program)
        tensors: dict[str, Any] = {**program.state_dict, **program.constants}
    elif isinstance(program, torch.nn.Module):
        if example_inputs is None:
            raise UsageError(
                "example_inputs: missing; give a tensor, a tuple or a dict, as the module takes "
                "them (torch modules do not declare their inputs)"
            )
        args, kwargs = _arguments(example_inputs)
        tensors = {**dict(program.named_parameters()), **dict(program.named_buffers())}
        for key, x in [*enumerate(args), *kwargs.items()]:
            tensors[f"example_inputs[{key!r}]"] = x
        program = _evaluating(program)
    else:
        raise UsageError(
            "expected a torch.nn.Module, a torch.export.ExportedProgram or the path of a .pt2 "
            f"file, found {program!r:.80}"
        )
    _check_devices(tensors)
    args, kwargs = torch.utils._pytree.tree_map_only(
        # Ambiguous strides, as of one channel, would trace an as_strided after a global pool.
        torch.Tensor,
        lambda x: x.detach().clone(memory_format=torch.contiguous_format),
        (args, kwargs),
    )
    try:
        with _quiet():
            exported = torch.onnx.export(program, args, kwargs=kwargs, dynamo=True, verbose=False)
    except Exception as error:  # tracing runs the user's code
        raise UnsupportedError(
            f"torch cannot export it: {_condensed(error)}; torch.onnx.export(…, dynamo=True, "
            "report=True) tells all of it"
        ) from error
    _name_after_modules(exported.model.graph)
    return exported.model


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise QcompilerError(
            f"torch models need torch ({printable(str(error))}): pip install 'qcompiler[torch]'"
        ) from None
    return torch


def _is_module(model: TorchModel) -> bool:
    return isinstance(model, _torch().nn.Module)


def _program(model: str | os.PathLike[str] | bytes) -> ExportedProgram:
    """What a file of `torch.export.save` holds."""
    wanted = "expected a file of torch.export.save"
    if not isinstance(model, bytes):
        if not os.path.exists(model):
            raise FileError(f"no such file: {wanted}")
        if not os.path.isfile(model):
            raise FileError(f"is not a regular file: {wanted}")
    torch = _torch()
    try:
        data = model if isinstance(model, bytes) else Path(model).read_bytes()
        with _quiet():
            return torch.export.load(io.BytesIO(data))
    except Exception as error:  # torch fails in many ways on what it did not write
        raise FileError(
            f"holds no program that torch {torch.__version__} reads ({_condensed(error)}): {wanted}"
        ) from None


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by position, and by name."""
    if isinstance(example_inputs, _torch().Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    raise UsageError(
        "example_inputs: expected a tensor, a tuple of arguments or a dict by name, "
        f"found {type(example_inputs).__name__}"
    )


def _shapes(
    exported: ir.Model, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Sequence[int]]:
    """The shapes of example inputs by input name."""
    names = [str(x.name) for x in exported.graph.inputs]
    if len(args) > len(names):
        raise UsageError(
            f"example_inputs: expected {', '.join(names) or 'none'}, found {len(args)} tensors"
        )
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return {name: tuple(x.shape) for name, x in given.items()}


def _evaluating(module: nn.Module) -> nn.Module:
    """The module, or a copy of it in evaluation mode where a part of it is in training mode."""
    if not any(part.training for part in module.modules()):
        return module
    try:
        return copy.deepcopy(module).eval()
    except Exception as error:  # modules may define both as they like
        raise UnsupportedError(
            f"is in training mode and cannot be copied ({_condensed(error)}): call eval() on it"
        ) from error


def _check_inference(program: ExportedProgram) -> None:
    """Refuse batch normalization by the statistics of the batch."""
    for node in program.graph.nodes:
        flag = node.args[_TRAINING] if len(node.args) > _TRAINING else None
        if "batch_norm" in str(node.target) and flag is True:  # elsewhere a momentum, maybe 1.0
            raise UnsupportedError(
                f"node {node.name!r} normalizes by the statistics of the batch, as in training "
                "mode: call eval() on the module before torch.export.export"
            )


def _check_devices(tensors: Mapping[str, Any]) -> None:
    for name, x in tensors.items():
        if isinstance(x, _torch().Tensor) and x.device.type != "cpu":
            raise UsageError(f"tensor {name!r} is on {x.device}: expected cpu; call cpu() on it")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's progress, advice and reports of failed attempts off the screen."""
    loggers = logging.root.manager.loggerDict.items()
    handlers = [
        handler
        for name, logger in loggers
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == "torch"
        for handler in logger.handlers
    ]
    levels = [handler.level for handler in handlers]
    unread = io.StringIO()
    try:
        for handler in handlers:
            handler.setLevel(logging.CRITICAL + 1)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(unread),
            contextlib.redirect_stderr(unread),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


def _condensed(error: BaseException) -> str:
    """Class and first line of what went wrong first; torch's own text goes on for pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next(iter(str(error).strip().splitlines()), "")
    return printable(f"{type(error).__name__}: {first}"[:200]).rstrip(".")


def _name_after_modules(graph: ir.Graph) -> None:
    """Name nodes `module.path/Operator`, with a number from the second one on."""
    seen: dict[str, int] = {}
    for node in graph:
        try:
            path = ast.literal_eval(node.metadata_props.get(_SCOPES, ""))[-2]
        except (SyntaxError, ValueError, IndexError):  # the exporter's own node
            path = ""
        name = f"{path}/{node.op_type}" if path else node.op_type
        count = seen[name] = seen.get(name, -1) + 1
        node.name = f"{name}_{count}" if count else name
