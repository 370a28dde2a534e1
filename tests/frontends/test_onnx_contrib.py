"""ONNX Runtime's own operators against ONNX Runtime, which alone defines them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime.capi.onnxruntime_pybind11_state as runtime
import pytest
from onnx_cases import Known, f, kf
from onnx_models import Builder, assert_agrees

from qcompiler.frontends.onnx import import_onnx
from qcompiler.frontends.onnx_contrib import MICROSOFT, SCHEMAS
from qcompiler.frontends.onnx_node import importers
from qcompiler.graph import Constant

Operand = np.ndarray | Known | None


@dataclass(frozen=True)
class Case:
    op_type: str
    operands: tuple[Operand, ...]
    attributes: dict[str, Any]
    outputs: int
    domain: str

    def build(self) -> tuple[Any, dict[str, np.ndarray]]:
        b, names, feeds = Builder(opset=14), [], {}
        for i, operand in enumerate(self.operands):
            name = "" if operand is None else f"x{i}"
            names.append(name)
            if isinstance(operand, Known):
                b.constant(name, operand.array)
            elif operand is not None:
                feeds[name] = operand
                element = onnx.helper.np_dtype_to_tensor_dtype(operand.dtype)
                b.input(name, list(operand.shape), element)
        outputs = tuple(f"y{i}" for i in range(self.outputs))
        b.node(self.op_type, *names, outputs=outputs, domain=self.domain, **self.attributes)
        return b.model(*outputs), feeds


CASES: list[Case] = []


def case(
    op_type: str, *operands: Operand, outputs: int = 1, domain: str = MICROSOFT, **attributes: Any
) -> None:
    CASES.append(Case(op_type, operands, attributes, outputs, domain))


case("Gelu", 3 * f(9))
case("BiasGelu", 3 * f(2, 9), kf(9))
case("FastGelu", 3 * f(2, 9))
case("FastGelu", 3 * f(2, 9), f(9))
case("QuickGelu", 3 * f(9))
case("QuickGelu", 3 * f(9), alpha=2.0)
case("SimplifiedLayerNormalization", f(2, 5), kf(5), domain="", epsilon=0.01)
case("LayerNormalization", f(2, 5), kf(5), kf(5), domain="", epsilon=0.01)
_angles = np.linspace(0, 3, 40).reshape(10, 4).astype(np.float32)
_turns = (Known(np.cos(_angles)), Known(np.sin(_angles)))
_places = np.array([[0, 1, 2], [7, 8, 9]])
for _interleaved in (0, 1):
    case("RotaryEmbedding", f(2, 3, 24), _places, *_turns, interleaved=_interleaved)
    case("RotaryEmbedding", f(2, 5, 3, 8), np.array([4]), *_turns, interleaved=_interleaved)
    _part = {"interleaved": _interleaved, "rotary_embedding_dim": 8, "num_heads": 2}
    case("RotaryEmbedding", f(2, 3, 24), _places, *_turns, **_part)


_NAMED = [pytest.param(c, id=f"{c.op_type}-{i}") for i, c in enumerate(CASES)]


@pytest.mark.parametrize("item", _NAMED)
def test_agrees_with_onnxruntime(item: Case) -> None:
    assert_agrees(*item.build())


@pytest.mark.parametrize("item", _NAMED)
def test_constants_alone_give_a_constant(item: Case) -> None:
    operands = tuple(Known(x) if isinstance(x, np.ndarray) else x for x in item.operands)
    model, _ = dataclasses.replace(item, operands=operands).build()
    assert all(isinstance(y, Constant) for y in import_onnx(model).outputs.values())
    assert_agrees(model, {})


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
