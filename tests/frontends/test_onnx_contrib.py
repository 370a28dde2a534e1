"""ONNX Runtime's own operators against ONNX Runtime, which alone defines them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnxruntime.capi.onnxruntime_pybind11_state as runtime
import pytest
from onnx import TensorProto
from onnx_cases import RNG, Known, bools, codes, f, kc, kf, positive, s
from onnx_contrib_cases import CASES, Case, case
from onnx_models import Builder, assert_agrees, by_onnxruntime

from qcompiler.frontends.onnx import import_onnx
from qcompiler.frontends.onnx_codes import KEPT
from qcompiler.frontends.onnx_contrib import MICROSOFT, SCHEMAS
from qcompiler.frontends.onnx_node import importers
from qcompiler.graph import Constant
from qcompiler.interpret import evaluate
from qcompiler.ops import FakeQuantize

# Codes
U8, I8 = TensorProto.UINT8, TensorProto.INT8
_x, _y = codes(np.uint8, 2, 3, 4, 4), codes(np.uint8, 2, 3, 4, 4)
_by = (s(0.03), Known(np.array(120, np.uint8)))
_to = (s(0.05), Known(np.array(90, np.uint8)))
_odd = (s(0.0713), _to[1])  # no result half-way between codes, where ONNX Runtime goes to even
case("QuantizeLinear", 3 * f(2, 3), *_by, result=U8)
case("DequantizeLinear", _x, *_by)
case("DequantizeLinear", _x, Known(positive(3)), kc(np.uint8, 3), axis=1)
for _name in ("QLinearAdd", "QLinearMul"):
    case(_name, _x, *_by, _y, *_to, s(0.0713), _to[1], result=U8)
    case(_name, _x, *_by, kc(np.uint8, 4), *_to, s(0.0713), _to[1], result=U8)
case("QLinearSigmoid", _x, *_by, s(1 / 256), Known(np.array(0, np.uint8)), result=U8)
case("QLinearLeakyRelu", _x, *_by, *_odd, alpha=0.3, result=U8)
for _opset, _axis in ((13, -1), (13, 1), (12, 3)):
    _ends = (*_by, s(1 / 256), Known(np.array(0, np.uint8)))
    case("QLinearSoftmax", _x, *_ends, axis=_axis, opset=_opset, result=U8)
case("QLinearAveragePool", _x, *_by, *_odd, kernel_shape=[2, 2], strides=[1, 2], result=U8)
case("QLinearGlobalAveragePool", _x, *_by, *_odd, result=U8)
case("QLinearConcat", *_to, _x, *_by, _y, *_to, axis=1, result=U8)
case("QLinearConcat", *_to, _x, *_by, axis=-1, result=U8)
case("QLinearWhere", bools(4), _x, *_by, _y, *_to, *_to, result=U8)
_weight = Known(codes(np.uint8, 5, 3, 3, 3))
case(
    "QLinearConv",
    _x,
    *_by,
    _weight,
    *_to,
    s(2.9713),
    _by[1],
    Known(np.arange(-2, 3, dtype=np.int32)),
    result=U8,
)
_columns = (kc(np.uint8, 9, 5), Known(positive(5)), kc(np.uint8, 5))
_rows = Known(RNG.integers(-999, 999, 5, np.int32))
case("QGemm", codes(np.uint8, 2, 9), *_by, *_columns, _rows, s(2.9713), _by[1], result=U8)
case("QGemm", codes(np.uint8, 2, 9), *_by, kc(np.uint8, 5, 9), *_to, transB=1, alpha=0.5)
case(
    "MatMulIntegerToFloat",
    codes(np.uint8, 2, 9),
    _columns[0],
    _by[0],
    _columns[1],
    _by[1],
    _columns[2],
    kf(5),
)
_whole = np.append(RNG.integers(0, 255, 17), 255).reshape(2, 9).astype(np.float32)  # scale 1
case("DynamicQuantizeMatMul", _whole, *_columns, kf(5))

_cells = [RNG.integers(-127, 128, (2, n, 12)).astype(np.int8) for n in (5, 3)]
_state = (kf(2, 24), None, f(2, 2, 3), f(2, 2, 3))
for _shape in ((2,), (2, 12)):
    _scales = [(positive(*_shape) / 100).astype(np.float32) for _ in _cells]
    _float = [
        Known((w * a.reshape(2, 1, -1)).swapaxes(1, 2).astype(np.float32))
        for w, a in zip(_cells, _scales, strict=True)
    ]
    _both: dict[str, Any] = {"direction": "bidirectional", "hidden_size": 3}
    _sequence = f(4, 2, 5)
    _like = Case("LSTM", (_sequence, *_float, *_state), _both, 3, "", None)
    _points = [Known(np.zeros(_shape, np.int8)) for _ in _cells]
    _meaning = [v for a, z in zip(_scales, _points, strict=True) for v in (Known(a), z)]
    _codes = [Known(w) for w in _cells]
    case(
        "DynamicQuantizeLSTM",
        _sequence,
        *_codes,
        *_state,
        None,
        *_meaning,
        outputs=3,
        like=_like,
        **_both,
    )


def test_tokens_that_an_embedding_counts_are_a_mask() -> None:
    b = Builder(opset=14)
    b.input("ids", [2, 5], onnx.TensorProto.INT32)
    b.input("mask", [2, 5], onnx.TensorProto.INT32)
    names = [b.constant(str(i), x) for i, x in enumerate((f(9, 8), f(6, 8), f(8), f(8)))]
    embedding = ("ids", "", names[0], names[1], "", names[2], names[3], "mask")
    b.node("EmbedLayerNormalization", *embedding, outputs=("x", "count"), domain=MICROSOFT)
    weights = (b.constant("w", f(8, 24)), b.constant("b", f(24)))
    b.node("Attention", "x", *weights, "count", outputs=("y",), num_heads=2, domain=MICROSOFT)
    mask = (np.arange(5) < [[3], [5]]).astype(np.int32)
    ids = RNG.integers(0, 9, (2, 5), np.int32)
    assert_agrees(b.model("y"), {"ids": ids, "mask": mask})


_NAMED = [pytest.param(c, id=f"{c.op_type}-{i}") for i, c in enumerate(CASES)]


@pytest.mark.parametrize("item", _NAMED)
def test_agrees_with_onnxruntime(item: Case) -> None:
    if item.like is None:
        assert_agrees(*item.build())
        return
    expected = by_onnxruntime(*item.like.build())
    model, feeds = item.build()
    found = evaluate(import_onnx(model), feeds).values()
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("item", _NAMED)
def test_constants_alone_give_a_constant(item: Case) -> None:
    operands = tuple(Known(x) if isinstance(x, np.ndarray) else x for x in item.operands)
    model, _ = dataclasses.replace(item, operands=operands).build()
    kept = FakeQuantize if item.op_type in KEPT else Constant
    graph = import_onnx(model)
    assert all(isinstance(y, (Constant, kept)) for y in graph.outputs.values())
    same, feeds = item.build()
    expected = evaluate(import_onnx(same), feeds).values()
    for a, b in zip(expected, evaluate(graph, {}).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_every_definition_has_an_importer_and_a_case() -> None:
    tested = {(c.domain, c.op_type) for c in CASES}
    known = {(domain, name) for domain in ("", MICROSOFT) for name in importers(domain)}
    assert set(SCHEMAS) <= tested & known
    assert set(importers(MICROSOFT)) <= {name for _, name in SCHEMAS}


@pytest.mark.parametrize("key", SCHEMAS, ids=".".join)
def test_definitions_are_those_of_onnxruntime(key: tuple[str, str]) -> None:
    ours, (domain, name) = SCHEMAS[key], key
    theirs = next(
        s
        for s in runtime.get_all_operator_schema()
        if (s.domain, s.name, s.since_version) == (domain, name, 1)
    )
    for mine, yours in ((ours.inputs, theirs.inputs), (ours.outputs, theirs.outputs)):
        assert [x.name for x in mine] == [x.name for x in yours]
        assert [x.option.name for x in mine] == [x.option.name for x in yours]
    assert set(ours.attributes) == set(theirs.attributes)
    for attribute, mine in ours.attributes.items():
        yours = theirs.attributes[attribute]
        assert (mine.type.name, mine.required) == (yours.type.name, yours.required), attribute
        default = onnx.AttributeProto.FromString(yours._default_value)
        assert mine.default_value == default, attribute
