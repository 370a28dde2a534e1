"""Export a torch module as a small, readable ONNX file that keeps its batch normalizations.

The exporter's own optimizer folds BatchNormalization into the convolution before it, which would
leave nothing for this compiler to fold. Without its optimizer, every shape is computed by nodes.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import (
    fuse_pad_into_conv_rule,
    remove_optional_bias_from_conv_rule,
)
from torch import Tensor, nn

OPSET = 20  # the first with a Gelu operator
FOLD_LIMIT = 2**20  # elements: above attention masks and position biases


def export_model(
    model: nn.Module, inputs: dict[str, Tensor], path: Path, *, outputs: Sequence[str] = ("logits",)
) -> None:
    """Write ``model`` as ONNX with static shapes and compare ONNX Runtime with torch.

    Args:
        model: Module that takes ``inputs`` by position and returns a float32 tensor, or several.
        inputs: Example inputs by ONNX input name; their shapes become the graph's shapes.
        path: File to write; nothing beside it (weights are inside).
        outputs: Names of the outputs.

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
            output_names=list(outputs),
        )
    assert program is not None
    _simplify(program.model)
    _rename(program.model, set(model.state_dict()))
    _strip_metadata(program.model)
    ir.save(program.model, path)
    onnx.checker.check_model(str(path), full_check=True)
    _compare(model, inputs, path)


def _simplify(model: ir.Model) -> None:
    """Do what the exporter's optimizer does, but for folding batch normalization.

    Constant masks are folded too, which the optimizer leaves for their size.
    """
    fold_constants_ir(model, input_size_limit=FOLD_LIMIT, output_size_limit=FOLD_LIMIT)
    rewrite(model, [fuse_pad_into_conv_rule, remove_optional_bias_from_conv_rule])
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    results = set(model.graph.outputs)
    for node in model.graph:
        data = node.inputs[0] if node.inputs else None
        if data is not None and node.outputs[0] not in results and _is_identity(node):
            ir.convenience.replace_all_uses_with(node.outputs[0], data)
    common.RemoveUnusedNodesPass()(model)
    common.DeduplicateInitializersPass()(model)


def _is_identity(node: ir.Node) -> bool:
    """Return whether a node adds the zeros of an empty mask, or pads by nothing."""
    if node.op_type not in ("Add", "Pad"):
        return False
    data, amount = node.inputs[:2]
    if data is None or amount is None or amount.const_value is None:
        return False
    same_shape = data.shape is not None and data.shape == node.outputs[0].shape
    return same_shape and not amount.const_value.numpy().any()


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
        expected = model(*inputs.values())
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    expected = expected if isinstance(expected, tuple) else (expected,)
    for got, reference in zip(found, (y.numpy() for y in expected), strict=True):
        error = np.abs(got - reference).max() / np.abs(reference).max()
        assert np.isfinite(got).all(), f"{path}: the outputs are not finite"
        assert error < 1e-3, (
            f"{path}: ONNX Runtime differs from torch by {error:.1e} of the maximum"
        )
