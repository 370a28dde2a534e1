"""Operators of ONNX Runtime that its optimizer leaves in float models: their definitions.

Operators of ONNX Runtime's own domain, and those that it has in the standard domain since before
ONNX had them.  A definition is written as a signature, with the attributes' defaults or types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from onnx.defs import OpSchema
from onnx.helper import make_attribute

MICROSOFT = "com.microsoft"
FLOAT, INT, INTS, FLOATS, STRING, STRINGS = (
    getattr(OpSchema.AttrType, name)
    for name in ("FLOAT", "INT", "INTS", "FLOATS", "STRING", "STRINGS")
)
_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"]


@dataclass(frozen=True)
class Required:
    """An attribute that every node has."""

    kind: OpSchema.AttrType


Value: TypeAlias = float | int | str | OpSchema.AttrType | Required
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

define(
    "Attention(input, weights, bias?, mask_index?, past?, attention_bias?, past_sequence_length?)"
    " -> output, present?",
    do_rotary=INT,
    mask_filter_value=FLOAT,
    num_heads=Required(INT),
    past_present_share_buffer=INT,
    qkv_hidden_sizes=INTS,
    rotary_embedding_dim=INT,
    scale=FLOAT,
    unidirectional=0,
)
define(
    "MultiHeadAttention(query, key?, value?, bias?, key_padding_mask?, attention_bias?, past_key?,"
    " past_value?, past_sequence_length?, cache_indirection?)"
    " -> output, present_key?, present_value?, qk?",
    mask_filter_value=FLOAT,
    num_heads=Required(INT),
    scale=FLOAT,
    unidirectional=0,
)
define(
    "GroupQueryAttention(query, key?, value?, past_key?, past_value?, seqlens_k,"
    " total_sequence_length, cos_cache?, sin_cache?, position_ids?, attention_bias?, head_sink?,"
    " k_scale?, v_scale?, q_norm_weight?, k_norm_weight?)"
    " -> output, present_key?, present_value?, output_qk?",
    causal=1,
    do_rotary=INT,
    k_quant_type="NONE",
    kv_cache_bit_width=INT,
    kv_num_heads=Required(INT),
    local_window_size=-1,
    num_heads=Required(INT),
    qk_norm_epsilon=1e-6,
    qk_output=0,
    rotary_interleaved=INT,
    scale=FLOAT,
    sliding_window_cache=0,
    smooth_softmax=-1,
    softcap=FLOAT,
    v_quant_type="NONE",
)
define(
    "RelativePositionBias(bias_table, query_length, key_length) -> output",
    is_bidirectional=0,
    max_distance=Required(INT),
)

_RESULTS = "output, mean?, inv_std_var?, input_skip_bias_sum?"
define(f"SkipLayerNormalization(input, skip, gamma, beta?, bias?) -> {_RESULTS}", epsilon=1e-12)
define(f"SkipSimplifiedLayerNormalization(input, skip, gamma, bias?) -> {_RESULTS}", epsilon=1e-12)
define(
    "EmbedLayerNormalization(input_ids, segment_ids?, word_embedding, position_embedding,"
    " segment_embedding?, gamma, beta, mask?, position_ids?)"
    " -> output, mask_index?, embedding_sum?",
    epsilon=1e-12,
    mask_index_type=INT,
)
define("BiasAdd(X, bias, skip) -> Y")
define("BiasSplitGelu(X, bias) -> Y")
define("BiasSoftmax(data, bias) -> output", axis=1, is_inner_broadcast=Required(INT))
_GROUPS: Mapping[str, Value] = {
    "activation": Required(INT),
    "channels_last": 1,
    "epsilon": 1e-5,
    "groups": Required(INT),
}
define("GroupNorm(X, gamma, beta) -> Y", MICROSOFT, **_GROUPS)
define("SkipGroupNorm(X, gamma, beta, skip, bias?) -> Y, S?", MICROSOFT, **_GROUPS)

define("TransposeMatMul(A, B) -> Y", alpha=1.0, transA=0, transB=0)
define("FusedMatMul(A, B) -> Y", alpha=1.0, transA=0, transB=0, transBatchA=0, transBatchB=0)
define(
    "FusedGemm(A, B, C?) -> Y",
    activation=STRING,
    activation_alpha=FLOAT,
    activation_beta=FLOAT,
    activation_gamma=FLOAT,
    alpha=1.0,
    beta=1.0,
    transA=0,
    transB=0,
)
define("GemmFastGelu(X, W, bias?) -> Y")
define(
    "FusedConv(X, W, B?, Z?) -> Y",
    activation=STRING,
    activation_params=FLOATS,
    auto_pad="NOTSET",
    dilations=INTS,
    group=1,
    kernel_shape=INTS,
    pads=INTS,
    strides=INTS,
)
define(
    "MatMulNBits(A, B, scales, zero_points?, g_idx?, bias?) -> Y",
    K=Required(INT),
    N=Required(INT),
    accuracy_level=0,
    bits=4,
    block_size=Required(INT),
    weight_prepacked=0,
)
