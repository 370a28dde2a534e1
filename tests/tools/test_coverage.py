"""The table of what works: its list of architectures, its node tests, and the floor agree."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import coverage_nodes as nodes
import numpy as np
import onnx
from coverage_models import architectures
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]


def test_the_floor_names_architectures_of_the_list_and_the_report_shows_them() -> None:
    names = [a.name for a in architectures()]
    floor = json.loads((ROOT / "tools" / "coverage_floor.json").read_text())
    report = (ROOT / "docs" / "coverage.md").read_text()
    assert len(set(names)) == len(names) > 150
    assert set(floor["architectures"]) <= set(names)
    shown = re.findall(r"^\| (.+?) \| integer-only \|", report, re.M)
    assert set(shown) <= set(floor["architectures"])
    assert len(floor["architectures"]) >= 100


def test_samples_are_equal_for_equal_seeds_and_of_the_declared_kinds() -> None:
    (bert,) = (a for a in architectures() if a.name == "BERT")
    first, second = bert.sample(3), bert.sample(3)
    for name, x in first.items():
        assert np.array_equal(x, second[name])
    mask = first["attention_mask"]
    assert set(np.unique(mask)) <= {0, 1}
    assert (np.diff(mask) <= 0).all()
    assert first["token_type_ids"].max() <= 1


def reshape_test(target: np.ndarray) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    x = np.arange(6, dtype=np.float32)
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [6]),
        helper.make_tensor_value_info("shape", TensorProto.INT64, [len(target)]),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    graph = helper.make_graph([node], "g", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), [x, target]


def test_node_tests_are_right_wrong_or_refused() -> None:

    model, given = reshape_test(np.array([2, 3]))
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    case = SimpleNamespace(name="test_reshape", rtol=1e-3, atol=1e-7, model=model)
    case.data_sets = [(given, [expected])]
    (right,) = nodes.run([case])
    assert (right.outcome, right.form) == (nodes.Outcome.RIGHT, 1)  # its shape must be known
    assert right.kind is nodes.Kind.FLOAT
    case.data_sets = [(given, [0 * expected])]
    (wrong,) = nodes.run([case])
    assert wrong.outcome is nodes.Outcome.WRONG
    assert wrong.reason == "y: largest error 5"
    model.graph.node[0].op_type = "Frobnicate"
    model.graph.node[0].domain = "com.example"
    (refused,) = nodes.run([case])
    assert refused.outcome is nodes.Outcome.REFUSED
    assert refused.reason.startswith("com.example.Frobnicate ×1")


def test_known_operands_become_initializers() -> None:
    model, given = reshape_test(np.array([3, 2]))
    as_given, feeds = nodes.with_known(model, given, 0)
    assert [x.name for x in as_given.graph.input] == list(feeds) == ["x", "shape"]
    known, feeds = nodes.with_known(model, given, 1)
    assert list(feeds) == ["x"]
    assert numpy_helper.to_array(known.graph.initializer[0]).tolist() == [3, 2]
