"""Every operator, in every opset that changed it, against ONNX Runtime (or ONNX's reference)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_cases_elementwise  # noqa: F401
import onnx_cases_places  # noqa: F401
import onnx_cases_products  # noqa: F401
import onnx_cases_recurrences  # noqa: F401
import onnx_cases_signals  # noqa: F401
import onnx_cases_windows  # noqa: F401
import pytest
from onnx_cases import (
    CASES,
    HISTORY,
    NEWEST,
    Case,
    Known,
)
from onnx_models import assert_agrees

from qcompiler.frontends.onnx import import_onnx
from qcompiler.frontends.onnx_codes import KEPT
from qcompiler.frontends.onnx_node import importers
from qcompiler.graph import Constant
from qcompiler.ops import FakeQuantize


@pytest.mark.parametrize(
    ("item", "opset"),
    [
        pytest.param(item, opset, id=f"{item.op_type}-{i}-opset{opset}")
        for i, item in enumerate(CASES)
        for opset in item.versions()
    ],
)
def test_agrees_with_an_independent_runtime(item: Case, opset: int) -> None:
    model, feeds = item.build(opset)
    assert_agrees(model, feeds)


@pytest.mark.parametrize(
    ("item", "opset"),
    [
        pytest.param(item, opset, id=f"{item.op_type}-{i}-opset{opset}")
        for i, item in enumerate(CASES)
        for opset in item.versions()[:1]
        if all(np.isfinite(x).all() for x in item.operands if isinstance(x, np.ndarray))
    ],
)
def test_constants_alone_give_a_constant(item: Case, opset: int) -> None:
    operands = tuple(Known(x) if isinstance(x, np.ndarray) else x for x in item.operands)
    model, _ = replace(item, operands=operands).build(opset)
    kept = FakeQuantize if item.op_type in KEPT else Constant
    assert all(isinstance(y, (Constant, kept)) for y in import_onnx(model).outputs.values())
    assert_agrees(model, {})


def test_every_importer_has_a_case() -> None:
    tested = {(c.op_type, v) for c in CASES for v in c.versions()}
    for op_type, forms in importers().items():
        if op_type in ("Shape", "Size", "DynamicQuantizeLinear") or op_type not in HISTORY:
            continue  # constants; and see test_onnx_integer.py and test_onnx_contrib.py
        if ("Sequence" in op_type and op_type != "ReverseSequence") or "Optional" in op_type:
            continue  # see test_onnx_sequences.py
        for since, following in zip(forms, (*forms[1:], NEWEST + 1), strict=True):
            assert any((op_type, v) in tested for v in range(since, following)), (op_type, since)
