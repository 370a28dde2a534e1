"""Operators of ONNX Runtime that its optimizer leaves in float models: their definitions.

Operators of ONNX Runtime's own domain, and those that it has in the standard domain since before
ONNX had them.  A definition is written as a signature, with the attributes' defaults or types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from onnx.defs import OpSchema
from onnx.helper import make_attribute

MICROSOFT = "com.microsoft"
FLOAT, INT, INTS, FLOATS, STRING = (
    getattr(OpSchema.AttrType, name) for name in ("FLOAT", "INT", "INTS", "FLOATS", "STRING")
)
_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"]


@dataclass(frozen=True)
class Required:
    """An attribute that every node has."""

    kind: OpSchema.AttrType


Value = float | int | str | OpSchema.AttrType | Required
"""An attribute's default, or its type where there is none."""

SCHEMAS: dict[tuple[str, str], OpSchema] = {}
"""(domain, operator) → its definition; the importers are beside those of standard operators."""


def define(signature: str, domain: str = MICROSOFT, **attributes: Value) -> None:
    """Add a definition: `Name(operand, optional?, several*) -> result, optional?`."""
    match = re.fullmatch(r"(\w+)\((.*)\) -> (.*)", signature)
    assert match
    name, operands, results = match[1], match[2].split(", "), match[3].split(", ")
    SCHEMAS[domain, name] = OpSchema(
        name,
        domain,
        1,
        inputs=[_parameter(x) for x in operands],
        outputs=[_parameter(y) for y in results],
        type_constraints=[("T", _FLOATS, "")],
        attributes=[_attribute(k, v) for k, v in attributes.items()],
    )


def _parameter(text: str) -> OpSchema.FormalParameter:
    options = OpSchema.FormalParameterOption
    option = {"?": options.Optional, "*": options.Variadic}.get(text[-1], options.Single)
    return OpSchema.FormalParameter(text.rstrip("?*"), "T", param_option=option)


def _attribute(name: str, value: Value) -> OpSchema.Attribute:
    if isinstance(value, Required):
        return OpSchema.Attribute(name, value.kind, "", required=True)
    if isinstance(value, OpSchema.AttrType):
        return OpSchema.Attribute(name, value, "", required=False)
    return OpSchema.Attribute(name, make_attribute(name, value))


_STATISTICS: Mapping[str, Value] = {"axis": -1, "epsilon": 1e-5, "stash_type": 1}
define("SimplifiedLayerNormalization(X, scale) -> Y, inv_std_var?", "", **_STATISTICS)
define("LayerNormalization(X, Scale, B?) -> Y, Mean?, InvStdDev?", "", **_STATISTICS)

define("BiasGelu(A, B) -> C")
define("FastGelu(X, bias?) -> Y")
define("Gelu(X) -> Y")
define("QuickGelu(X) -> Y", alpha=1.702)

define(
    "RotaryEmbedding(input, position_ids, cos_cache, sin_cache) -> output",
    interleaved=INT,
    is_packed_batching=INT,
    num_heads=INT,
    rotary_embedding_dim=INT,
    scale=FLOAT,
)
