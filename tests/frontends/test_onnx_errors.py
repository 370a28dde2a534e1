"""What cannot be imported is refused in one line that names the offender; damage never escapes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from qcompiler.errors import (
    FileError,
    ModelError,
    QcompilerError,
    ShapeError,
    UnsupportedError,
    UsageError,
)
from qcompiler.frontends.onnx import NEWEST, import_onnx

RNG = np.random.default_rng(2)
DIGITS = Path(__file__).parents[2] / "models/digits/cnn.onnx"


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


def linear(builder: Any, **kwargs: Any) -> Any:
    b = builder(**kwargs)
    b.input("x", [2, 3])
    b.constant("w", RNG.standard_normal((3, 4), np.float32))
    b.node("MatMul", "x", "w", outputs=("y",), name="product")
    return b


# Files


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", FileError, "is empty"),
        (b"# a text file\nwith lines\n", FileError, "is not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\n", FileError, "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), FileError, "is not an ONNX model"),
        (b"\x08\x0a", FileError, "holds no graph"),
        (DIGITS.read_bytes()[:5000], ModelError, "truncated or damaged"),
    ],
)
def test_files_that_are_no_models(
    content: bytes, kind: type[QcompilerError], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(kind, path, str(path), words)
    refused(kind, str(path), str(path), words)
    if content:
        with pytest.raises(QcompilerError):
            import_onnx(content)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    refused(FileError, tmp_path / "none.onnx", "none.onnx", "no such file")
    refused(FileError, tmp_path, "is a directory")
    refused(FileError, "a\0b", "a?b: ")
    refused(FileError, "a" * 400, "cannot be read")
    refused(FileError, os.devnull, "not a regular file")
    refused(UsageError, 3, "expected a path", "int")


def test_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    refused(FileError, path, "cannot be read")


# External data


@pytest.fixture
def external(builder: Any, tmp_path: Path) -> Callable[..., Path]:
    """A model in a folder of its own, whose weight lies where the test says."""

    def save(location: str, data: int | None = 48, **entries: int) -> Path:
        model = linear(builder).model("y")
        (weight,) = model.graph.initializer
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            weight.external_data.add(key=key, value=str(value))
        folder = tmp_path / "folder"
        folder.mkdir()
        onnx.save(model, folder / "m.onnx")
        if data is not None:
            (folder / location).resolve().write_bytes(bytes(data))
        return folder / "m.onnx"

    return save


def test_external_data_is_read(external: Any) -> None:
    assert import_onnx(external("w.bin")).outputs["y"].type.shape == (2, 4)


def test_missing_external_data(external: Any) -> None:
    refused(FileError, external("w.bin", None), "'w'", "w.bin", "missing")


def test_external_data_of_a_model_in_memory(external: Any) -> None:
    data = external("w.bin").read_bytes()
    refused(ModelError, data, "w.bin", "import the model by its path")


def test_external_data_outside_the_folder(external: Any, tmp_path: Path) -> None:
    refused(ModelError, external("../w.bin"), "../w.bin", "outside the model's folder")


def test_external_data_at_an_absolute_path(external: Any, tmp_path: Path) -> None:
    location = str(tmp_path / "folder" / "w.bin")
    refused(ModelError, external(location), "outside the model's folder")


def test_external_data_behind_a_link(external: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(48))
    path = external("w.bin", None)
    (path.parent / "w.bin").symlink_to(tmp_path / "secret")
    refused(ModelError, path, "outside the model's folder")


@pytest.mark.parametrize(
    ("data", "entries", "words"),
    [
        (47, {}, "ends at byte 47: expected 48"),
        (48, {"offset": 8}, "ends at byte 48: expected 56"),
        (48, {"length": 44}, "44 bytes"),
        (48, {"offset": -4}, "offset"),
    ],
)
def test_external_data_of_another_size(
    external: Any, data: int, entries: dict[str, int], words: str
) -> None:
    refused(ModelError, external("w.bin", data, **entries), words)


# Models that contradict themselves


def test_a_graph_without_outputs(builder: Any) -> None:
    refused(ModelError, linear(builder).model(), "no outputs")


def test_an_output_that_no_node_computes(builder: Any) -> None:
    refused(ModelError, linear(builder).model("missing"), "'missing'", "computed by no node")


def test_an_operand_that_no_node_computes(builder: Any) -> None:
    b = builder()
    b.node("Relu", "nothing", outputs=("y",), name="first")
    refused(ModelError, b.model("y"), "'nothing'", "'first'", "computed by no node")


def test_a_cycle(builder: Any) -> None:
    b = builder()
    b.input("x", [2])
    b.node("Add", "x", "v", outputs=("u",), name="one")
    b.node("Relu", "u", outputs=("v",), name="two")
    refused(ModelError, b.model("v"), "cycle", "(Relu)")


def test_a_value_computed_twice(builder: Any) -> None:
    b = linear(builder)
    b.node("Relu", "x", outputs=("y",), name="again")
    refused(ModelError, b.model("y"), "'y'", "'again'")
    x = ir.val("x", ir.DataType.FLOAT, [2])
    nodes = [ir.node("Relu", [x], name=name) for name in ("one", "two")]
    for node in nodes:
        node.outputs[0].name = "y"
    both = ir.node("Add", [node.outputs[0] for node in nodes])
    graph = ir.Graph([x], both.outputs, nodes=[*nodes, both], opset_imports={"": 20})
    refused(ModelError, ir.Model(graph, ir_version=10), "'y'", "'one'", "'two'")


def test_names_given_twice(builder: Any) -> None:
    b = linear(builder)
    b.constant("w", np.ones(2, np.float32))
    refused(ModelError, b.model("y"), "initializer 'w' is given twice")
    b = linear(builder)
    b.input("x", [1])
    refused(ModelError, b.model("y"), "two inputs", "x")
    refused(ModelError, linear(builder).model("y", "y"), "returns a value twice")


@pytest.mark.parametrize("dims", [[3, 5], [3], [-3, -4], [2**40, 4]])
def test_a_tensor_of_another_size_than_declared(builder: Any, dims: list[int]) -> None:
    model = linear(builder).model("y")
    model.graph.initializer[0].dims[:] = dims
    refused(ModelError, model, "'w'")


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "1 NaN"), (-np.inf, "1 infinite"), (1e300, "1 infinite")]
)
def test_weights_that_are_not_finite(builder: Any, value: float, words: str) -> None:
    b = builder()
    b.input("x", [2, 3], TensorProto.DOUBLE)
    weights = np.ones((3, 4))
    weights[1, 2] = value
    b.node("MatMul", "x", b.constant("layer.weight", weights), outputs=("y",))
    refused(ModelError, b.model("y"), "'layer.weight'", words)


def test_computed_constants_that_are_not_finite(builder: Any) -> None:
    b = builder()
    b.input("x", [2])
    log = b.node("Log", b.constant("zero", np.float32(0)), outputs=("log",))
    refused(ModelError, b.model(b.node("Add", "x", log)), "'log'", "infinite")


@pytest.mark.parametrize(
    ("op_type", "attributes", "words"),
    [
        ("Relu", {"slope": 1.0}, "unknown attribute 'slope'"),
        ("Elu", {"alpha": 1}, "attribute 'alpha': expected FLOAT, found INT"),
        ("Cast", {}, "attribute 'to' is missing"),
        ("Transpose", {"perm": [0, 0]}, "permutation"),
        ("Flatten", {"axis": 5}, "expected an axis"),
        ("Add", {}, "expected 2 to 2 inputs, found 1"),
        ("MaxPool", {"kernel_shape": [2]}, "spatial axes"),
        ("DepthToSpace", {"blocksize": 2}, "expected [n, c, h, w]"),
    ],
)
def test_nodes_that_break_their_definition(
    builder: Any, op_type: str, attributes: dict[str, Any], words: str
) -> None:
    b = builder()
    b.input("x", [2, 3])
    b.node(op_type, "x", outputs=("y",), name="culprit", **attributes)
    kind = ShapeError if op_type == "Transpose" else ModelError
    refused(kind, b.model("y"), "'culprit'", op_type, words)


def test_functions_that_call_themselves(builder: Any) -> None:
    b = builder()
    body = [helper.make_node("Loop2", ["a"], ["b"], domain="custom")]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("custom", 1)]
    b.functions.append(helper.make_function("custom", "Loop2", ["a"], ["b"], body, imports))
    b.input("x", [2])
    refused(ModelError, b.model(b.node("Loop2", "x", domain="custom")), "functions")


# Shapes


def test_open_dimensions_are_all_named(builder: Any) -> None:
    b = builder()
    b.input("image", ["batch", 3, "height", "width"])
    b.input("scale", [None])
    model = b.model(b.node("Mul", "image", "scale", outputs=("y",)))
    refused(
        ShapeError,
        model,
        "'image' is batchx3xheightxwidth",
        "'scale' is ?",
        "--input-shape image:1x3x224x224 --input-shape scale:1",
    )
    refused(ShapeError, model, "'scale'", input_shapes={"image": [1, 3, 8, 8]})
    shapes = {"image": [1, 3, 8, 8], "scale": [8]}
    assert import_onnx(model, input_shapes=shapes).outputs["y"].type.shape == (1, 3, 8, 8)


def test_an_input_of_unknown_rank(builder: Any) -> None:
    b = builder()
    b.input("x", None)
    model = b.model(b.node("Relu", "x", outputs=("y",)))
    refused(ShapeError, model, "'x' is of unknown rank", "--input-shape x:")
    assert import_onnx(model, input_shapes={"x": [4]}).outputs["y"].type.shape == (4,)


@pytest.mark.parametrize(
    ("shapes", "kind", "words"),
    [
        ({"z": [1]}, UsageError, "--input-shape z: no such input; expected x"),
        ({"x": [2]}, ShapeError, "expected 2 dimensions as in nx3"),
        ({"x": [2, 4]}, ShapeError, "the model fixes nx3"),
        ({"x": [0, 3]}, ShapeError, "at least 1"),
        ({"x": ["a", 3]}, UsageError, "whole numbers"),
        ({"x": [1 << 40, 3]}, ShapeError, "2^30"),
    ],
)
def test_input_shapes_that_do_not_fit(
    builder: Any, shapes: dict[str, Any], kind: type[QcompilerError], words: str
) -> None:
    b = builder()
    b.input("x", ["n", 3])
    model = b.model(b.node("Relu", "x", outputs=("y",)))
    refused(kind, model, words, input_shapes=shapes)


def test_one_symbol_with_two_sizes(builder: Any) -> None:
    b = builder()
    b.input("x", ["n"])
    b.input("z", ["n"])
    model = b.model(b.node("Concat", "x", "z", axis=0))
    refused(ShapeError, model, "'n' is 2 in input 'x'", input_shapes={"x": [2], "z": [3]})


def test_an_input_shape_that_the_model_cannot_take(builder: Any) -> None:
    b = builder()
    b.input("x", ["n", "m"])
    b.constant("w", np.ones((3, 4), np.float32))
    model = b.model(b.node("MatMul", "x", "w", name="product"))
    refused(ShapeError, model, "'product' (MatMul)", "2x5", input_shapes={"x": [2, 5]})


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ([5], ShapeError),
        ([4, -1], ShapeError),
        ([0, 0, 0], ModelError),
        ([-1, -1], ModelError),
        ([-2, 3], ModelError),
    ],
)
def test_reshapes_that_do_not_fit(
    builder: Any, shape: list[int], kind: type[QcompilerError]
) -> None:
    b = builder()
    b.input("x", [2, 3])
    model = b.model(b.node("Reshape", "x", b.constant("s", np.array(shape)), name="flat"))
    refused(kind, model, "'flat' (Reshape)")


def test_an_empty_input(builder: Any) -> None:
    b = builder()
    b.input("x", [0, 3])
    refused(ShapeError, b.model(b.node("Relu", "x")), "'x' is 0x3")


# What is not supported


def test_all_unsupported_operators_are_listed(builder: Any) -> None:
    b = builder()
    hidden = b.input("x", [2, 3])
    for i in range(9):
        hidden = b.node("Hardmax", hidden, name=f"h{i}")
    hidden = b.node("Frobnicate", hidden, domain="com.example", name="f")
    hidden = b.node("Relu", hidden)
    b.constant("axes", np.array([0, 0]))
    flipped = b.node("Slice", "x", "axes", "axes", "", b.constant("s", np.array([-1, 1])), name="s")
    message = refused(
        UnsupportedError,
        b.model(hidden, flipped),
        "Hardmax ×9 (h0, h1, h2, h3, h4, h5 and 3 more)",
        "com.example.Frobnicate ×1 (f)",
        "Slice with a negative step ×1 (s)",
    )
    assert "Relu" not in message


def test_what_follows_a_refused_node_is_still_understood(builder: Any) -> None:
    b = builder()
    b.input("x", [2, 3])
    hidden = b.node("Hardmax", "x", name="h")
    target = b.node("Concat", b.node("Shape", hidden), b.constant("one", np.array([1])), axis=0)
    reshaped = b.node("Reshape", hidden, b.node("Abs", target))
    model = b.model(b.node("Det", b.node("Conv", reshaped, b.constant("w", np.ones((1, 3, 1))))))
    message = refused(UnsupportedError, model, "Hardmax ×1 (h)")
    assert "Abs" not in message


def test_quantized_models(builder: Any) -> None:
    b = builder()
    b.input("x", [2, 3])
    b.constant("scale", np.float32(0.1))
    b.constant("zero", np.uint8(0))
    codes = b.node("QuantizeLinear", "x", "scale", "zero", name="q")
    model = b.model(b.node("DequantizeLinear", codes, "scale", "zero", name="dq"))
    refused(UnsupportedError, model, "quantized already", "float model", "QuantizeLinear ×1 (q)")


def test_loops_and_computed_branches(builder: Any) -> None:
    b = builder()
    b.input("x", [2])
    b.input("c", [], TensorProto.BOOL)
    outputs = [helper.make_tensor_value_info("o", TensorProto.FLOAT, [2])]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["o"])], "g", [], outputs)
    b.node("If", "c", outputs=("y",), name="choice", then_branch=graph, else_branch=graph)
    refused(UnsupportedError, b.model("y"), "If with computed condition ×1 (choice)")
    b = builder()
    inputs = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
    ]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "g",
        inputs,
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )
    b.input("x", [2])
    count = b.constant("count", np.array(3))
    b.node("Loop", count, "", "x", outputs=("y",), name="loop", body=body)
    refused(UnsupportedError, b.model("y"), "Loop ×1 (loop)")


@pytest.mark.parametrize(
    ("op_type", "attributes", "words"),
    [
        ("Pad", {"mode": "reflect"}, "Pad with mode=reflect"),
        ("Pad", {"mode": "edge"}, "Pad with mode=edge"),
        ("Pad", {"mode": "wrap"}, "Pad with mode=wrap"),
        ("Resize", {"mode": "linear"}, "Resize with mode=linear"),
        ("Resize", {"nearest_mode": "ceil"}, "Resize with coordinates by half_pixel and ceil"),
    ],
)
def test_forms_that_are_not_supported(
    builder: Any, op_type: str, attributes: dict[str, str], words: str
) -> None:
    b = builder()
    b.input("x", [1, 1, 2, 2])
    scales = b.constant("scales", np.array([1, 1, 2, 2], np.float32))
    operand = [b.constant("pads", np.array([0, 0, 1, 1] * 2))] if op_type == "Pad" else ["", scales]
    b.node(op_type, "x", *operand, outputs=("y",), name="culprit", **attributes)
    refused(UnsupportedError, b.model("y"), words, "(culprit)")


def test_padding_beyond_the_kernel_is_not_supported(builder: Any) -> None:
    b = builder()
    b.input("x", [1, 1, 8])
    window = {"kernel_shape": [2], "dilations": [6], "strides": [3], "ceil_mode": 1}
    b.node("MaxPool", "x", outputs=("y",), name="pool", **window)
    refused(UnsupportedError, b.model("y"), "padding beyond the kernel size ×1 (pool)")


def test_training_is_not_supported(builder: Any) -> None:
    b = builder()
    b.input("x", [2, 3])
    parameters = [b.constant(f"p{i}", np.ones(3, np.float32)) for i in range(4)]
    outputs = ("y", "mean", "variance")
    b.node("BatchNormalization", "x", *parameters, outputs=outputs, training_mode=1, name="bn")
    refused(UnsupportedError, b.model("y"), "training_mode", "(bn)")
    b = builder()
    b.input("x", [2, 3])
    training = b.constant("training", np.array(True))
    b.node("Dropout", "x", "", training, outputs=("y",), name="drop")
    refused(UnsupportedError, b.model("y"), "training_mode", "(drop)")


def test_unsupported_outputs_of_supported_operators(builder: Any) -> None:
    b = builder()
    b.input("x", [1, 1, 4, 4])
    b.node("MaxPool", "x", outputs=("y", "indices"), kernel_shape=[2, 2], name="pool")
    assert import_onnx(b.model("y")).outputs["y"].type.shape == (1, 1, 3, 3)
    refused(UnsupportedError, b.model("y", "indices"), "MaxPool with output 1 ×1 (pool)")


def test_operands_of_other_types(builder: Any) -> None:
    b = builder()
    b.input("x", [2, 3], TensorProto.INT64)
    refused(UnsupportedError, b.model(b.node("Abs", "x", name="a")), "Abs of int64 ×1 (a)")


@pytest.mark.parametrize("opset", [1, 6, NEWEST + 1, 99])
def test_opsets_out_of_range(builder: Any, opset: int) -> None:
    model = linear(builder, opset=opset).model("y")
    refused(UnsupportedError, model, f"opset {opset}", "expected 7 to", "version_converter")


def test_a_model_without_an_opset(builder: Any) -> None:
    model = linear(builder).model("y")
    del model.opset_import[:]
    refused(ModelError, model, "no opset")


@pytest.mark.parametrize(
    ("type_proto", "words"),
    [
        (
            helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2])),
            "SequenceType",
        ),
        (
            helper.make_optional_type_proto(helper.make_tensor_type_proto(1, [2])),
            "OptionalType",
        ),
        (helper.make_map_type_proto(7, helper.make_tensor_type_proto(1, [2])), "map_type"),
        (helper.make_sparse_tensor_type_proto(1, [2]), "SparseTensorType"),
        (helper.make_tensor_type_proto(TensorProto.STRING, [2]), "string"),
        (helper.make_tensor_type_proto(TensorProto.FLOAT8E4M3FN, [2]), "float8e4m3fn"),
    ],
)
def test_inputs_that_are_no_tensors_of_numbers(
    builder: Any, type_proto: onnx.TypeProto, words: str
) -> None:
    b = linear(builder)
    b.inputs.append(helper.make_value_info("odd", type_proto))
    refused(UnsupportedError, b.model("y"), "input 'odd'", words)


# Damage


@pytest.mark.parametrize("op_type", ["Expand", "ConstantOfShape", "Tile", "Range", "Pad", "OneHot"])
def test_small_files_cannot_ask_for_large_tensors(builder: Any, op_type: str) -> None:
    b = builder()
    b.input("x", [1])
    many = b.constant("many", np.array([1 << 33, 1 << 31]))
    operands = {
        "Expand": ("x", many),
        "ConstantOfShape": (many,),
        "Tile": (b.constant("t", np.ones((1, 1), np.float32)), many),
        "Pad": (b.constant("p", np.ones(1, np.float32)), many),
        "Range": tuple(b.constant(f"r{i}", np.array(v)) for i, v in enumerate((0, 1 << 40, 1))),
        "OneHot": (
            b.constant("i", np.array([0])),
            b.constant("depth", np.array(1 << 40)),
            b.constant("v", np.array([0, 1], np.float32)),
        ),
    }[op_type]
    large = b.node(op_type, *operands, name="large")
    with pytest.raises(QcompilerError, match="large"):
        import_onnx(b.model(b.node("Add", "x", large)))


def test_many_folded_constants_are_refused(builder: Any) -> None:
    b = builder()
    hidden = b.node("ConstantOfShape", b.constant("n", np.array([1 << 23])))
    for _ in range(64):
        hidden = b.node("Abs", hidden)
    refused(ModelError, b.model(hidden), "computed from constants")


def never_escapes(data: bytes) -> bool:
    """Whether the bytes were refused; anything but a one-line `QcompilerError` fails the test."""
    try:
        import_onnx(data)
    except QcompilerError as error:
        message = str(error)
    else:
        return False
    assert "\n" not in message
    return True


def test_truncated_files() -> None:
    data = DIGITS.read_bytes()
    cuts = range(0, len(data), max(50, len(data) // 2000))
    assert all(never_escapes(data[:cut]) for cut in cuts)


def varied(builder: Any) -> onnx.ModelProto:
    """A model small enough that flipped bits hit its structure, with many kinds of nodes."""
    b = builder(opset=17)
    b.input("x", [1, 4, 8, 8])
    b.constant("w", RNG.standard_normal((4, 2, 3, 3), np.float32))
    b.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    parameters = [b.constant(f"p{i}", np.ones(4, np.float32)) for i in range(4)]
    h = b.node("Conv", "x", "w", group=2, strides=[1, 1], auto_pad="SAME_UPPER", name="conv")
    h = b.node("BatchNormalization", h, *parameters, epsilon=1e-3)
    h = b.node("Clip", h, b.constant("low", np.float32(0)), b.constant("high", np.float32(6)))
    h = b.node("MaxPool", h, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    h = b.node("AveragePool", b.node("Pad", h, "pads"), kernel_shape=[3, 3], count_include_pad=1)
    shape = b.node("Shape", h)
    batch = b.node("Slice", shape, *(b.constant(f"s{i}", np.array([i])) for i in range(2)))
    target = b.node("Concat", batch, b.constant("rest", np.array([-1])), axis=0)
    b.node("Split", b.node("Reshape", h, target), outputs=("left", "right"), axis=1)
    h = b.node("Softmax", b.node("Mul", "left", "right"), axis=-1)
    h = b.node("Gemm", h, b.constant("g", np.ones((32, 5), np.float32)), alpha=0.5)
    h = b.node(
        "Transpose", b.node("Expand", h, b.constant("e", np.array([3, 1, 1]))), perm=[1, 0, 2]
    )
    return b.model(b.node("ReduceMean", h, axes=[1], keepdims=0, outputs=("y",)))


def test_flipped_bytes(builder: Any) -> None:
    data = varied(builder).SerializeToString()
    import_onnx(data)
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(700):
            damaged = bytearray(data)
            for position in RNG.integers(0, len(data), RNG.integers(1, 4)):
                damaged[position] = RNG.integers(0, 256)
            outcomes.add(never_escapes(bytes(damaged)))
    assert outcomes == {True, False}


def test_flipped_bits_everywhere(builder: Any) -> None:
    data = varied(builder).SerializeToString()
    for position in range(0, len(data), 2):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(RNG.integers(0, 8))
        never_escapes(bytes(damaged))
