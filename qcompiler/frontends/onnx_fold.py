"""Values that are known at import: shape arithmetic and functions of weights.

Sizes are inferred before anything is computed, so that a small file cannot ask for a large tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.defs import OpSchema

from qcompiler.errors import ModelError, UnsupportedError
from qcompiler.frontends.onnx_model import one_line, real
from qcompiler.frontends.onnx_node import name_of
from qcompiler.graph import Constant, Op, toposort
from qcompiler.ops import FakeQuantize
from qcompiler.types import DTYPES, FLOAT, FLOATS, TensorType

LIMIT = 1 << 24  # elements of one folded value: 64 MiB in float32

# Results whose size depends on the elements, but never exceeds rank · size of the operands.
_BOUNDED = frozenset(["NonZero", "Unique", "Compress"])
_RANDOM = frozenset(
    f"Random{distribution}{like}" for distribution in ("Normal", "Uniform") for like in ("", "Like")
) | {"Bernoulli", "Multinomial"}
_SHAPE_DATA = 4096  # elements of an integer operand that may be a shape, an axis or a count


def fold(node: Op) -> Op:
    """The value as a constant if it is computed from constants alone and small, else itself.

    What is to be kept in codes stays, since a constant does not say which.
    """
    ops = toposort([node])
    if isinstance(node, (Constant, FakeQuantize)) or not all(
        x.operands or isinstance(x, Constant) for x in ops
    ):
        return node
    largest = max((x.type.size for x in ops if isinstance(x, Constant)), default=0)
    if any(x.type.size > max(LIMIT, largest) for x in ops):
        return node
    env: dict[Op, np.ndarray] = {}
    with np.errstate(all="ignore"):  # what becomes infinite is reported by name
        for x in ops:
            env[x] = np.asarray(x.numpy(*(env[y] for y in x.operands)))
    array = env[node].astype(node.type.dtype, copy=False).reshape(node.type.shape)
    return Constant(array, name=node.name)


def simplified(op: Op) -> Op:
    """The op, or its value if all its operands are constants."""
    return fold(op) if all(isinstance(x, Constant) for x in op.operands) else op


def infer(
    node: ir.Node, schema: OpSchema, opset: int, inputs: Sequence[Op | None]
) -> list[TensorType | None]:
    """The types of a standard node's outputs, where ONNX's own inference finds them.

    Raises:
        ModelError: ONNX finds the node inconsistent.
    """
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    proto = _with_positional_names(node)
    for name, x in zip(proto.input, inputs, strict=True):
        if x is None:
            continue
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(x.type.dtype))
        types[name] = onnx.helper.make_tensor_type_proto(element, x.type.shape)
        if isinstance(x, Constant) and x.type.size <= _SHAPE_DATA:
            data[name] = onnx.numpy_helper.from_array(x.array, name)
    imports = [onnx.helper.make_opsetid("", opset)]
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=imports
        )
    except Exception as error:  # a C++ error of whatever class
        raise _broken(node, error) from None
    return [_tensor_type(found[name]) if name in found else None for name in proto.output]


def _with_positional_names(node: ir.Node) -> onnx.NodeProto:
    """The node with distinct names for its operands, so that data can be told apart."""
    proto = ir.to_proto(node)
    for i, name in enumerate(proto.input):
        proto.input[i] = name and f"x{i}"
    return proto


def _tensor_type(proto: onnx.TypeProto) -> TensorType | None:
    tensor = proto.tensor_type
    if not proto.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    if any(not d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    dtype = FLOAT if dtype in FLOATS else dtype
    if dtype not in DTYPES:
        return None
    return TensorType(dtype, tuple(d.dim_value for d in tensor.shape.dim))


def run(node: ir.Node, schema: OpSchema, opset: int, inputs: Sequence[Op | None]) -> list[Op]:
    """Compute a node whose operands are all constants, by ONNX's reference implementation.

    The node becomes a graph, since the reference evaluates lone nodes as the newest opset has them.

    Raises:
        ModelError: the node is inconsistent.
        UnsupportedError: it is random, or its result would be too large.
    """
    from onnx.reference import ReferenceEvaluator

    if node.op_type in _RANDOM or any(
        a.type.name.startswith("GRAPH") for a in node.attributes.values()
    ):
        raise UnsupportedError(node.op_type)
    types = infer(node, schema, opset, inputs)
    operands = [x.array for x in inputs if isinstance(x, Constant)]
    largest = max((x.size for x in operands), default=0)
    for y in types:
        if node.op_type not in _BOUNDED and (y is None or math.prod(y.shape) > max(LIMIT, largest)):
            raise UnsupportedError(f"{node.op_type} with a constant result of {y or 'any size'}")
    proto = _with_positional_names(node)
    feeds = {f"x{i}": x.array for i, x in enumerate(inputs) if isinstance(x, Constant)}
    named = [[onnx.ValueInfoProto(name=n) for n in names if n] for names in (feeds, proto.output)]
    graph = onnx.GraphProto(node=[proto], input=named[0], output=named[1])
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(graph, opsets={"": opset}).run(None, feeds)
    except Exception as error:  # the reference implementation fails in many ways
        raise _broken(node, error) from None
    return [Constant(real(np.asarray(y))) for y in results]


def _broken(node: ir.Node, error: Exception) -> ModelError:
    return ModelError(f"node {name_of(node)!r} ({node.op_type}): {one_line(error)}")
