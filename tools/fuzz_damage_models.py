"""Models with something wrong in their structure: one field changed, or one that asks too much."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import onnx
from fuzz_graphs import draw
from fuzz_runtime import RejectedError
from onnx import TensorProto, helper, numpy_helper

Rng = np.random.Generator

NUMBERS = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 7, 2**16, 10**9, 2**31, 2**40, 2**62, 2**63 - 1)
REALS = (float("nan"), float("inf"), -1.0, 0.0, 1e-45, 1e30)
TEXTS = ("", "x", "SAME_UPPER", "nonsense", "..." * 50, "ij,jk->ik", "a" * 100_000, "é\0", "linear")


def damaged_model(rng: Rng) -> tuple[bytes, dict[str, np.ndarray]]:
    """A random graph with one to three changes, and samples for the graph as it was."""
    while True:
        try:
            case = draw(int(rng.integers(1 << 40)))
        except RejectedError:
            continue
        if case.regime == "ordinary":
            break
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for _ in range(int(rng.integers(1, 4))):
        change = CHANGES[int(rng.integers(len(CHANGES)))]
        change(rng, model)
    feeds = {name: np.stack([f[name] for f in case.feeds]) for name in case.feeds[0]}
    return model.SerializeToString(), feeds


def one(rng: Rng, items):  # type: ignore[no-untyped-def]
    """One of them; None where there are none."""
    return items[int(rng.integers(len(items)))] if len(items) else None


def _tensor(rng: Rng, model: onnx.ModelProto) -> None:
    """An initializer: its sizes, its type, its data, where its data are."""
    t = one(rng, model.graph.initializer)
    if t is None:
        return
    match int(rng.integers(10)):
        case 0 if len(t.dims):
            t.dims[int(rng.integers(len(t.dims)))] = one(rng, NUMBERS)
        case 1:
            t.dims.append(one(rng, NUMBERS))
        case 2:
            t.data_type = int(rng.integers(0, 40))
        case 3:
            t.ClearField("raw_data")
        case 4:
            t.raw_data = t.raw_data[: len(t.raw_data) // 2]
        case 5:
            t.float_data.extend([1.0] * 3)
        case 6:
            model.graph.initializer.add().CopyFrom(t)
        case 7:
            t.name = ""
        case 8:
            t.raw_data = rng.bytes(len(t.raw_data))
        case _:
            t.data_location = TensorProto.EXTERNAL
            t.ClearField("raw_data")
            places = ("../out", "/etc/passwd", "gone.bin", "model.onnx", ".", "", "\0", "a" * 5000)
            t.external_data.add(key="location", value=one(rng, places))
            if rng.random() < 0.6:
                t.external_data.add(key="offset", value=str(one(rng, (*NUMBERS, "x"))))
            if rng.random() < 0.6:
                t.external_data.add(key="length", value=str(one(rng, (*NUMBERS, ""))))


def _declared(rng: Rng, model: onnx.ModelProto) -> None:
    """The type of an input or output."""
    value = one(rng, [*model.graph.input, *model.graph.output])
    if value is None:
        return
    tensor = value.type.tensor_type
    match int(rng.integers(7)):
        case 0 if len(tensor.shape.dim):
            one(rng, tensor.shape.dim).dim_value = one(rng, NUMBERS)
        case 1 if len(tensor.shape.dim):
            one(rng, tensor.shape.dim).dim_param = one(rng, ("N", "", "é\n", "a" * 9999))
        case 2:
            tensor.ClearField("shape")
        case 3:
            value.ClearField("type")
        case 4:
            tensor.elem_type = int(rng.integers(0, 40))
        case 5:
            value.name = one(rng, ("", "x0", "v0_0", "new\nline"))
        case _:
            value.type.sequence_type.elem_type.tensor_type.elem_type = 1


def _node(rng: Rng, model: onnx.ModelProto) -> None:
    """A node: its operator, its operands, its results, or all of it."""
    node = one(rng, model.graph.node)
    if node is None:
        return
    others = [n.op_type for n in model.graph.node] + ["Frob", "", "Loop", "If", "Scan", "NonZero"]
    names = [y for n in model.graph.node for y in n.output] + ["", "gone"]
    match int(rng.integers(9)):
        case 0:
            node.op_type = one(rng, others)
        case 1:
            node.domain = one(rng, ("my.ops", "ai.onnx.ml", "com.microsoft", "\n"))
        case 2 if node.input:
            node.input[int(rng.integers(len(node.input)))] = one(rng, names)
        case 3 if node.input:
            del node.input[int(rng.integers(len(node.input)))]
        case 4:
            node.input.extend([one(rng, names)] * int(rng.integers(1, 5)))
        case 5 if node.output:
            node.output[0] = one(rng, names)
        case 6:
            del node.output[:]
        case 7:
            model.graph.node.add().CopyFrom(node)
        case _:
            node.output.append(one(rng, names))


def _attribute(rng: Rng, model: onnx.ModelProto) -> None:
    """An attribute: another value, another type, one that nobody knows."""
    nodes = [n for n in model.graph.node if n.attribute]
    if not nodes or rng.random() < 0.15:
        if not model.graph.node:
            return
        node = one(rng, model.graph.node)
        name = one(rng, ("axis", "frobs", "to", "axes", "keepdims", ""))
        node.attribute.add(name=name, type=2, i=one(rng, NUMBERS))
        return
    attribute = one(rng, one(rng, nodes).attribute)
    match attribute.type:
        case onnx.AttributeProto.INT:
            attribute.i = one(rng, NUMBERS)
        case onnx.AttributeProto.FLOAT:
            attribute.f = one(rng, REALS)
        case onnx.AttributeProto.STRING:
            attribute.s = one(rng, TEXTS).encode()
        case onnx.AttributeProto.INTS:
            match int(rng.integers(3)):
                case 0 if attribute.ints:
                    attribute.ints[int(rng.integers(len(attribute.ints)))] = one(rng, NUMBERS)
                case 1:
                    attribute.ints.extend([one(rng, NUMBERS)] * int(one(rng, (1, 3, 9999))))
                case _:
                    del attribute.ints[:]
    if rng.random() < 0.1:
        attribute.type = int(rng.integers(0, 15))


def _constant(rng: Rng, model: onnx.ModelProto) -> None:
    """The numbers of an initializer of integers or floats."""
    tensors = [t for t in model.graph.initializer if t.raw_data]
    if not tensors:
        return
    t = one(rng, tensors)
    try:
        x = numpy_helper.to_array(t).copy()
    except (KeyError, TypeError, ValueError):  # damaged already
        return
    if not x.size or x.dtype.kind not in "if":
        return
    number = one(rng, REALS if x.dtype.kind == "f" else (-1, 0, 2**31 - 1))
    with np.errstate(over="ignore"):
        x.flat[int(rng.integers(x.size))] = np.array(number).astype(x.dtype)
    if x.dtype == np.int64 and rng.random() < 0.5:
        x.flat[0] = one(rng, NUMBERS)
    t.CopyFrom(numpy_helper.from_array(x, t.name))


def _graph(rng: Rng, model: onnx.ModelProto) -> None:
    """The graph as a whole, and the model around it."""
    graph = model.graph
    match int(rng.integers(10)):
        case 0:
            del graph.output[:]
        case 1:
            graph.output.add().CopyFrom(graph.output[0]) if graph.output else None
        case 2:
            del graph.input[:]
        case 3:
            del model.opset_import[:]
        case 4:
            model.opset_import[0].version = one(rng, NUMBERS)
        case 5:
            model.opset_import.add(domain=one(rng, ("", "x", "ai.onnx")), version=3)
        case 6:
            model.ir_version = one(rng, NUMBERS)
        case 7:
            graph.node.reverse() if hasattr(graph.node, "reverse") else None
        case 8:
            model.ClearField("graph")
        case _:
            body = [helper.make_node("Again", ["a"], ["b"], domain="f")]
            imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
            model.functions.append(helper.make_function("f", "Again", ["a"], ["b"], body, imports))
            model.opset_import.add(domain="f", version=1)
            if graph.node:
                graph.node[0].op_type, graph.node[0].domain = "Again", "f"


CHANGES: tuple[Callable[[Rng, onnx.ModelProto], None], ...] = (
    _tensor, _declared, _node, _node, _attribute, _attribute, _attribute, _constant, _graph,
)  # fmt: skip


def special_model(rng: Rng) -> bytes:
    """A sound-looking model of a few hundred bytes that asks for very much."""
    huge = int(one(rng, (10**6, 10**9, 2**31 - 1, 2**40, 2**62)))

    def known(*values: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), "k")

    def floats(*values: float) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.float32), "k")

    node = helper.make_node
    choices = (
        ([node("Split", ["x"], ["y"], num_outputs=huge)], None, 18),
        ([node("Split", ["x"], [*map(str, range(2000)), "y"], num_outputs=2001)], None, 18),
        ([node("Einsum", ["x"], ["y"], equation="..." * 50)], None, 17),
        ([node("Einsum", ["x"] * 9, ["y"], equation="ia,ib,ic,id,ie,if,ig,ih,ij")], None, 17),
        ([node("Expand", ["x", "k"], ["y"])], known(huge, 2, 4), 17),
        ([node("Tile", ["x", "k"], ["y"])], known(huge, huge), 17),
        ([node("Pad", ["x", "k"], ["y"])], known(huge, 0, 0, huge), 17),
        ([node("Pad", ["x", "k"], ["y"])], known(-huge, 0, 0, 0), 17),
        ([node("Reshape", ["x", "k"], ["y"])], known(-1, -1), 17),
        ([node("Reshape", ["x", "k"], ["y"])], known(huge, huge), 17),
        ([node("Slice", ["x", "k", "k", "k"], ["y"])], known(huge, -huge), 17),
        ([node("Slice", ["x", "k", "k", "k", "k"], ["y"])], known(0, 1), 17),
        ([node("Resize", ["i", "", "k"], ["y"], mode="nearest")], floats(1, 1, 1e30, 1), 17),
        ([node("Resize", ["i", "", "k"], ["y"], mode="linear")], floats(1, 1, huge, huge), 17),
        ([node("Resize", ["i", "", "k"], ["y"], mode="linear")], floats(1, 1, float("nan"), 1), 17),
        ([node("ConstantOfShape", ["k"], ["y"])], known(huge, 2, 4), 17),
        ([node("OneHot", ["k", "k", "k"], ["y"])], known(huge), 17),
        ([node("TopK", ["x", "k"], ["y", "z"])], known(huge), 17),
        ([node("CumSum", ["x", "k"], ["y"])], known(huge), 17),
        ([node("MaxPool", ["i"], ["y"], kernel_shape=[huge, 1])], None, 17),
        ([node("MaxPool", ["i"], ["y"], kernel_shape=[1, 1], pads=[huge, 0, 0, 0])], None, 17),
        ([node("AveragePool", ["i"], ["y"], kernel_shape=[2, 2], pads=[2**20] * 4)], None, 17),
        ([node("MaxPool", ["i"], ["y"], kernel_shape=[2, 2], strides=[0, 1])], None, 17),
        ([node("MaxPool", ["i"], ["y"], kernel_shape=[2, 2], dilations=[0, huge])], None, 17),
        ([node("Conv", ["i", "i"], ["y"], group=huge)], None, 17),
        ([node("Conv", ["i", "i"], ["y"], pads=[huge] * 4)], None, 17),
        ([node("ConvTranspose", ["i", "i"], ["y"], strides=[huge, huge])], None, 17),
        ([node("ConvTranspose", ["i", "i"], ["y"], output_shape=[huge, huge])], None, 17),
        ([node("DepthToSpace", ["i"], ["y"], blocksize=huge)], None, 17),
        ([node("SpaceToDepth", ["i"], ["y"], blocksize=0)], None, 17),
        ([node("LSTM", ["x3", "x3", "x3"], ["y"], hidden_size=huge)], None, 17),
        ([node("GroupNormalization", ["i", "x", "x"], ["y"], num_groups=huge)], None, 21),
        ([node("DFT", ["i", "k"], ["y"])], known(huge), 20),
        ([node("HannWindow", ["k"], ["y"])], known(huge), 17),
        ([node("Concat", ["x"] * 5000, ["y"], axis=0)], None, 17),
        ([node("Sum", ["x"] * 3000, ["y"])], None, 17),
        (_doubling, None, 17),
        (_deep, None, 17),
        (_nested, None, 17),
        (lambda: _loop(huge), known(huge), 17),
    )  # fmt: skip
    made, constant, opset = choices[int(rng.integers(len(choices)))]
    nodes = made() if callable(made) else made
    used = {x for n in nodes for x in n.input}
    shapes = {"x": (2, 4), "i": (1, 1, 4, 4), "x3": (2, 4, 4)}
    inputs = [helper.make_tensor_value_info(n, 1, s) for n, s in shapes.items() if n in used]
    graph = helper.make_graph(nodes, "g", inputs, [onnx.ValueInfoProto(name="y")])
    if constant is not None:
        graph.initializer.append(constant)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    model.graph.output[0].type.tensor_type.elem_type = 1
    if any(n.domain == "f" for n in nodes):
        model.functions.extend(_functions())
    return model.SerializeToString()


def _functions(depth: int = 40) -> list[onnx.FunctionProto]:
    """Each calls the next one twice."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    made = []
    for i in range(depth):
        called = [helper.make_node(f"F{i + 1}", ["a"], ["t"], domain="f")]
        called += [helper.make_node(f"F{i + 1}", ["t"], ["b"], domain="f")]
        body = called if i < depth - 1 else [helper.make_node("Relu", ["a"], ["b"])]
        made.append(helper.make_function("f", f"F{i}", ["a"], ["b"], body, imports))
    return made


