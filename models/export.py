"""Export a torch module as a small, readable ONNX file that keeps its batch normalizations.

The exporter's own optimizer folds BatchNormalization into the convolution before it, which would
leave nothing for this compiler to fold. Without its optimizer, every shape is computed by nodes.
"""

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir
from torch import Tensor, nn

OPSET = 20  # the first with a Gelu operator


def export_model(
    model: nn.Module, inputs: dict[str, Tensor], path: Path, *, output: str = "logits"
) -> None:
    """Write ``model`` as ONNX with static shapes and compare ONNX Runtime with torch.

    Args:
        model: Module that takes ``inputs`` by position and returns one float32 tensor.
        inputs: Example inputs by ONNX input name; their shapes become the graph's shapes.
        path: File to write; nothing beside it (weights are inside).
        output: Name of the single output.

    Raises:
        AssertionError: ONNX Runtime and torch differ by more than 1e-3 of the largest output.
    """
    model.eval()
    # Ambiguous strides, as of one channel, would trace an as_strided after a global pool.
    inputs = {k: v.clone(memory_format=torch.contiguous_format) for k, v in inputs.items()}
    batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # one warning per torchvision op
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own use of its old names
        program = torch.onnx.export(
            model,
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            optimize=not batch_norm,
            input_names=list(inputs),
            output_names=[output],
        )
    assert program is not None
    if batch_norm:
        _simplify(program.model)
    _rename(program.model, set(model.state_dict()))
    _strip_metadata(program.model)
    ir.save(program.model, path)
    onnx.checker.check_model(str(path), full_check=True)
    _compare(model, inputs, path)


def _simplify(model: ir.Model) -> None:
    """Fold constants, and drop the zero bias that the exporter gives every convolution."""
    fold_constants_ir(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in model.graph:
        if node.op_type != "Conv" or len(node.inputs) < 3:
            continue
        bias = node.inputs[2]
        if bias is not None and bias.const_value is not None and not bias.const_value.numpy().any():
            node.resize_inputs(2)
    common.RemoveUnusedNodesPass()(model)
    common.DeduplicateInitializersPass()(model)


def _rename(model: ir.Model, parameters: set[str]) -> None:
    """Name nodes and values ``module.path/Operator``, computed constants after their first user."""
    outputs = set(model.graph.outputs)
    constants = set(model.graph.initializers.values())
    seen: dict[str, int] = {}
    for node in model.graph:
        # name_scopes is the printed list of enclosing module paths, then the torch operation
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "['', '']")
        module = scopes.strip("[]").split(", ")[-2].strip("'")
        name = f"{module}/{node.op_type}" if module else node.op_type
        count = seen[name] = seen.get(name, -1) + 1
        node.name = f"{name}_{count}" if count else name
        for index, value in enumerate(node.outputs):
            if value not in outputs:
                value.name = f"{node.name}:{index}" if index else node.name
        for index, operand in enumerate(node.inputs):
            if operand in constants and operand.name not in parameters:
                operand.name = f"{node.name}.{index}"
                constants.remove(operand)


def _strip_metadata(model: ir.Model) -> None:
    """Remove the exporter's notes, which hold source paths of the exporting machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        values.extend(node.outputs)
    for value in values:
        value.metadata_props.clear()


def _compare(model: nn.Module, inputs: dict[str, Tensor], path: Path) -> None:
    """Assert that ONNX Runtime computes from the file what torch computes."""
    with torch.no_grad():
        expected = model(*inputs.values()).numpy()
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert np.isfinite(got).all(), f"{path}: the outputs are not finite"
    assert error < 1e-3, f"{path}: ONNX Runtime differs from torch by {error:.1e} of the maximum"
