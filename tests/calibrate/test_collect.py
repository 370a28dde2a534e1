"""Statistics of a model's values, equal however the work is cut."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompiler.calibrate import MinMax, samples, synthetic
from qcompiler.calibrate.collect import CollectOptions, collect
from qcompiler.errors import CalibrationError, ModelError, UnsupportedError

SILENT = CollectOptions(progress=False)
W = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)


def network(batch=2, extra=()):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Relu", ["product"], ["positive"]),
        helper.make_node("Neg", ["positive"], ["y"]),
        *extra,
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(W, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


X = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)
VALUES = ["y", "x", "product", "positive", "product"]


def feeds():
    return samples(X, {"x": ("float32", (2, 4))})


def state(statistics):
    return {
        name: (s.minimum, s.maximum, s.average_maximum, s.count, s.histogram.counts.tolist())
        for name, s in statistics.items()
    }


def test_values_are_those_of_the_model_which_stays_as_it_is():
    model = network()
    before = model.SerializeToString()
    found = collect(model, VALUES, feeds(), axes={"product": 1}, options=SILENT)
    assert model.SerializeToString() == before
    assert list(found) == ["y", "x", "product", "positive"]
    product = X @ W
    assert found["x"].range(MinMax(), 256, False) == (float(X.min()), float(X.max()))
    assert found["x"].count == X.size
    assert found["product"].maximum == pytest.approx(product.max(), rel=1e-6)
    assert found["product"].channel_maximum == pytest.approx(product.max(0), rel=1e-5)
    assert found["positive"].minimum == 0
    assert found["y"].minimum == -found["positive"].maximum
    assert found["y"].batches == 3
    assert found["y"].channel_maximum is None


@pytest.mark.parametrize("batch", [2, "N"])
@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("chunk_bytes", [1, 60, 100])
def test_chunks_and_iterators_give_the_same_statistics(batch, once, chunk_bytes):
    whole = state(collect(network(), VALUES, feeds(), options=SILENT))
    source = iter(list(feeds())) if once else feeds()
    options = CollectOptions(chunk_bytes=chunk_bytes, progress=False)
    assert state(collect(network(batch), VALUES, source, options=options)) == whole


def test_walks_over_the_feeds_follow_from_the_budget():
    walks = []

    class Counted:
        def __iter__(self):
            walks.append(0)
            for feed in feeds():
                walks[-1] += 1
                yield feed

    # 40 bytes for each of the three computed values of a batch.
    for chunk_bytes, passes in ((120, 1), (80, 2), (40, 3)):
        walks.clear()
        options = CollectOptions(chunk_bytes=chunk_bytes, progress=False)
        collect(network("N"), VALUES, Counted(), options=options)
        assert [n for n in walks if n == 3] == [3] * passes
        assert len(walks) == passes + 1  # one more looks at the first feed only


def test_inputs_alone_need_no_run():
    found = collect(network(), ["x"], feeds(), options=SILENT)
    assert found["x"].count == X.size


def test_values_of_a_constant_or_integer_kind():
    extra = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(3))),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Greater", ["x", "c"], ["larger"]),
    ]
    found = collect(network(extra=extra), ["c", "shape", "larger"], feeds(), options=SILENT)
    assert (found["c"].minimum, found["c"].maximum) == (3, 3)
    assert (found["shape"].minimum, found["shape"].maximum) == (2, 4)
    assert found["larger"].maximum == float((X > 3).max())


@pytest.mark.parametrize(
    ("values", "axes", "message"),
    [
        (["nothing"], {}, "'nothing' is not in the main graph, expected a graph input or a node"),
        (["w"], {}, "'w' is an initializer"),
        (["y"], {"nothing": 1}, "'nothing' is not in the main graph"),
        (["y"], {"y": 2}, r"'y' has shape \[2, 5\], which has no axis 2"),
    ],
)
def test_names_and_axes_are_checked(values, axes, message):
    with pytest.raises(CalibrationError, match=message):
        collect(network(), values, feeds(), axes=axes, options=SILENT)


def test_values_that_are_not_finite_are_named():
    extra = [helper.make_node("Sqrt", ["y"], ["root"])]
    with pytest.raises(CalibrationError, match="value 'root' holds NaN or infinity"):
        collect(network(extra=extra), ["y", "root"], feeds(), options=SILENT)


def test_no_feeds_and_feeds_that_do_not_fit():
    for nothing in ([], iter([])):
        with pytest.raises(CalibrationError, match="no calibration samples"):
            collect(network(), ["y"], nothing, options=SILENT)
    wrong = [{"x": np.zeros((2, 3), np.float32)}]
    with pytest.raises(ModelError, match="ONNX Runtime cannot run the model on a sample") as caught:
        collect(network(), ["y"], wrong, options=SILENT)
    assert "\n" not in str(caught.value)


def test_models_that_do_not_load_are_refused():
    model = network(extra=[helper.make_node("NoSuchOp", ["y"], ["z"])])
    with pytest.raises(ModelError, match=r"cannot load the model .*NoSuchOp"):
        collect(model, ["y"], feeds(), options=SILENT)


def test_models_over_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 100)
    with pytest.raises(UnsupportedError, match="over 2 GB"):
        collect(network(), ["y"], feeds(), options=SILENT)


def test_progress_is_one_line_unless_silent(capsys):
    collect(network(), ["x", "y"], feeds(), options=CollectOptions())
    assert capsys.readouterr().err.splitlines()[0].startswith("calibrating 2 values: 3 batches in ")
    collect(network(), ["y"], feeds(), options=SILENT)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    collect(network(), ["y"], feeds(), options=CollectOptions())
    assert "3/3" in capsys.readouterr().err


def test_synthetic_feeds_serve_too():
    found = collect(network(), ["y"], synthetic({"x": ("float32", (2, 4))}), options=SILENT)
    assert found["y"].batches == 8


def test_models_are_not_required_to_name_their_shapes():
    model = network("N")
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    onnx.checker.check_model(model)
    assert collect(model, ["y"], feeds(), options=SILENT)["y"].batches == 3