def _doubling() -> list[onnx.NodeProto]:
    return [helper.make_node("F0", ["x"], ["y"], domain="f")]


def _deep() -> list[onnx.NodeProto]:
    """A chain of thousands of nodes."""
    names = ["x", *(f"v{i}" for i in range(3000)), "y"]
    return [helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)]


def _nested(depth: int = 60) -> list[onnx.NodeProto]:
    """Branches in branches."""
    result = [onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "b", [], result)
    yes = numpy_helper.from_array(np.array(True), "c")
    for _ in range(depth):
        condition = helper.make_node("Constant", [], ["c"], value=yes)
        choice = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([condition, choice], "b", [], result)
        if graph.ByteSize() > 1 << 17:
            break
    return list(graph.node)


def _loop(trips: int) -> list[onnx.NodeProto]:
    """Very many trips."""
    values = [helper.make_tensor_value_info("i", TensorProto.INT64, ())]
    values += [helper.make_tensor_value_info("go", TensorProto.BOOL, ())]
    values += [helper.make_tensor_value_info("a", TensorProto.FLOAT, (2, 4))]
    body = [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Neg", ["a"], ["b"])]
    results = [helper.make_tensor_value_info("go_on", TensorProto.BOOL, ())]
    results += [helper.make_tensor_value_info("b", TensorProto.FLOAT, (2, 4))]
    graph = helper.make_graph(body, "body", values, results)
    return [helper.make_node("Loop", ["k", "", "x"], ["y"], body=graph)]
