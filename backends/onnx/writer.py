"""Graphs of any language as standard ONNX models."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from qcompiler.backends.onnx.emitter import (
    DOMAIN,
    IR_VERSION,
    OPSET,
    Emitter,
    data_type,
    rename,
)
from qcompiler.errors import UnsupportedError
from qcompiler.files import atomic_path
from qcompiler.graph import Constant, Graph, Input, Op
from qcompiler.types import Quantization, TensorType

LARGEST = 2**31 - 2**24
"""Bytes of constants inside of an ONNX file, which protobuf limits to 2 GiB."""

DETACHED = 1 << 10
"""Bytes of the smallest constants that lie outside where others do."""


def to_model(
    graph: Graph, *, inline: bool = False, names: Mapping[Op, str] | None = None
) -> ir.Model:
    """The graph as an ONNX model: float operators for real ops, integer ones for integer ops.

    Every op's value is called by its name in `graph.names`, so that tools which look at values in
    between (calibration does) find them; codes carry their meaning as metadata.  The operators are
    those of opset 21, which ONNX Runtime runs since 1.20 with the bits of `evaluate`.

    Args:
        graph: In any language.
        inline: Write composites in place instead of as functions of the domain "qcompiler".
        names: Other names for values than the graph's, for all its ops.

    Raises:
        UnsupportedError: an output is named like an input.
    """
    names = graph.names if names is None else names
    return build(graph, Emitter([*names.values(), *graph.outputs], inline=inline), names)


def export_onnx(graph: Graph, path: str | os.PathLike[str], *, inline: bool = False) -> None:
    """Write the graph as an ONNX file (see `to_model`), wholly or not at all.

    Raises:
        OutputError: the file cannot be written.
        UnsupportedError: the graph does not fit an ONNX file.
    """
    save(to_model(graph, inline=inline), path)


def save(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write a model, wholly or not at all.

    Constants of more than 2 GiB go to a second file beside it, `<name>.data`.

    Raises:
        OutputError: the file cannot be written.
    """
    name = f"{os.path.basename(path)}.data"
    tensors = [x.const_value for x in model.graph.initializers.values()]
    if sum(tensor.nbytes for tensor in tensors if tensor is not None) <= LARGEST:
        content = ir.to_proto(model).SerializeToString()
    else:
        proto, weights = detached(model, name)
        with atomic_path(Path(path).with_name(name)) as temporary, temporary.open("wb") as file:
            for array in weights.values():
                file.write(np.ascontiguousarray(array).data)
        content = proto.SerializeToString()
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(content)


def detached(
    model: ir.Model, location: str = "weights"
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model without its larger initializers, and these by name.

    The model calls them external data of the file `location`, one behind the other.
    """
    weights: dict[str, np.ndarray] = {}
    kept: dict[ir.Value, ir.TensorProtocol] = {}
    offset = 0
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < DETACHED:
            continue
        if not value.uses():  # an output, which ONNX Runtime drops where others are asked for
            continue
        kept[value] = tensor
        weights[name] = tensor.numpy()
        value.const_value = ir.ExternalTensor(
            location,
            offset,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )
        offset += tensor.nbytes
    proto = ir.to_proto(model)
    for value, tensor in kept.items():
        value.const_value = tensor
    return proto, weights


def build(graph: Graph, emitter: Emitter, names: Mapping[Op, str]) -> ir.Model:
    """Write every op of the graph to the emitter, and make a model of what it collected."""
    _check(graph, names)
    env: dict[Op, ir.Value] = {}
    inputs = [_typed(rename(ir.Value(), names[x]), x.type) for x in graph.inputs]
    env.update(zip(graph.inputs, inputs, strict=True))
    taken: set[ir.Value] = set()
    for node in graph.ops:
        emitter.scope = names[node]
        if isinstance(node, Constant):
            env[node] = emitter.constant(node.array, names[node])
        elif not isinstance(node, Input):
            value = emitter.emit(node, [env[x] for x in node.operands])
            if value in taken or value.producer() is None:  # it has a name already
                value = emitter.op("Identity", value)
            env[node] = _typed(rename(value, names[node]), node.type)
            _producer(value).metadata_props.update(_sources(node))
            taken.add(value)
    outputs = [_output(emitter, name, y, env[y]) for name, y in graph.outputs.items()]
    bare = [y for y in outputs if y.const_value is not None and not y.uses()]
    return ir.Model(
        ir.Graph(
            inputs,
            outputs,
            nodes=emitter.nodes,
            initializers=[*emitter.initializers, *bare],
            opset_imports={"": OPSET, **({DOMAIN: 1} if emitter.functions else {})},
            name=graph.name,
        ),
        ir_version=IR_VERSION,
        producer_name="qcompiler",
        producer_version=version("qcompiler"),
        functions=emitter.functions,
    )


def _check(graph: Graph, names: Mapping[Op, str]) -> None:
    inputs = {names[x]: x for x in graph.inputs}
    for name, y in graph.outputs.items():
        if inputs.get(name, y) is not y:
            raise UnsupportedError(
                f"output '{name}': an input has the same name, which ONNX does not allow: rename it"
            )


def _output(emitter: Emitter, name: str, y: Op, value: ir.Value) -> ir.Value:
    """The value under the output's name, which its op need not have."""
    if value.name == name:
        return value
    emitter.scope = ""
    return _typed(rename(emitter.op("Identity", value), name), y.type)


def _typed(value: ir.Value, type: TensorType) -> ir.Value:
    if value.dtype is None:
        value.dtype = data_type(type.dtype)
    value.shape = ir.Shape(type.shape)
    if type.quantization is not None:
        value.metadata_props["quantization"] = _meaning(type.quantization)
    return value


def _meaning(q: Quantization) -> str:
    """real = scale · (code − zero_point), as JSON."""
    meaning = {"storage": q.storage, "scale": q.scale, "zero_point": q.zero_point, "axis": q.axis}
    return json.dumps({k: v for k, v in meaning.items() if v is not None})


def _sources(node: Op) -> dict[str, str]:
    return {"sources": json.dumps(node.sources)} if node.sources else {}


def _producer(value: ir.Value) -> ir.Node:
    producer = value.producer()
    assert producer is not None
    return producer
