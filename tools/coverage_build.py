"""Build an architecture of `coverage.py` with random weights, and export it as ONNX.

Weights are of sizes that keep activations alive through depth, so that signal to noise means
something.  Nothing is downloaded.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import coverage_nets
import coverage_sequences
import numpy as np
import torch
import transformers
from coverage_models import LIST, Architecture
from torch import Tensor, nn

sys.path.append(str(LIST.parents[1] / "models"))
from export import export_model

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def export(architecture: Architecture, path: Path) -> None:
    """Write the architecture as ONNX, the way that models/export.py does.

    Raises:
        Exception: whatever torch, its exporter or ONNX Runtime says.
    """
    tensors = {k: torch.from_numpy(v) for k, v in architecture.sample(0).items()}
    outputs = [f"y{i}" for i in range(max(1, len(architecture.outputs)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_model(build(architecture), tensors, path, outputs=outputs)


def build(architecture: Architecture) -> nn.Module:
    """The module with random weights, in evaluation mode, from tensors to tensors."""
    torch.manual_seed(0)
    name = architecture.model
    own = getattr(coverage_nets, name, None) or getattr(coverage_sequences, name, None)
    if own is not None:
        module = own(**architecture.config)
    else:
        cls = getattr(transformers, name)
        config = cls.config_class(**{k: _nested(v) for k, v in architecture.config.items()})
        # The fused kernel exports with NaN guards; see models/architectures.py.
        config._attn_implementation = "eager"
        if cls._can_set_experts_implementation():
            config._experts_implementation = "batched_mm"  # of no operator of torch's own
        config.use_cache = False
        module = cls(config)
    ones = {k: torch.ones(tuple(shape)) for k, shape in architecture.fixed_ones.items()}
    fixed = {**architecture.fixed, **ones}
    module = Positional(module, tuple(architecture.inputs), fixed, architecture.outputs)
    randomize(module, [architecture.sample(1000 + i) for i in range(8)])
    return module.eval()


def _nested(value: Any) -> Any:
    """A configuration, of a mapping that names its `class`."""
    if not isinstance(value, dict) or "class" not in value:
        return value
    fields = {k: _nested(v) for k, v in value.items() if k != "class"}
    return getattr(transformers, value["class"])(**fields)


class Positional(nn.Module):
    """A model as a function from tensors, by position, to a tensor or a tuple of them."""

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        fixed: Mapping[str, Any],
        outputs: Sequence[str],
    ) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.fixed = dict(fixed)
        self.outputs = tuple(outputs)

    def forward(self, *args: Tensor) -> Any:
        """Call by name, and pick the outputs."""
        result = self.model(**dict(zip(self.names, args, strict=True)), **self.fixed)
        if not self.outputs:
            return result
        found = [getattr(result, name) for name in self.outputs]
        return found[0] if len(found) == 1 else tuple(found)


def randomize(module: nn.Module, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Random weights as after training: nothing zero, activations of the same size in any depth.

    Products get weights of variance 1 / fan-in, normalizations random gains and shifts, whatever
    starts as zeros small random values, batch normalizations the statistics of random samples.
    """
    for part in module.modules():
        weight, bias = getattr(part, "weight", None), getattr(part, "bias", None)
        if not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
            continue
        if "norm" in type(part).__name__.lower() and weight.ndim == 1:
            if weight.mean().abs() < 0.5:  # Gemma's gains are 1 + weight
                nn.init.normal_(weight, std=0.1)
            else:
                nn.init.uniform_(weight, 0.5, 1.5)
            if isinstance(bias, nn.Parameter):
                nn.init.normal_(bias, std=0.2)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(weight, std=0.5)
        elif weight.ndim >= 2:
            fan_in = len(weight) if type(part).__name__ == "Conv1D" else weight[0].numel()
            nn.init.normal_(weight, std=fan_in**-0.5)
    for parameter in module.parameters():
        if parameter.is_floating_point() and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    module.eval()
    norms = [m for m in module.modules() if isinstance(m, BATCH_NORMS)]
    for part in norms:
        part.momentum = None  # averages over what it sees
        part.training = True
    if norms:
        batch = [np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]]
        with torch.no_grad():
            module(*map(torch.from_numpy, batch))
