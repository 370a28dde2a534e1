"""Single-node models over the opsets: what `test_onnx_operators.py` is generated from."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qcompiler.frontends import onnx as frontend
from qcompiler.frontends.onnx import OLDEST

NEWEST = min(frontend.NEWEST, onnx.defs.onnx_opset_version())
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Known:
    """An operand that is an initializer."""

    array: np.ndarray


@dataclass(frozen=True)
class Case:
    op_type: str
    operands: tuple[np.ndarray | Known | None, ...]
    attributes: dict[str, Any]
    opsets: range
    outputs: int = 1
    results: tuple[int, ...] = ()

    def versions(self) -> list[int]:
        """The opsets that changed the operator, and the newest, within the case's range."""
        if not self.opsets:  # newer than the installed onnx
            return []
        changed = {max(v, OLDEST) for v in HISTORY[self.op_type]}
        versions = changed | {self.opsets[0], self.opsets[-1]}
        return sorted(v for v in versions if v in self.opsets)

    def build(self, opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
        names, inputs, initializers, feeds = [], [], [], {}
        for i, operand in enumerate(self.operands):
            name = "" if operand is None else f"x{i}"
            names.append(name)
            if isinstance(operand, Known):
                initializers.append(numpy_helper.from_array(operand.array, name))
            elif operand is not None:
                feeds[name] = operand
                element = helper.np_dtype_to_tensor_dtype(operand.dtype)
                inputs.append(helper.make_tensor_value_info(name, element, operand.shape))
        outputs = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(self.op_type, names, outputs, name="node", **self.attributes)
        results = [
            helper.make_value_info(y, helper.make_tensor_type_proto(result, None))
            for y, result in zip(outputs, self.results, strict=True)
        ]
        graph = helper.make_graph([node], "test", inputs, results, initializers)
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        for y in model.graph.output:
            if not y.type.tensor_type.HasField("shape"):  # ONNX infers none: that of the operand
                element = y.type.tensor_type.elem_type
                y.CopyFrom(helper.make_tensor_value_info(y.name, element, self._open_shape()))
        onnx.checker.check_model(model, full_check=True)
        return model, feeds

    def _open_shape(self) -> list[None]:
        first = self.operands[0]
        return [None] * (first.array if isinstance(first, Known) else np.asarray(first)).ndim


HISTORY: dict[str, set[int]] = defaultdict(set)
for _schema in onnx.defs.get_all_schemas_with_history():
    if _schema.domain == "":
        HISTORY[_schema.name].add(_schema.since_version)

CASES: list[Case] = []


def case(
    op_type: str,
    *operands: np.ndarray | Known | None,
    since: int = OLDEST,
    until: int = NEWEST,
    outputs: int = 1,
    result: int = TensorProto.FLOAT,
    results: tuple[int, ...] = (),
    **attributes: Any,
) -> None:
    since = max(since, min(HISTORY[op_type]))
    opsets = range(since, until + 1)
    results = results or (result,) * outputs
    CASES.append(Case(op_type, operands, attributes, opsets, outputs, results))


def f(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape, np.float32))


def bools(*shape: int) -> np.ndarray:
    return f(*shape) > 0


def positive(*shape: int) -> np.ndarray:
    return np.asarray(0.1 + np.abs(f(*shape)), np.float32)


def k(*values: int) -> Known:
    """A list of integers, known."""
    return Known(np.array(values, np.int64))


def kf(*shape: int) -> Known:
    """Floats, known."""
    return Known(f(*shape))


def s(value: float) -> Known:
    """A float of rank 0, known."""
    return Known(np.array(value, np.float32))


def codes(dtype: type, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def kc(dtype: type, *shape: int) -> Known:
    """Codes, known."""
    return Known(codes(dtype, *shape))
