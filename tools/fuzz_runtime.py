"""Models in an independent runtime: ONNX Runtime, or ONNX's reference where it lacks a form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Feed = Mapping[str, np.ndarray]


_WRONG = frozenset({"ArgMax", "ArgMin"})
"""Operators that ONNX's reference gets wrong: `keepdims=0` is not followed for negative axes."""


class RejectedError(Exception):
    """The runtime does not accept a node or a model; the first word says where."""


def session(model: bytes | str, *, optimize: bool) -> onnxruntime.InferenceSession:
    """A session with one thread and no log."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[list[np.ndarray]]:
    """The outputs for each feed.

    An opset too new for ONNX Runtime is lowered as long as no operator's definition changes.

    Raises:
        RejectedError: neither runtime computes it.
    """
    opset = next(o.version for o in model.opset_import if o.domain == "")
    current = model
    while True:
        try:
            opened = session(current.SerializeToString(), optimize=False)
            return [[np.asarray(y) for y in opened.run(None, dict(feed))] for feed in feeds]
        except Exception as error:  # ONNX Runtime's errors have no common base
            text = " ".join(str(error).split())
        if "NOT_IMPLEMENTED" not in text and "opset" not in text.lower():
            raise RejectedError(f"runtime: {text[:300]}")
        opset -= 1
        if opset < 7 or _changed(model, opset):
            return _piecewise(model, feeds)
        current = onnx.ModelProto()
        current.CopyFrom(model)
        for imported in current.opset_import:
            if imported.domain == "":
                imported.version = opset


def opinion(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[list[np.ndarray]] | None:
    """What ONNX's reference computes, a second opinion; None where it computes nothing.

    Where two runtimes differ from each other they say nothing of a third.
    """
    try:
        return _reference(model, feeds)
    except RejectedError:
        return None


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a − b| of each element."""
    with np.errstate(all="ignore"):
        return np.asarray(np.abs(a.astype(np.float64) - b.astype(np.float64)))


def _changed(model: onnx.ModelProto, opset: int) -> bool:
    """Whether a node means something else in an older opset."""
    for node in model.graph.node:
        try:
            newer = onnx.defs.get_schema(node.op_type, opset + 1, node.domain)
        except onnx.defs.SchemaError:
            continue
        if newer.since_version > opset:
            return True
    return False


def _piecewise(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[list[np.ndarray]]:
    """Node by node, so that ONNX's reference runs nothing that ONNX Runtime can run."""
    nodes = model.graph.node
    if len(nodes) == 1:
        return _reference(model, feeds)
    opset = next(o.version for o in model.opset_import if o.domain == "")
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values = [dict(feed) for feed in feeds]
    for node in nodes:
        constants = {x: known[x] for x in node.input if x in known}
        names = [x for x in dict.fromkeys(node.input) if x and x not in constants]
        operands = [{x: held[x] for x in names} for held in values]
        made = [y for y in node.output if y]
        single = build([node], operands[0], constants, dict.fromkeys(made), opset)
        for held, results in zip(values, run(single, operands), strict=True):
            held |= dict(zip(made, results, strict=True))
    names = [y.name for y in model.graph.output]
    return [[held[y] if y in held else known[y] for y in names] for held in values]


def _reference(model: onnx.ModelProto, feeds: Sequence[Feed]) -> list[list[np.ndarray]]:
    if wrong := _WRONG & {n.op_type for n in model.graph.node}:
        raise RejectedError(f"reference: {', '.join(sorted(wrong))} is not to be trusted")
    try:
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(model)
            return [[np.asarray(y) for y in evaluator.run(None, dict(feed))] for feed in feeds]
    except Exception as error:  # whatever ONNX's reference meets
        raise RejectedError(f"reference: {type(error).__name__}: {str(error)[:200]}") from None


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Feed,
    initializers: Feed,
    outputs: Mapping[str, np.ndarray | None],
    opset: int,
) -> onnx.ModelProto:
    """A model; outputs whose value is not known yet are declared without a type."""

    def declared(name: str, array: np.ndarray | None) -> onnx.ValueInfoProto:
        if array is None:
            return onnx.ValueInfoProto(name=name)
        element = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor_value_info(name, element, array.shape)

    graph = helper.make_graph(
        nodes,
        "fuzz",
        [declared(name, x) for name, x in inputs.items()],
        [declared(name, y) for name, y in outputs.items()],
        [numpy_helper.from_array(x, name) for name, x in initializers.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(d, 1) for d in sorted({n.domain for n in nodes} - {""})]
    return helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 20 else 10)
