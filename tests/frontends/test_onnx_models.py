"""Whole models: real ones, folding, names, functions, branches, half precision, open dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import Builder, assert_agrees

from qcompiler.frontends.onnx import import_onnx
from qcompiler.graph import Constant, Input, toposort
from qcompiler.interpret import evaluate
from qcompiler.ops import Cast, MatMul, Mul, Relu, Reshape

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(1)
REAL = [
    ROOT / "models/digits/cnn.onnx",
    ROOT / "models/digits/vit.onnx",
    ROOT / "../shared/data/resnet20_cifar10/model.onnx",
    ROOT / "../shared/data/mobilenet_v1_025_imagenet/model.onnx",
    ROOT / "../shared/data/vit_tiny_tinyimagenet/model.onnx",
]


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.parent.name)
def test_real_models_agree_with_onnxruntime(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT)} is absent")
    graph = import_onnx(path)
    feeds = {str(x.name): RNG.standard_normal(x.type.shape, np.float32) for x in graph.inputs}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    assert [x.name for x in session.get_inputs()] == list(feeds)
    assert [y.name for y in session.get_outputs()] == list(graph.outputs)
    expected = session.run(None, feeds)
    for reference, found in zip(expected, evaluate(graph, feeds).values(), strict=True):
        np.testing.assert_allclose(found, reference, rtol=1e-3, atol=1e-3)


def small() -> onnx.ModelProto:
    """relu(x · w)."""
    b = Builder()
    b.input("x", [2, 3])
    b.constant("w", RNG.standard_normal((3, 4), np.float32))
    product = b.node("MatMul", "x", "w", name="product")
    return b.model(b.node("Relu", product, outputs=("y",)))


def test_every_kind_of_argument_gives_the_same_graph(tmp_path: Path) -> None:
    model = small()
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    arguments = [model, model.SerializeToString(), ir.from_proto(model), path, str(path)]
    assert len({str(import_onnx(argument)) for argument in arguments}) == 1


def test_ops_know_their_names_and_nodes() -> None:
    graph = import_onnx(small())
    y = graph.outputs["y"]
    assert isinstance(y, Relu)
    assert isinstance(y.x, MatMul)
    assert (y.name, y.sources) == ("y", ("Relu:y",))
    assert (y.x.name, y.x.sources) == ("v0", ("product",))
    assert (y.x.b.name, y.x.b.sources) == ("w", ())


def test_a_model_in_memory_is_left_alone() -> None:
    model = small()
    bytes_before = model.SerializeToString()
    weights = np.ones((3, 4), np.float32)
    in_memory = ir.from_proto(model)
    in_memory.graph.initializers["w"].const_value = ir.tensor(weights, name="w")
    graph = import_onnx(in_memory)
    import_onnx(model)
    weights[:] = 2
    assert model.SerializeToString() == bytes_before
    found = evaluate(graph, {"x": np.ones((2, 3), np.float32)})["y"]
    np.testing.assert_array_equal(found, np.full((2, 4), 3, np.float32))


def test_shape_arithmetic_folds_to_a_reshape() -> None:
    b = Builder(opset=18)
    b.input("x", [2, 3, 4])
    b.constant("zero", np.array(0))
    b.constant("rest", np.array([-1]))
    shape = b.node("Shape", "x")
    batch = b.node("Gather", shape, "zero", axis=0)
    first = b.node("Unsqueeze", batch, b.constant("axes", np.array([0])))
    wide = b.node("Mul", first, b.node("Constant", value_ints=[3]))
    target = b.node("Concat", b.node("Cast", wide, to=TensorProto.INT64), "rest", axis=0)
    model = b.model(b.node("Reshape", "x", target, outputs=("y",)))
    graph = import_onnx(model)
    y = graph.outputs["y"]
    assert isinstance(y, Reshape)
    assert isinstance(y.x, Input)
    assert y.shape == (6, 4)
    assert_agrees(model, {"x": RNG.standard_normal((2, 3, 4), np.float32)})


def test_shapes_and_sizes_are_constants() -> None:
    b = Builder(opset=15)
    b.input("x", [2, 3, 4])
    b.node("Shape", "x", outputs=("all",))
    b.node("Shape", "x", outputs=("part",), start=-2, end=-1)
    b.node("Size", "x", outputs=("size",))
    outputs = import_onnx(b.model("all", "part", "size", dtype=TensorProto.INT64)).outputs
    values = {name: y.array.tolist() for name, y in outputs.items() if isinstance(y, Constant)}
    assert values == {"all": [2, 3, 4], "part": [3], "size": 24}


def test_nodes_without_an_importer_fold() -> None:
    b = Builder(opset=20)
    b.input("x", [2, 3])
    steps = b.node("Range", *(b.constant(f"r{i}", np.float32(v)) for i, v in enumerate((0, 3, 1))))
    even = b.node("Equal", b.node("Sin", steps), b.node("ConstantOfShape", b.constant("n", [3])))
    mask = b.node("Where", even, b.constant("a", np.float32(5)), b.constant("b", np.float32(7)))
    model = b.model(b.node("Mul", "x", mask, outputs=("y",)))
    y = import_onnx(model).outputs["y"]
    assert isinstance(y, Mul)
    assert isinstance(y.b, Constant)
    assert y.b.name == mask
    np.testing.assert_array_equal(y.b.array, np.array([5, 7, 7], np.float32))


def test_functions_of_weights_fold_with_their_importers() -> None:
    b = Builder()
    b.input("x", [2, 3])
    w = RNG.standard_normal((3, 4), np.float32)
    doubled = b.node("Add", b.constant("w", w), "w")
    model = b.model(b.node("MatMul", "x", b.node("Abs", doubled), outputs=("y",)))
    ops = toposort([import_onnx(model).outputs["y"]])
    constants = [x.array for x in ops if isinstance(x, Constant)]
    assert len(ops) == 3
    np.testing.assert_array_equal(constants, [np.abs(w + w)])


def test_operators_of_onnxruntime() -> None:
    b = Builder()
    b.input("x", [2, 3, 4])
    scale = b.constant("scale", RNG.standard_normal(4, np.float32))
    normal = b.node("SimplifiedLayerNormalization", "x", scale, epsilon=0.01)
    hidden = b.node("QuickGelu", normal, domain="com.microsoft")
    model = b.model(b.node("QuickGelu", hidden, domain="com.microsoft", alpha=2.0))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert_agrees(model, {"x": RNG.standard_normal((2, 3, 4), np.float32)})


@pytest.mark.parametrize("masked", [0, 1])
def test_the_exponential_of_a_mask_is_zero(masked: int) -> None:
    b = Builder()
    b.input("x", [4, 4])
    kept = b.constant("kept", np.tri(4, dtype=bool))
    operands = ["x", b.constant("lowest", np.float32(-np.inf))]
    chosen = b.node("Where", kept, *(operands[::-1] if masked else operands))
    assert_agrees(b.model(b.node("Exp", chosen)), {"x": RNG.standard_normal((4, 4), np.float32)})


def test_masks_may_be_infinite() -> None:
    b = Builder()
    b.input("x", [2, 4, 4])
    b.input("mask", [2, 4], TensorProto.INT64)
    causal = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    lowest = b.constant("lowest", np.float32(-np.inf))
    kept = b.node("Equal", "mask", b.constant("one", np.array(1)))
    row = b.node("Where", kept, b.constant("zero", np.float32(0)), lowest)
    row = b.node("Unsqueeze", row, b.constant("axes", np.array([1])))
    scores = b.node("Add", b.node("Add", "x", b.constant("causal", causal)), row)
    model = b.model(b.node("Softmax", scores, outputs=("y",)))
    mask = np.array([[1, 1, 0, 1], [1, 0, 1, 0]])
    assert_agrees(model, {"x": RNG.standard_normal((2, 4, 4), np.float32), "mask": mask})


def test_half_precision_is_float32_inside() -> None:
    for element, dtype in (
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.DOUBLE, np.float64),
        (TensorProto.BFLOAT16, helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)),
    ):
        b = Builder()
        b.input("x", [2, 3], element)
        w = RNG.standard_normal((3, 4)).astype(dtype)
        b.constant("w", w)
        product = b.node("MatMul", "x", "w")
        y = b.node("Cast", b.node("Cast", product, to=TensorProto.FLOAT), to=element)
        graph = import_onnx(b.model(y, dtype=element))
        (end,) = graph.outputs.values()
        assert isinstance(end, Cast)
        result = end.x
        assert isinstance(result, MatMul)
        assert graph.inputs[0].type.dtype == end.type.dtype == np.dtype(dtype).name
        assert str(result.a.type) == "float32[2x3]"
        assert isinstance(result.b, Constant)
        np.testing.assert_array_equal(result.b.array, w.astype(np.float32))


def test_integer_inputs_stay_integers() -> None:
    b = Builder()
    b.input("ids", [2, 3], TensorProto.INT64)
    graph = import_onnx(b.model(b.node("Cast", "ids", to=TensorProto.FLOAT, outputs=("y",))))
    assert str(graph.inputs[0].type) == "int64[2x3]"
    ids = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(evaluate(graph, {"ids": ids})["y"], ids.astype(np.float32))


def test_an_initializer_that_is_also_an_input_is_a_constant() -> None:
    b = Builder()
    b.input("x", [2])
    b.input("w", [2])
    b.constant("w", np.ones(2, np.float32))
    graph = import_onnx(b.model(b.node("Add", "x", "w", outputs=("y",))))
    assert [x.name for x in graph.inputs] == ["x"]


def test_unused_inputs_are_kept_in_order() -> None:
    b = Builder()
    for name in ("c", "a", "b"):
        b.input(name, [2])
    graph = import_onnx(b.model(b.node("Add", "b", "a", outputs=("y",))))
    assert [x.name for x in graph.inputs] == ["c", "a", "b"]


def test_an_output_may_be_an_input_or_a_constant() -> None:
    b = Builder()
    b.input("x", [2])
    b.constant("w", np.ones(3, np.float32))
    b.node("Identity", "x", outputs=("y",))
    b.node("Identity", "w", outputs=("z",))
    graph = import_onnx(b.model("y", "z"))
    assert graph.outputs["y"] is graph.inputs[0]
    assert isinstance(graph.outputs["z"], Constant)


def test_nodes_in_any_order() -> None:
    b = Builder()
    b.input("x", [2, 3])
    b.node("Exp", "h", outputs=("y",))
    b.node("Tanh", "x", outputs=("h",))
    assert_agrees(b.model("y"), {"x": RNG.standard_normal((2, 3), np.float32)})


def test_a_deep_graph() -> None:
    b = Builder()
    y = b.input("x", [1])
    for _ in range(3000):
        y = b.node("Relu", y)
    graph = import_onnx(b.model(y))
    assert len(graph.ops) == 3001


def test_dead_nodes_may_be_of_any_kind() -> None:
    b = Builder()
    b.input("x", [2])
    b.node("Hardmax", "x")
    assert len(import_onnx(b.model(b.node("Relu", "x", outputs=("y",)))).ops) == 2


def test_functions_are_inlined() -> None:
    b = Builder()
    body = [
        helper.make_node("Sigmoid", ["a"], ["s"], name="gate"),
        helper.make_node("Mul", ["a", "s"], ["b"]),
    ]
    imports = [helper.make_opsetid("", b.opset)]
    b.functions.append(helper.make_function("custom", "Silu", ["a"], ["b"], body, imports))
    b.input("x", [2, 3])
    hidden = b.node("Silu", "x", domain="custom", name="first")
    model = b.model(b.node("Silu", hidden, domain="custom", outputs=("y",)))
    assert_agrees(model, {"x": RNG.standard_normal((2, 3), np.float32)})
    in_memory = ir.from_proto(model)
    assert str(import_onnx(in_memory)) == str(import_onnx(model))
    assert in_memory.functions  # a copy was inlined


@pytest.mark.parametrize("condition", [True, False])
def test_a_branch_with_a_constant_condition(condition: bool) -> None:
    b = Builder()
    b.input("x", [2, 3])
    hidden = b.node("Tanh", "x")
    branches = {
        name: helper.make_graph(
            [helper.make_node(op_type, [hidden], [name], name=op_type)],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3])],
        )
        for name, op_type in (("then_branch", "Exp"), ("else_branch", "Abs"))
    }
    b.node("If", b.constant("c", np.array(condition)), outputs=("y",), **branches)
    model = b.model("y")
    assert_agrees(model, {"x": RNG.standard_normal((2, 3), np.float32)})
    assert import_onnx(model).outputs["y"].sources == ("Exp" if condition else "Abs",)


def test_open_dimensions_are_fixed_everywhere() -> None:
    b = Builder()
    b.input("x", ["batch", 3])
    b.input("z", ["batch", 1])
    model = b.model(b.node("Add", "x", "z", outputs=("y",)))
    graph = import_onnx(model, input_shapes={"x": (5, 3)})
    assert [str(x.type) for x in graph.inputs] == ["float32[5x3]", "float32[5x1]"]


def test_external_data(tmp_path: Path, monkeypatch: Any) -> None:
    model = small()
    expected = str(import_onnx(model))
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    assert (tmp_path / "w.bin").exists()
    assert str(import_onnx(tmp_path / "m.onnx")) == expected
    assert str(import_onnx(ir.load(tmp_path / "m.onnx"))) == expected
    monkeypatch.chdir(tmp_path)
    assert str(import_onnx("m.onnx")) == expected


def test_weights_in_typed_fields() -> None:
    model = small()
    w = numpy_helper.to_array(model.graph.initializer[0])
    expected = str(import_onnx(model))
    model.graph.initializer[0].CopyFrom(
        helper.make_tensor("w", TensorProto.FLOAT, w.shape, w.reshape(-1).tolist())
    )
    assert str(import_onnx(model)) == expected
