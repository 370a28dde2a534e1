"""Functions: a model's own, and those by which the standard defines operators.

A call is imported by walking the function's body with the operands bound to its inputs.  How large
a model becomes by that is counted beforehand, without expanding anything.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx.defs import OpSchema

from qcompiler.errors import ModelError, UnsupportedError
from qcompiler.frontends.onnx_model import one_line
from qcompiler.frontends.onnx_node import name_of
from qcompiler.graph import Op

LIMIT = 1 << 17
"""Nodes of a model with its functions expanded."""

Identifier = tuple[str, str, str]


@dataclass(frozen=True)
class Body:
    """What a call computes: a graph whose inputs are the operands that the call has.

    Attributes:
        graph: With the attributes of the call filled in.
        opset: Version of the standard operators that it uses; None for the caller's.
    """

    graph: ir.Graph
    opset: int | None


class Functions:
    """The functions of a model and of the standard, filled in for calls."""

    def __init__(self, model: ir.Model) -> None:
        self.own = model.functions
        self.bodies: dict[object, Body] = {}

    def is_call(self, node: ir.Node) -> bool:
        """Whether the node calls a function of the model."""
        return node.op_identifier() in self.own

    def called(self, node: ir.Node) -> Body:
        """The body of a call.

        Raises:
            ModelError: it has more operands or outputs than the function.
        """
        function = self.own[node.op_identifier()]
        if len(node.inputs) > len(function.inputs) or len(node.outputs) > len(function.outputs):
            raise ModelError(
                f"node {name_of(node)!r} ({node.op_type}): expected at most "
                f"{len(function.inputs)} inputs and {len(function.outputs)} outputs, found "
                f"{len(node.inputs)} and {len(node.outputs)}"
            )
        proto = ir.to_proto(function)
        defaults = {a.name: a for a in proto.attribute_proto}
        return self._body(node, proto, defaults)

    def defining(
        self, node: ir.Node, schema: OpSchema, opset: int, inputs: Sequence[Op | None]
    ) -> Body | None:
        """The body by which the standard defines a node's operator; None where it does not."""
        proto = _definition(node, schema, opset, inputs)
        if proto is None or len(node.inputs) > len(proto.input):  # a variadic one
            return None
        defaults = {k: a.default_value for k, a in schema.attributes.items()}
        return self._body(node, proto, {k: v for k, v in defaults.items() if v.name})

    def _body(
        self,
        node: ir.Node,
        proto: onnx.FunctionProto,
        defaults: Mapping[str, onnx.AttributeProto],
    ) -> Body:
        given = {a.name: a for a in ir.to_proto(node).attribute}
        absent = {
            name
            for i, name in enumerate(proto.input)
            if i >= len(node.inputs) or node.inputs[i] is None
        }
        attributes = {**defaults, **given}
        key = (
            proto.SerializeToString(deterministic=True),
            len(node.outputs),
            frozenset(absent),
            tuple((k, v.SerializeToString()) for k, v in sorted(attributes.items())),
        )
        if key not in self.bodies:
            _fill_in(proto.node, absent, attributes)
            kept = [name for name in proto.input if name not in absent]
            del proto.input[:]
            proto.input.extend(kept)
            del proto.output[len(node.outputs) :]  # which may be computed in other forms only
            versions = {o.domain: o.version for o in proto.opset_import}
            try:
                graph = ir.from_proto(proto).graph
            except Exception as error:  # a damaged function makes onnx_ir fail in many ways
                raise ModelError(f"function {proto.name!r} is damaged: {one_line(error)}") from None
            self.bodies[key] = Body(graph, versions.get("", versions.get("ai.onnx")))
        return self.bodies[key]


def is_defined(schema: OpSchema) -> bool:
    """Whether the standard defines the operator by a function, at least in some forms."""
    return bool(schema.has_function or schema.has_context_dependent_function)


def _definition(
    node: ir.Node, schema: OpSchema, opset: int, inputs: Sequence[Op | None]
) -> onnx.FunctionProto | None:
    """The schema's function in the newest form that is not newer than the model, if there is one.

    A form that is newer still defines the same operator: forms differ in the operators they use.
    """
    dependent = schema.has_context_dependent_function
    versions = (
        schema.context_dependent_function_opset_versions
        if dependent
        else schema.function_opset_versions
    )
    if not versions:
        return None
    version = max((v for v in versions if v <= opset), default=min(versions))
    if dependent:
        types = [_type(x).SerializeToString() for x in inputs]
        proto = ir.to_proto(node).SerializeToString()
        data = schema.get_context_dependent_function_with_opset_version(version, proto, types)
    else:
        data = schema.get_function_with_opset_version(version)
    return onnx.FunctionProto.FromString(data) if data else None


def _type(x: Op | None) -> onnx.TypeProto:
    if x is None:
        return onnx.TypeProto()
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(x.type.dtype))
    return onnx.helper.make_tensor_type_proto(element, x.type.shape)


def _fill_in(
    nodes: Iterable[onnx.NodeProto],
    absent: set[str],
    attributes: Mapping[str, onnx.AttributeProto],
) -> None:
    """Drop absent operands and replace references to attributes, in subgraphs too."""
    for node in nodes:
        for i, name in enumerate(node.input):
            if name in absent:
                node.input[i] = ""
        filled = []
        for attribute in node.attribute:
            new = onnx.AttributeProto()
            new.CopyFrom(attribute)
            if attribute.ref_attr_name:
                if attribute.ref_attr_name not in attributes:
                    continue
                new.CopyFrom(attributes[attribute.ref_attr_name])
                new.name = attribute.name
            for graph in (new.g, *new.graphs):
                _fill_in(graph.node, absent, attributes)
            filled.append(new)
        del node.attribute[:]
        node.attribute.extend(filled)


def check_functions(model: ir.Model) -> None:
    """Refuse functions that call themselves, and those that expand to too many nodes.

    Raises:
        ModelError: a function calls itself.
        UnsupportedError: the expanded model would be too large.
    """
    if not model.functions:
        return
    calls = {
        name: [n.op_identifier() for n in function.all_nodes()]
        for name, function in model.functions.items()
    }
    known = {name: [c for c in called if c in calls] for name, called in calls.items()}
    try:
        order = list(graphlib.TopologicalSorter(known).static_order())
    except graphlib.CycleError as error:
        names = " → ".join(name for _, name, _ in error.args[1])
        raise ModelError(f"its functions call themselves: {names}") from None
    sizes: dict[Identifier, int] = {}
    for name in order:
        sizes[name] = sum(1 + sizes.get(c, 0) for c in calls[name])
    total = sum(1 + sizes.get(n.op_identifier(), 0) for n in model.graph.all_nodes())
    if total > LIMIT:
        count = str(total) if total < 10**12 else f"more than 10^{len(str(total)) - 1}"
        raise UnsupportedError(
            f"its functions expand to {count} nodes: expected at most {LIMIT}; "
            "inline them and fold what is equal before the import"
        )
