"""ONNX models for tests of the import, and what is checked of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qcompiler.errors import QcompilerError
from qcompiler.frontends.onnx import import_onnx
from qcompiler.interpret import evaluate


@dataclass
class Builder:
    """An ONNX model node by node: tests say only what they are about."""

    opset: int = 20
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    functions: list[onnx.FunctionProto] = field(default_factory=list)

    def input(self, name: str, shape: list[Any] | None, dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def constant(self, name: str, value: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(
        self,
        op_type: str,
        *inputs: str,
        outputs: tuple[str, ...] = (),
        name: str = "",
        domain: str = "",
        **attributes: Any,
    ) -> str:
        outputs = outputs or (f"v{len(self.nodes)}",)
        self.nodes.append(
            helper.make_node(op_type, inputs, outputs, name=name, domain=domain, **attributes)
        )
        return outputs[0]

    def model(self, *outputs: str, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
        result = helper.make_tensor_type_proto(dtype, None)
        results = [helper.make_value_info(y, result) for y in outputs]
        graph = helper.make_graph(self.nodes, "test", self.inputs, results, self.initializers)
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(f.domain, 1) for f in self.functions]
        return helper.make_model(
            graph, opset_imports=imports, ir_version=10, functions=self.functions
        )


def independent(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs by ONNX Runtime, or by ONNX's reference where it lacks the operator's form.

    An opset too new for ONNX Runtime is lowered as long as no operator's definition changes.
    """
    opset = model.opset_import[0].version
    while True:
        try:
            return by_onnxruntime(model, feeds)
        except Exception as error:
            message = str(error)
            lacking = "NOT_IMPLEMENTED" in message or "not supported" in message
            lacking = lacking or "Unrecognized attribute" in message
            if not lacking and "opset" not in message.lower():
                raise
        opset -= 1
        schemas = [onnx.defs.get_schema(n.op_type, opset + 1) for n in model.graph.node]
        if any(schema.since_version > opset for schema in schemas):
            return ReferenceEvaluator(model).run(None, feeds)
        lowered = onnx.ModelProto()
        lowered.CopyFrom(model)
        lowered.opset_import[0].version = opset
        model = lowered


def by_onnxruntime(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def assert_agrees(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> None:
    """The import computes what an independent runtime computes, in shape too."""
    expected = independent(model, feeds)
    graph = import_onnx(model)
    found = evaluate(graph, feeds)
    assert list(found) == [y.name for y in model.graph.output]
    assert len(expected) == len(found)
    for reference, (name, value) in zip(expected, found.items(), strict=True):
        assert value.shape == reference.shape == graph.outputs[name].type.shape
        np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-5)


def refused(kind: type[QcompilerError], model: Any, *words: str, **options: Any) -> str:
    """The message of the error of exactly this class; it is one line and holds all the words."""
    with pytest.raises(QcompilerError) as caught:
        import_onnx(model, **options)
    message = str(caught.value)
    assert caught.type is kind, message
    assert "\n" not in message
    assert len(message) < 700
    for word in words:
        assert word in message, message
    return message


def linear(opset: int = 20) -> Builder:
    """y = x · w, to be damaged."""
    b = Builder(opset)
    b.input("x", [2, 3])
    b.constant("w", np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4))
    b.node("MatMul", "x", "w", outputs=("y",), name="product")
    return b
