"""Random valid ONNX graphs with calibration samples, which may be extreme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import fuzz_elementwise  # noqa: F401  # fills GENERATORS, as those below do
import fuzz_movement  # noqa: F401
import fuzz_networks  # noqa: F401
import fuzz_quantized  # noqa: F401
import numpy as np
import onnx
from fuzz_contrib import UNRUN
from fuzz_draft import GENERATORS, Draft
from fuzz_runtime import Feed, RejectedError, build
from fuzz_vision import UNDRAWN

from qcompiler.frontends import onnx as frontend
from qcompiler.frontends.onnx_contrib import SCHEMAS
from qcompiler.frontends.onnx_node import importers

OLDEST, NEWEST = frontend.OLDEST, min(frontend.NEWEST, onnx.defs.onnx_opset_version())
RUN = 26  # the newest opset of ONNX Runtime 1.31
EXTREMES = (
    "zeros", "constant", "denormal", "tiny", "1e30", "1e4", "outlier", "negative", "residual",
    "binary", "single sample",
)  # fmt: skip
"""What may become of the calibration samples after the graph has been drawn."""


@dataclass(frozen=True)
class Case:
    """A model with calibration samples."""

    seed: int
    model: onnx.ModelProto
    feeds: tuple[Feed, ...]
    regime: str = "ordinary"

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators of its nodes, in order."""
        return tuple(n.op_type for n in self.model.graph.node)


def operators() -> Mapping[str, tuple[int, ...]]:
    """What is imported, `domain.Operator` outside the standard domain, and from which opsets."""
    found = dict(importers())
    for domain in sorted({domain for domain, _ in SCHEMAS} - {""}):
        found |= {f"{domain}.{name}": forms for name, forms in importers(domain).items()}
    return found


def missing() -> list[str]:
    """Operators that are imported and that nothing here generates."""
    return [name for name in operators() if name not in {*GENERATORS, *UNRUN, *UNDRAWN}]


def available(opset: int) -> list[str]:
    """What may be drawn in an opset."""
    return [
        name
        for name, forms in operators().items()
        if name in GENERATORS and min(forms) <= opset and _defined(name, opset)
    ]


def _defined(name: str, opset: int) -> bool:
    if "." in name or ("", name) in SCHEMAS:
        return opset <= RUN  # no reference has them
    try:
        return not onnx.defs.get_schema(name, opset, "").deprecated
    except onnx.defs.SchemaError:
        return False


def draw(seed: int, only: str | None = None, rejected: dict[str, int] | None = None) -> Case:
    """The graph of a seed; with `only`, one that has a node of this operator.

    Raises:
        RejectedError: no node of this draft was accepted.
    """
    if only is not None and only not in GENERATORS:
        raise RejectedError(f"draft: no generator for {only}")
    rng = np.random.default_rng(seed)
    opset = int(rng.integers(OLDEST, NEWEST + 1))
    while only is not None and only not in available(opset):
        opset = int(rng.integers(OLDEST, NEWEST + 1))
    regime = EXTREMES[int(rng.integers(len(EXTREMES)))] if rng.random() < 0.35 else "ordinary"
    samples = 1 if regime == "single sample" else int(rng.integers(1, 5))
    draft = Draft(rng, opset, samples)
    choices = available(opset)
    wanted = 1 + int(rng.integers(0, 4)) + int(rng.integers(0, 9)) * int(rng.random() < 0.4)
    refused = 0
    while len(draft.nodes) < wanted and refused < 8:
        first = only is not None and not any(
            n.op_type == only.rpartition(".")[2] for n in draft.nodes
        )
        op_type = only if only is not None and first else draft.pick(choices)
        before = (len(draft.nodes), dict(draft.values), list(draft.inputs))
        try:
            GENERATORS[op_type](draft, op_type)
        except RejectedError as error:
            refused += 1
            del draft.nodes[before[0] :]
            draft.values, draft.inputs = before[1], before[2]
            if rejected is not None:
                key = f"{op_type}: {error}"
                rejected[key] = rejected.get(key, 0) + 1
    if not draft.nodes:
        raise RejectedError("draft: no node was accepted")
    return finished(draft, seed, regime)


def finished(draft: Draft, seed: int, regime: str) -> Case:
    """The graph with its leaves and some other values as outputs."""
    used = {name for node in draft.nodes for name in node.input}
    made = [name for node in draft.nodes for name in node.output]
    outputs = [name for name in made if name not in used or draft.chance(0.1)]
    outputs = outputs or made[-1:]
    outputs += [name for name in draft.inputs if draft.chance(0.02)]
    initializers = {n: v.first for n, v in draft.values.items() if v.known and n not in made}
    outputs += [name for name in initializers if draft.chance(0.01)]
    inputs = [n for n in draft.inputs if n in used or n in outputs or draft.chance(0.05)]
    model = build(
        draft.nodes,
        {name: draft.values[name].first for name in inputs},
        {n: x for n, x in initializers.items() if n in used or n in outputs},
        {name: draft.values[name].first for name in outputs},
        draft.opset,
    )
    feeds = tuple(
        {name: draft.values[name].arrays[i] for name in inputs} for i in range(draft.samples)
    )
    return Case(seed, model, extreme(feeds, regime, draft.rng), regime)


def extreme(
    feeds: Sequence[Mapping[str, np.ndarray]], regime: str, rng: np.random.Generator
) -> tuple[Feed, ...]:
    """The samples with all or some of the float inputs made extreme."""
    names = [name for name, x in feeds[0].items() if x.dtype == np.float32]
    chosen = {name for name in names if rng.random() < 0.7} or set(names[:1])

    def change(x: np.ndarray) -> np.ndarray:
        match regime:
            case "zeros":
                x = x * 0
            case "constant":
                x = np.full_like(x, x.flat[0] if x.size else 0)
            case "denormal":
                x = x * np.float32(1e-40)
            case "tiny" | "residual":
                x = x * np.float32(1e-15 if regime == "tiny" else 1e-4)
            case "1e30" | "1e4":
                x = x * np.float32(regime)
            case "outlier":
                x = x.copy()
                x.flat[:1] = 1e4
            case "negative":
                x = -np.abs(x)
            case "binary":
                x = (x > 0).astype(np.float32)
        return np.asarray(x, np.float32)

    return tuple({k: change(x) if k in chosen else x for k, x in feed.items()} for feed in feeds)
