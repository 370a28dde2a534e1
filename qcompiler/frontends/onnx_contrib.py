"""Operators of ONNX Runtime that its optimizer leaves in float models: their definitions."""

from __future__ import annotations

from collections.abc import Mapping

from onnx.defs import OpSchema
from onnx.helper import make_attribute

_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"]


def _schema(
    name: str, domain: str, inputs: tuple[str, ...], attributes: Mapping[str, float | int]
) -> OpSchema:
    return OpSchema(
        name,
        domain,
        1,
        inputs=[OpSchema.FormalParameter(x, "T") for x in inputs],
        outputs=[OpSchema.FormalParameter("Y", "T")],
        type_constraints=[("T", _FLOATS, "")],
        attributes=[OpSchema.Attribute(k, make_attribute(k, v)) for k, v in attributes.items()],
    )


SCHEMAS: Mapping[tuple[str, str], OpSchema] = {
    ("", "SimplifiedLayerNormalization"): _schema(
        "SimplifiedLayerNormalization",
        "",
        ("X", "scale"),
        {"axis": -1, "epsilon": 1e-5, "stash_type": 1},
    ),
    ("com.microsoft", "QuickGelu"): _schema("QuickGelu", "com.microsoft", ("X",), {"alpha": 1.702}),
}
"""(domain, operator) → its definition; the importers are beside those of standard operators."""
