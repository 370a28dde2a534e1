"""Which rule serves each op of whole networks: a fast path that is lost fails here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache, reduce
from pathlib import Path

import numpy as np
import pytest
from served import lowered, served
from simt_graphs import attention, normalization, product

from qcompiler import import_onnx, quantize
from qcompiler.backends.cpu.kernels import attention_rule, depthwise_rule, product_rule
from qcompiler.backends.tvm.problem import Epilogue
from qcompiler.backends.tvm.table import Pointwise
from qcompiler.graph import Graph, Op
from qcompiler.ops import (
    Add,
    Attention,
    Average,
    Cast,
    Clip,
    Composite,
    Exponentials,
    Maximum,
    Mul,
    NormalizeInteger,
    Reciprocal,
    Requantize,
    ShiftRight,
    Table,
)
from qcompiler.passes import LOWERING, Fuse, FuseAttention, PassManager

DIGITS = Path(__file__).parents[2] / "models" / "digits"
SERVED = {
    ("cnn", "cpu:cascadelake"): {
        "cpu product": 5,
        "cpu depthwise": 1,
        "cpu requantize": 2,
        "generic": "dequantize, max_pool, quantize, reduce_sum",
    },
    ("vit", "cpu:cascadelake"): {
        "cpu product": 26,
        "cpu attention": 4,
        "cpu normalization": 9,
        "generic": "concat, dequantize, quantize, requantize, slice",
    },
    ("gru", "cpu:cascadelake"): {
        "cpu product": 16,
        "cpu requantize": 8,
        "generic": "dequantize, quantize, requantize_cast_requantize_table, slice, table",
    },
    ("lstm", "cpu:cascadelake"): {
        "cpu product": 16,
        "cpu requantize": 9,
        "generic": "cast_requantize_table_cast, cast_table_cast_mul, dequantize, quantize, slice, "
        "table",
    },
    ("cnn", "cuda:sm_80"): {
        "cuda product": 5,
        "cuda pixels": 3,
        "cuda elements": 2,
        "generic": "dequantize, quantize",
    },
    ("vit", "cuda:sm_80"): {
        "cuda product": 26,
        "cuda attention": 4,
        "cuda rows": 9,
        "cuda elements": 1,
        "generic": "concat, dequantize, quantize, slice",
    },
    ("gru", "cuda:sm_80"): {
        "cuda product": 16,
        "cuda elements": 10,
        "generic": "dequantize, quantize, slice",
    },
    ("lstm", "cuda:sm_80"): {
        "cuda product": 16,
        "cuda elements": 18,
        "generic": "dequantize, quantize, slice",
    },
}
"""Network and target → how many ops a rule serves; what is left to the generic kernel."""

ENDS = {
    "cnn": {"vector": 2, "codes": 1, "scalar": 3},
    "vit": {"vector": 16, "codes": 4, "scalar": 10},
    "gru": {"codes": 7, "scalar": 9},
    "lstm": {"codes": 7, "scalar": 9},
}
"""Network → how products and attention end on CPUs: requantized on vectors, with a table that is
looked up by such codes, or (shifts below 32, more than one requantization) by the ops' own form."""


@cache
def network(name: str) -> Graph:
    (samples, *_) = np.load(DIGITS / "calib.npz").values()
    graph = import_onnx(DIGITS / f"{name}.onnx")
    return PassManager(LOWERING)(quantize(graph, {str(graph.inputs[0].name): samples[:16]}))


@pytest.mark.parametrize(("name", "chosen"), SERVED)
def test_rules_that_serve(name: str, chosen: str) -> None:
    assert served(lowered(network(name), chosen)) == SERVED[name, chosen]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How the epilogues end that rules make from now on."""
    found: list[str] = []
    for module in (product_rule, depthwise_rule, attention_rule):
        monkeypatch.setattr(module, "vector_end", spy(module.vector_end, found))
    return found


@pytest.mark.parametrize("name", ENDS)
def test_ends_of_products(name: str, ends: list[str]) -> None:
    lowered(network(name), "cpu:cascadelake")
    assert Counter(ends) == ENDS[name]


GRAPHS: dict[str, Callable[[], Graph]] = {
    "product": lambda: product((5, 64), 32),
    "normalization": lambda: normalization((5, 64)),
    "attention": lambda: attention((20, 37), (16, 48), mask=(20, 37)),
}
COMPOSITES = (Attention, Average, Exponentials, NormalizeInteger, Reciprocal, Requantize, Table)


@pytest.mark.parametrize("chosen", ["cpu:cascadelake", "cuda:sm_80"])
@pytest.mark.parametrize("name", GRAPHS)
def test_no_rule_looks_into_bodies(name: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def longer(body: Callable[[Composite], Op]) -> Callable[[Composite], Op]:
        return lambda self: Maximum(body(self), body(self))

    for kind in COMPOSITES:
        monkeypatch.setattr(kind, "body", longer(kind.body))
    program = lowered(Fuse()(FuseAttention()(GRAPHS[name]())), chosen)
    rows = "cuda rows" if name == "normalization" and "cuda" in chosen else None
    expected = rows or f"{chosen.partition(':')[0]} {name}"
    assert [k.implementation for k in program.kernels] == [expected]


@pytest.mark.parametrize(("end", "way"), [("uint8", "vector"), ("int8", "codes")])
def test_epilogues_see_composites_and_not_their_bodies(
    end: str, way: str, ends: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(self: Requantize) -> Op:
        terms = zip(self.multipliers, self.inputs, strict=True)
        products = [Mul(Cast(m, "int64"), Cast(x, "int64")) for m, x in terms]
        total = ShiftRight(reduce(Add, products, self.offset), self.amount)
        return Cast(Clip(total, *self.limits), self.quantization.bounds.dtype)

    monkeypatch.setattr(Requantize, "body", body)
    lowered(Fuse()(product((5, 64), 32, end=end)), "cpu:cascadelake")
    assert ends == [way]


def spy(form: Callable[..., Epilogue], ends: list[str]) -> Callable[..., Epilogue]:
    def made(end: Pointwise, **options: bool) -> Epilogue:
        found = form(end, **options)
        ways = {"vector": found.vector, "codes": found.table and found.table.codes}
        ends.append(next((way for way, form in ways.items() if form is not None), "scalar"))
        return found

    return made
