"""Every operator, in every opset that changed it, against ONNX Runtime (or ONNX's reference)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_cases import (
    CASES,
    HISTORY,
    NEWEST,
    RNG,
    Case,
    Known,
    bools,
    case,
    codes,
    f,
    k,
    kc,
    kf,
    positive,
    s,
)
from onnx_models import assert_agrees

from qcompiler.frontends.onnx import import_onnx
from qcompiler.frontends.onnx_codes import KEPT
from qcompiler.frontends.onnx_node import importers
from qcompiler.graph import Constant
from qcompiler.ops import FakeQuantize

# Elementwise
for _name in ("Abs", "Erf", "Exp", "HardSwish", "Relu", "Sigmoid", "Tanh", "Neg", "Identity"):
    case(_name, 3 * f(2, 3, 5))
for _name in ("Log", "Sqrt", "Reciprocal"):
    case(_name, positive(4, 3))
case("Elu", f(5), alpha=0.7)
case("Elu", f(5))
case("LeakyRelu", f(5), alpha=0.2)
case("LeakyRelu", f(5))
case("HardSigmoid", 4 * f(9), alpha=0.3, beta=0.4)
case("HardSigmoid", 4 * f(9))
for _form in ("none", "tanh"):
    case("Gelu", 3 * f(2, 9), approximate=_form)
case("Gelu", 3 * f(9))
for _name in ("Mish", "Selu", "Softplus", "Softsign"):
    case(_name, 4 * f(2, 9))
case("Softplus", np.array([-200, 200], np.float32))
case("Selu", 3 * f(9), alpha=1.5, gamma=0.8)
case("Celu", 3 * f(9))
case("Celu", 3 * f(9), alpha=0.4)
case("Swish", 3 * f(9))
case("Swish", 3 * f(9), alpha=1.702)
for _name in ("Add", "Sub", "Mul", "Div"):
    case(_name, f(2, 3, 4), positive(2, 3, 4))
    case(_name, f(2, 3, 4), Known(positive(3, 1)))
    case(_name, kf(5), Known(positive(2, 5)))
    case(_name, f(3, 1), positive(4))
for _exponent in (-1, -0.5, 0.5, 1, 2, 3, 4, 0, 1.7, -3):
    case("Pow", positive(2, 3), s(_exponent))
case("Pow", f(2, 3), s(2))
case("Pow", f(2, 3), s(5))
case("Pow", f(3), Known(np.full((2, 1), 2, np.float32)))
case("Pow", positive(2, 3), kf(3))
case("Pow", positive(2, 3), f(2, 3))
case("Pow", positive(2, 3), RNG.integers(-2, 3, (3,)), since=12)
_bases = RNG.integers(-4, 5, (2, 3))
for _power in (Known(np.array(3)), Known(np.array(0)), RNG.integers(0, 4, (2, 3))):
    case("Pow", _bases, _power, since=12, result=TensorProto.INT64)
case("Pow", np.array([1, 2, 3], np.int32), s(2.5), since=12, result=TensorProto.INT32)
for _name in ("Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Asinh"):
    case(_name, f(2, 9))
for _name in ("Asin", "Acos", "Atanh"):
    case(_name, np.tanh(f(9)))
case("Acosh", 1 + positive(9))
for _name in ("Ceil", "Floor", "Round", "Sign"):
    case(_name, np.array([0.5, 1.5, 2.5, -0.5, -1.5, 3.2, -3.2, 0, 7], np.float32))
for _name in ("Abs", "Neg", "Sign"):
    case(_name, RNG.integers(-9, 9, (2, 9)), since=9, result=TensorProto.INT64)
case("Relu", RNG.integers(-9, 9, 9, np.int32), since=14, result=TensorProto.INT32)
case("PRelu", f(2, 3, 4), f(2, 3, 4))
case("PRelu", f(2, 3, 4), kf(3, 1), since=9)
case("PRelu", f(2, 3, 4), Known(np.array([0.25], np.float32)), since=9)
case("ThresholdedRelu", 2 * f(3, 5))
case("ThresholdedRelu", 2 * f(3, 5), alpha=0.5)
case("Shrink", 2 * f(3, 5))
case("Shrink", 2 * f(3, 5), bias=1.5, lambd=0.75)
for _name in ("Min", "Max", "Sum", "Mean"):
    case(_name, f(2, 3))
    case(_name, f(2, 3), f(2, 3), kf(2, 3))
    case(_name, f(2, 3), f(3), kf(1, 1), since=8)
case("Clip", 3 * f(9), min=-1.0, max=0.5, until=10)
case("Clip", 3 * f(9), min=0.25, until=10)
case("Clip", 3 * f(9), until=10)
case("Clip", 3 * f(9), s(-1), s(0.5), since=11)
case("Clip", 3 * f(9), None, s(0.5), since=11)
case("Clip", 3 * f(9), s(0), since=11)
case("Clip", 3 * f(9), s(-np.inf), s(np.inf), since=11)
case("Clip", 3 * f(9), np.array(-0.5, np.float32), None, since=11)
case("Clip", 3 * f(9), np.array(-0.5, np.float32), s(0.1), since=11)
case("Clip", 3 * f(9), s(0.5), s(-0.5), since=12)
case("Clip", RNG.integers(-9, 9, 20), k(-3), k(4), since=12, result=TensorProto.INT64)
case("Dropout", f(3, 3), ratio=0.3, until=11)
case("Dropout", f(3, 3), s(0.3), since=12)
case("Dropout", f(3, 3), s(0.3), Known(np.array(False)), since=12)
case("Cast", f(2, 3), to=TensorProto.FLOAT)
case("Cast", RNG.integers(-9, 9, (2, 3)), to=TensorProto.FLOAT)
case("Cast", RNG.integers(0, 255, (2, 3), np.uint8), to=TensorProto.FLOAT)
case("Cast", Known(np.array([2.7, -2.7], np.float32)), to=TensorProto.INT64, result=7)
case("CastLike", RNG.integers(-9, 9, (2, 3)), s(0))

# Comparisons, logic and choice
_values = RNG.integers(-2, 3, (4, 5)), RNG.integers(-2, 3, (4, 5))
for _name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
    case(_name, *_values, result=TensorProto.BOOL, since=9)
    case(_name, _values[0], Known(np.array(0)), result=TensorProto.BOOL, since=11)
    for _dtype in (np.int32, np.float32):
        operands = (x.astype(_dtype) for x in _values)
        case(_name, *operands, result=TensorProto.BOOL, since=11)
_infinities = np.array([0, np.nan, np.inf, -np.inf, 3e38], np.float32)
for _signs in ((1, 1), (1, 0), (0, 1), (0, 0)):
    case(
        "IsInf",
        _infinities,
        detect_positive=_signs[0],
        detect_negative=_signs[1],
        result=TensorProto.BOOL,
    )

# Integers
for _dtype in (np.int32, np.int64, np.uint8):
    _element = helper.np_dtype_to_tensor_dtype(np.dtype(_dtype))
    _low = 0 if _dtype == np.uint8 else -20
    _a, _b = RNG.integers(_low, 20, (4, 9)).astype(_dtype), RNG.integers(1, 7, 9).astype(_dtype)
    for _divisors in (_b, Known(_b), -_b if _low else _b):
        case("Div", _a, _divisors, result=_element, since=14)
        for _fmod in (0, 1):
            case("Mod", _a, _divisors, fmod=_fmod, result=_element)
    for _name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        case(_name, _a, _b, result=_element)
    case("BitwiseNot", _a, result=_element)
case("Mod", 3 * f(40), positive(40), fmod=1)
case("Mod", 3 * f(2, 40), Known(np.array(-0.75, np.float32)), fmod=1)
for _dtype in (np.uint8, np.uint32):
    _element = helper.np_dtype_to_tensor_dtype(np.dtype(_dtype))
    _a = RNG.integers(0, np.iinfo(_dtype).max, 20).astype(_dtype)
    for _direction in ("LEFT", "RIGHT"):
        for _places in (RNG.integers(0, 8, 20).astype(_dtype), Known(np.array(3, _dtype))):
            case("BitShift", _a, _places, direction=_direction, result=_element)

for _name in ("And", "Or", "Xor", "Equal"):
    case(_name, bools(2, 9), bools(9), result=TensorProto.BOOL)
for _name in ("Equal", "Greater", "Less"):
    operands = (x.astype(np.int32 if _name == "Equal" else np.float32) for x in _values)
    case(_name, *operands, result=TensorProto.BOOL)
case("Not", bools(2, 9), result=TensorProto.BOOL)
case("IsNaN", np.array([0, np.nan, np.inf], np.float32), result=TensorProto.BOOL)
for _name in ("GreaterOrEqual", "LessOrEqual"):
    case(_name, *(Known(x) for x in _values), result=TensorProto.BOOL)
case("Where", bools(3, 1), f(2, 3, 4), f(4))
case("Where", bools(3, 4), f(3, 4), s(-3))
case("Where", bools(9), *(RNG.integers(-9, 9, 9) for _ in range(2)), result=TensorProto.INT64)
case("Where", bools(2, 9), bools(9), bools(2, 1), result=TensorProto.BOOL)
for _element, _source in (
    (TensorProto.FLOAT, bools(2, 3)),
    (TensorProto.INT64, bools(2, 3)),
    (TensorProto.INT64, RNG.integers(-9, 9, 6, np.int32)),
    (TensorProto.INT32, RNG.integers(-9, 9, 6)),
    (TensorProto.BOOL, RNG.integers(-1, 2, 6)),
    (TensorProto.INT64, 9 * f(9)),
    (TensorProto.INT8, 9 * f(9)),
    (TensorProto.BOOL, RNG.integers(-1, 2, 6).astype(np.float32)),
):
    case("Cast", _source, to=_element, result=_element)

# Products, normalization, softmax
case("MatMul", f(2, 3), kf(3, 4))
case("MatMul", f(2, 1, 3, 5), f(4, 5, 2))
case("MatMul", f(3), kf(3, 4))
case("MatMul", f(2, 3), kf(3))
case("MatMul", f(2, 4, 3), f(3))
case("MatMul", f(3), f(2, 3, 4))
case("MatMul", f(3), f(3))
case("Gemm", f(2, 3), kf(3, 4), kf(4))
case("Gemm", f(2, 3), kf(4, 3), kf(1, 4), transB=1, alpha=0.5, beta=2.0)
case("Gemm", f(3, 2), f(4, 3), f(4), transA=1, transB=1, alpha=1.5, beta=0.0)
case("Gemm", f(3, 2), f(3, 4), f(2, 1), transA=1, alpha=-1.0, beta=0.25)
case("Gemm", f(2, 3), kf(3, 4), s(0.5))
case("Gemm", f(2, 3), kf(3, 4), since=11)
for _shape in ((2, 3), (2, 3, 4), (2, 3, 4, 5)):
    _parameters = (kf(3), kf(3), kf(3), Known(positive(3)))
    case("BatchNormalization", f(*_shape), *_parameters, epsilon=1e-3)
for _axis in (1, -1):
    case("LayerNormalization", 3 * f(2, 3, 4), Known(positive(4)), kf(4), axis=_axis)
case("LayerNormalization", f(2, 3, 4), kf(3, 4), axis=1, epsilon=0.1, stash_type=1)
case("LayerNormalization", f(2, 3, 4), kf(2, 3, 4), f(3, 4), axis=0)
case("LayerNormalization", 3 * f(2, 3, 4), kf(4), kf(4), outputs=3)
case("LayerNormalization", 3 * f(2, 3, 4), kf(3, 4), axis=1, outputs=3)
for _axis in (0, 1, -1):
    case("RMSNormalization", f(3, 3, 3), kf(3), axis=_axis, epsilon=0.01)
case("RMSNormalization", f(2, 3, 4), kf(3, 4), axis=1)
for _sizes in ((2, 4, 5), (2, 4, 3, 5)):
    case("InstanceNormalization", f(*_sizes), kf(4), kf(4), epsilon=1e-3)
    for _groups in (1, 2, 4):
        case("GroupNormalization", f(*_sizes), kf(4), kf(4), num_groups=_groups, since=21)
case("MeanVarianceNormalization", f(2, 3, 4, 5), axes=[0, 2, 3])
case("MeanVarianceNormalization", f(2, 3, 4), axes=[1])
for _axis in (0, -1):
    case("LpNormalization", f(3, 4) * (np.arange(4) > 0), axis=_axis)
    case("LpNormalization", np.diag([0, 1, 1]).astype(np.float32), axis=_axis, p=2)

# Attention and sums of products
_heads = (f(2, 4, 3, 8), f(2, 4, 5, 8), f(2, 4, 5, 6))
_packed = (f(2, 3, 32), f(2, 5, 32), f(2, 5, 24))
_seen = np.array([[1, 1, 0, 1, 0], [1, 0, 1, 0, 0], [1, 1, 1, 1, 1]]) > 0
case("Attention", *_heads)
case("Attention", *_heads, scale=0.5, is_causal=1)
case("Attention", *_packed, q_num_heads=4, kv_num_heads=4)
case("Attention", f(2, 4, 3, 8), f(2, 2, 5, 8), f(2, 2, 5, 6))
case("Attention", f(2, 3, 32), f(2, 5, 16), f(2, 5, 12), q_num_heads=4, kv_num_heads=2)
case("Attention", *_heads, _seen)
case("Attention", *_heads, Known(_seen), is_causal=1)
case("Attention", *_heads, Known(np.where(_seen, f(2, 1, 3, 5), -np.inf)))
case("Attention", *_heads, f(3, 5), is_causal=1)
case("Attention", *_heads, softcap=2.0)
_grouped = (f(2, 4, 3, 8), f(2, 2, 2, 8), f(2, 2, 2, 6))
_past = (f(2, 2, 3, 8), f(2, 2, 3, 6))
case("Attention", *_grouped, None, *_past, outputs=3, is_causal=1)
case("Attention", *_grouped, f(2, 1, 3, 5), *_past, outputs=3)
case("Attention", *_grouped, _seen, *_past, outputs=3)
for _mode in range(4):
    case("Attention", *_heads, f(3, 5), outputs=4, softcap=2.0, qk_matmul_output_mode=_mode)
_counts = np.array([2, 5])
for _causal in (0, 1):
    case("Attention", *_heads, None, None, None, _counts, since=24, is_causal=_causal)
_lengths = (f(4, 3, 4), None, None, Known(_counts))
case("Attention", *_heads, *_lengths, since=25, left_window_size=1, right_window_size=1)
case("Attention", *_heads, None, None, None, _counts, since=25, left_window_size=2, is_causal=1)
_angles = np.linspace(0, 3, 40).reshape(10, 4).astype(np.float32)
_turns = (Known(np.cos(_angles)), Known(np.sin(_angles)))
_places = np.array([[0, 1, 2], [7, 8, 9]])
for _interleaved in (0, 1):
    case("RotaryEmbedding", f(2, 4, 3, 8), *_turns, _places, interleaved=_interleaved)
    case("RotaryEmbedding", f(2, 3, 40), *_turns, Known(_places), num_heads=5)
    _part = {"interleaved": _interleaved, "rotary_embedding_dim": 8, "num_heads": 2}
    case("RotaryEmbedding", f(2, 3, 24), *_turns, _places, **_part)
    _each = (f(2, 3, 4), f(2, 3, 4))
    case("RotaryEmbedding", f(2, 4, 3, 8), *_each, interleaved=_interleaved)
_qkv = (f(2, 3, 16), f(2, 3, 8), f(2, 3, 12))
_decays = (-positive(2, 3, 2), -positive(2, 3, 8))
_recurrent: dict[str, Any] = {"q_num_heads": 4, "kv_num_heads": 2, "outputs": 2}
case("LinearAttention", *_qkv, update_rule="linear", **_recurrent)
case("LinearAttention", *_qkv, f(2, 2, 4, 6), update_rule="linear", scale=0.7, **_recurrent)
for _decay in _decays:
    case("LinearAttention", *_qkv, None, _decay, update_rule="gated", **_recurrent)
for _beta in (positive(2, 3, 2), positive(2, 3, 1)):
    case("LinearAttention", *_qkv, None, None, _beta, update_rule="delta", **_recurrent)
    case("LinearAttention", *_qkv, f(2, 2, 4, 6), _decays[1], _beta, **_recurrent)
case("CausalConvWithState", f(2, 3, 5), kf(3, 1, 4), outputs=2)
case("CausalConvWithState", f(2, 3, 1), kf(3, 1, 4), kf(3), f(2, 3, 3), outputs=2)
case("CausalConvWithState", f(2, 3, 5), kf(3, 1, 1), outputs=2, activation="silu")
case("Einsum", f(2, 3), f(3, 4), equation="ij,jk->ik")
case("Einsum", f(2, 3), f(3, 4), equation="ij , jk")
case("Einsum", f(2, 5, 3), kf(3, 2, 4), equation="bsd,dhk->bshk")
case("Einsum", f(2, 5, 3, 4), f(2, 6, 3, 4), equation="bqhd,bkhd->bhqk")
case("Einsum", f(2, 3, 5, 6), f(2, 6, 3, 4), equation="bhqk,bkhd->bqhd")
case("Einsum", f(2, 3, 4), f(2, 3, 5, 4), equation="bhd,bhkd->bkh")
case("Einsum", f(3), f(4), equation="i,j->ij")
case("Einsum", f(2, 3), f(3, 2), equation="ij,ji->")
case("Einsum", f(2, 3, 4), f(3), equation="bcd,c->bcd")
case("Einsum", f(2, 3, 4, 5), kf(5, 6), equation="...ij,jk->...ik")
case("Einsum", f(3, 3), f(3), equation="ii,i->i")
case("Einsum", f(2, 3, 3), equation="...ii->...i")
case("Einsum", f(3, 3), equation="ii")
case("Einsum", f(2, 3), equation="ij->j")
case("Einsum", f(2, 3), f(3), equation="ij,j->j")
case("Einsum", f(3), f(3), kf(3), equation="i,i,i->i")
case("Einsum", f(2, 3), f(3, 4), f(4, 2), equation="ij,jk,kl->il")
case("Einsum", f(5, 2, 3), f(5, 4), f(4, 3), equation="bij,bk,kj->bi")
case("Einsum", f(2, 1, 3), f(1, 4, 3), equation="abc,abc->ab")
case("Einsum", f(3, 1, 2), f(1, 4, 2), equation="...i,...i->...")
case("Einsum", f(3, 2), equation="...->...")
case("Einsum", f(2, 3, 4, 5, 6), f(4, 2), equation="abcde,ca->dbe")
for _name in ("Softmax", "LogSoftmax", "Hardmax"):
    for _axis in (0, 1, 2, 3):
        case(_name, f(2, 3, 4, 5), axis=_axis)
    case(_name, f(2, 3, 4))
    case(_name, f(2, 3, 4), axis=-2, since=11)
    case(_name, f(7), axis=0)
case("LogSoftmax", np.array([[0, 1, 2, 3], [1e4, 10001, 10002, 10003]], np.float32))

# Means and global pooling
for _sizes in ((2, 3, 4), (2, 3, 4, 5), (1, 2, 3, 2, 2)):
    case("GlobalAveragePool", f(*_sizes))
    case("GlobalMaxPool", f(*_sizes))
for _name in (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
):  # fmt: skip
    _operand = 13 if _name == "ReduceSum" else 18
    for _keep in (0, 1):
        case(_name, positive(2, 3, 4), axes=[1], keepdims=_keep, until=_operand - 1)
        case(_name, positive(2, 3, 4), keepdims=_keep)
        case(_name, positive(2, 3, 4), k(-1, 0), keepdims=_keep, since=_operand)
    case(_name, positive(2, 3, 4), axes=[2, -3], since=11, until=_operand - 1)
    case(_name, positive(2, 3, 4), k(), keepdims=0, since=_operand)
    # ONNX's reference, the only one to know opset 28, takes no scalar here.
    case(_name, positive(), keepdims=0, until=27 if _name == "ReduceLogSumExp" else NEWEST)
    if "Log" not in _name:
        _integers = RNG.integers(-4, 9, (2, 3, 4)).astype(np.int32)
        case(_name, _integers, axes=[1], until=_operand - 1, result=TensorProto.INT32)
        case(_name, _integers, k(0, 2), since=_operand, result=TensorProto.INT32)
    if _name in ("ReduceMax", "ReduceMean", "ReduceSum"):
        case(_name, f(2, 3, 4), noop_with_empty_axes=1, since=_operand)
        case(_name, f(2, 3, 4), k(), noop_with_empty_axes=1, since=_operand)
for _name in ("ReduceMax", "ReduceMin"):
    case(_name, bools(2, 3), k(1), since=20, result=TensorProto.BOOL)
case("ReduceProd", f(5, 7), k(1), since=18)

# Same elements, other shape or order
case("Reshape", f(2, 3, 4), k(4, 6))
case("Reshape", f(2, 3, 4), k(0, -1))
case("Reshape", f(2, 3, 4), k(-1))
case("Reshape", f(2, 3, 4), k(2, -1, 0), allowzero=0, since=14)
case("Reshape", f(2, 3, 4), k(3, 8), allowzero=1, since=14)
for _axis in (0, 1, 2, 3):
    case("Flatten", f(2, 3, 4), axis=_axis)
case("Flatten", f(2, 3, 4))
case("Flatten", f(2, 3, 4), axis=-1, since=11)
case("Transpose", f(2, 3, 4))
case("Transpose", f(2, 3, 4), perm=[1, 2, 0])
case("Transpose", f(2, 3, 4), perm=[0, 1, 2])
case("Squeeze", f(1, 3, 1, 2), axes=[0, 2], until=12)
case("Squeeze", f(1, 3, 1, 2), axes=[-2], since=11, until=12)
case("Squeeze", f(1, 3, 1, 2))
case("Squeeze", f(1, 3, 1, 2), k(-2, 0), since=13)
case("Unsqueeze", f(3, 2), axes=[0, 3], until=12)
case("Unsqueeze", f(3, 2), axes=[-1], since=11, until=12)
case("Unsqueeze", f(3, 2), k(2, 0), since=13)
case("Unsqueeze", f(3, 2), k(-1), since=13)
case("Expand", f(3, 1), k(2, 1, 4))
case("Expand", f(3, 1), k(1))
case("Tile", f(2, 3), k(2, 4))
case("Tile", f(2, 3), k(1, 1))
case("Tile", RNG.integers(0, 9, (2, 1, 3)), k(1, 3, 2), result=TensorProto.INT64)
case("DepthToSpace", f(2, 12, 2, 3), blocksize=2)
for _mode in ("DCR", "CRD"):
    case("DepthToSpace", f(2, 12, 2, 3), blocksize=2, mode=_mode, since=11)
    case("SpaceToDepth", f(2, 3, 4, 6), blocksize=2, mode=_mode, since=28)
case("SpaceToDepth", f(2, 3, 4, 6), blocksize=2)

# Parts
case("Concat", f(2, 3), kf(2, 1), f(2, 2), axis=1)
case("Concat", f(2, 3), f(1, 3), axis=-2, since=11)
case("Split", f(6, 2), axis=0, outputs=3, until=17)
case("Split", f(2, 6), axis=1, split=[1, 2, 3], outputs=3, until=12)
case("Split", f(2, 6), k(4, 2), axis=-1, outputs=2, since=13)
case("Split", f(7, 2), num_outputs=3, outputs=3, since=18)
case("Split", f(6, 2), axis=0, num_outputs=2, outputs=2, since=18)
case("Slice", f(4, 5), starts=[1, -3], ends=[3, 9999], until=9)
case("Slice", f(4, 5), starts=[0], ends=[-1], axes=[1], until=9)
case("Slice", f(4, 5), k(1, -3), k(3, 2**63 - 1), since=10)
case("Slice", f(4, 5), k(-9), k(4), k(-1), k(2), since=10)
case("Slice", f(4, 5), k(3), k(1), k(0), since=10)
case("Slice", f(4, 5), k(-1, 3), k(-9, 0), k(0, 1), k(-1, -2), since=10)
case("CenterCropPad", f(4, 5, 6), k(7, 2, 6))
case("CenterCropPad", f(4, 5, 6), k(7, 8), axes=[-1, 0])
case("Slice", f(4, 5), k(0, 1), k(4, 5), k(1, 0), since=10)
case("Pad", f(2, 3), pads=[1, 0, 2, 1], value=0.5, until=10)
case("Pad", f(2, 3), pads=[0, -1, 0, 2], until=10)
case("Pad", f(2, 3), k(1, 0, 2, 1), s(0.5), since=11)
for _mode in ("edge", "reflect"):
    case("Pad", f(3, 4), pads=[1, -1, 2, 2], mode=_mode, until=10)
    case("Pad", f(3, 4), k(1, 0, 2, 1), mode=_mode, since=11)
case("Pad", f(2, 3), k(3, 1), None, k(-1), mode="wrap", since=19)
case("Pad", bools(3, 4), k(1, 0, 2, 1), mode="edge", result=TensorProto.BOOL, since=13)
case("Pad", f(2, 3), k(0, 0, -1, -1), since=11)
case("Pad", f(2, 3, 4), k(1, 2), None, k(-1), since=18)
case("Pad", f(2, 3, 4), k(0, 0, 0, 0, 0, 0), since=11)
case("Gather", f(2, 3, 4), Known(np.array(1)), axis=1)
case("Gather", f(2, 3, 4), Known(np.array(-1)), axis=2, since=11)
case("Gather", f(6, 2), k(1, 2, 3), axis=0)
case("Gather", f(6, 2), k(0, 2, 4))
case("Gather", f(2, 6), Known(np.array([[1, 2], [3, 4]], np.int32)), axis=1)
case("Gather", f(2, 6), k(1, 0, 3), axis=1)
for _dtype in (np.int32, np.int64):
    case("Gather", kf(6, 2), RNG.integers(0, 6, (3, 4), _dtype))
    case("Gather", kf(2, 6, 3), RNG.integers(0, 6, (3, 4), _dtype), axis=1)
    case("Gather", f(2, 6), RNG.integers(-6, 0, (4,), _dtype), axis=-1, since=11)
case("Gather", bools(6, 2), RNG.integers(0, 6, 4), result=TensorProto.BOOL)
case("GatherElements", f(70, 3), RNG.integers(-3, 3, (70, 2)), axis=1)
case("GatherElements", f(4, 2, 3), RNG.integers(0, 4, (5, 2, 2), np.int32))
case("GatherElements", bools(9), RNG.integers(0, 9, 20), result=TensorProto.BOOL)
case("GatherElements", kf(70, 3), Known(RNG.integers(-3, 3, (70, 2))), axis=1)
case("GatherElements", kf(70, 3), Known(RNG.integers(0, 70, (2, 3))))
_tuples = Known(np.array([[[0, 1], [2, -1]], [[-3, 0], [0, 0]]]))
case("GatherND", f(3, 4, 2), _tuples)
case("GatherND", f(3, 4), _tuples)
case("GatherND", f(3, 4), _tuples.array)
case("GatherND", f(2, 3, 4, 5), RNG.integers(-3, 3, (2, 6, 2)), batch_dims=1, since=12)
case("GatherND", f(2, 3, 4), RNG.integers(0, 4, (2, 3, 1)), batch_dims=2, since=12)
for _lengths in (np.array([3, 0, 1]), Known(np.array([4, 2, 3]))):
    case("ReverseSequence", f(3, 4, 2), _lengths, batch_axis=0, time_axis=1)
    case("ReverseSequence", f(4, 3), _lengths)
_condition = Known(np.array([False, True, True]))
case("Compress", f(3, 4), _condition, axis=0)
case("Compress", f(2, 3), _condition)

# Writing to places
_at = RNG.permutation(4)[:3].reshape(3, 1) * np.ones(5, np.int64)
for _data, _updates in ((f(4, 5), f(3, 5)), (kf(4, 5), f(3, 5)), (f(4, 5), kf(3, 5))):
    for _places in (_at, Known(_at), Known(_at - 4)):
        case("ScatterElements", _data, _places, _updates)
case("Scatter", f(4, 5), _at, f(3, 5), until=10)
case("Scatter", f(4, 5), Known(_at), f(3, 5), until=10)
case("ScatterElements", f(2, 9), np.array([[1, 1], [8, 0]]), f(2, 2), axis=-1)
for _reduction in ("add", "mul", "min", "max"):
    _since = 18 if _reduction in ("min", "max") else 16
    case("ScatterElements", f(9), np.array([1, 1, 8]), f(3), reduction=_reduction, since=_since)
    _indices, _parts = np.array([[[0, 1], [2, 1]], [[-3, 1], [0, 0]]]), f(2, 2, 5)
    for _places in (_indices, Known(_indices)):
        case("ScatterND", f(3, 4, 5), _places, _parts, reduction=_reduction, since=_since)
    case(
        "ScatterND",
        RNG.integers(-9, 9, (4, 2)),
        np.array([[1], [1], [-1]]),
        RNG.integers(-9, 9, (3, 2)),
        reduction=_reduction,
        since=_since,
        result=TensorProto.INT64,
    )
case("ScatterND", f(5), np.array([[3], [0]]), f(2))
case("ScatterND", f(3, 4, 2), Known(np.array([[0, 1], [2, -1]])), f(2, 2))
case("ScatterND", bools(4, 2), np.array([[2]]), bools(1, 2), result=TensorProto.BOOL)
for _mode, _first in (("linear", [2, 0]), ("circular", [3, 1])):
    case("TensorScatter", f(2, 3, 4, 2), f(2, 3, 2, 2), np.array(_first), mode=_mode)
case("TensorScatter", f(2, 4, 3), f(2, 2, 3), axis=1)

# Order
for _name in ("ArgMax", "ArgMin"):
    for _axis in (0, 1, 2):
        case(_name, f(2, 3, 4), axis=_axis, result=TensorProto.INT64)
    case(_name, f(2, 3, 4), keepdims=0, result=TensorProto.INT64)
    _few = RNG.integers(0, 3, (5, 20)).astype(np.int32)
    for _last in (0, 1):
        case(_name, _few, axis=-1, select_last_index=_last, since=12, result=TensorProto.INT64)
_both: dict[str, Any] = {"outputs": 2, "results": (TensorProto.FLOAT, TensorProto.INT64)}
case("TopK", f(3, 9), k=4, until=9, **_both)
case("TopK", f(9, 3), k=4, axis=0, until=9, **_both)
for _largest in (0, 1):
    case("TopK", f(3, 9), k(4), since=11, largest=_largest, **_both)
    case("TopK", f(9, 3), k(9), since=11, largest=_largest, axis=0, **_both)
case("TopK", RNG.integers(0, 4, (3, 9)), k(4), since=11, outputs=2, result=TensorProto.INT64)
case("TopK", f(3, 9), k(2), since=10, until=10, **_both)
for _axis in (0, -1):
    for _flags in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
        case("CumSum", f(3, 5), Known(np.array(_axis)), **_flags)
        _integers = RNG.integers(-9, 9, (6, 7))
        case("CumSum", _integers, Known(np.array(_axis)), **_flags, result=TensorProto.INT64)
        case("CumProd", f(3, 5), Known(np.array(_axis)), **_flags)
case("CumSum", f(1), Known(np.array(0)), exclusive=1)
case("CumSum", RNG.integers(0, 9, 1), k(0), exclusive=1, result=TensorProto.INT64)
_depth = Known(np.array(4))
case("OneHot", RNG.integers(-4, 4, (2, 3)), _depth, kf(2), since=11)
case("OneHot", RNG.integers(0, 4, 3), _depth, f(2), axis=0)
case(
    "OneHot", np.array([0, 2], np.int32), _depth, Known(np.array([0, 1])), result=TensorProto.INT64
)
for _upper in (0, 1):
    case("Trilu", f(2, 4, 5), upper=_upper)
    for _diagonal in (-9, -1, 2):
        case("Trilu", f(4, 4), Known(np.array(_diagonal)), upper=_upper)
case("Trilu", RNG.integers(0, 9, (3, 4)), result=TensorProto.INT64)
case("EyeLike", f(3, 4))
case("EyeLike", f(4, 3), k=-1, dtype=TensorProto.INT64, result=TensorProto.INT64)
case("GatherND", bools(3, 4), _tuples, result=TensorProto.BOOL)
case("GatherND", RNG.integers(0, 9, (5, 2)), Known(np.array([3])), result=TensorProto.INT64)

# Resampling
case("Upsample", f(1, 2, 3, 2), scales=[1.0, 1.0, 2.0, 3.0], mode="nearest", until=8)
_scales = Known(np.array([1, 1, 2, 3], np.float32))
case("Upsample", f(1, 2, 3, 2), _scales, mode="nearest", since=9, until=9)
case("Resize", f(1, 2, 3, 2), _scales, mode="nearest", since=10, until=10)
_roi = Known(np.array([], np.float32))
for _transformation, _rounding in (
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
    ("pytorch_half_pixel", "round_prefer_ceil"),
):
    _rules: dict[str, Any] = {
        "coordinate_transformation_mode": _transformation,
        "nearest_mode": _rounding,
    }
    case("Resize", f(1, 2, 3, 2), _roi, _scales, since=11, **_rules)
    case("Resize", f(1, 2, 3, 2), None, None, k(1, 2, 6, 8), since=13, **_rules)
case("Resize", f(1, 2, 3, 2), None, None, k(6, 4), axes=[2, 3], since=18)
for _mode in ("nearest", "linear"):
    for _factors in ((1, 1, 2, 1.5), (1, 1, 0.6, 0.5)):
        _scales = Known(np.array(_factors, np.float32))
        if min(_factors) == 1:  # ONNX Runtime has no others
            case("Upsample", f(1, 2, 5, 4), scales=_factors, mode=_mode, until=8)
            case("Upsample", f(1, 2, 5, 4), _scales, mode=_mode, since=9, until=9)
        case("Resize", f(1, 2, 5, 4), _scales, mode=_mode, since=10, until=10)
for _factors in ((1, 1, 2.6, 1.5), (1, 1, 0.6, 0.5)):
    _scales = Known(np.array(_factors, np.float32))
    for _rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        for _transformation in ("half_pixel", "asymmetric"):
            _rules = {
                "coordinate_transformation_mode": _transformation,
                "nearest_mode": _rounding,
            }
            case("Resize", f(1, 2, 5, 4), _roi, _scales, since=11, **_rules)
    for _rules in (
        {"mode": "linear"},
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
        {"mode": "cubic"},
        {"mode": "cubic", "coordinate_transformation_mode": "asymmetric", "cubic_coeff_a": -0.5},
        {"mode": "cubic", "exclude_outside": 1},
    ):
        case("Resize", f(1, 2, 5, 4), _roi, _scales, since=11, **_rules)
    _symmetric = {"coordinate_transformation_mode": "half_pixel_symmetric"}
    case("Resize", f(1, 2, 5, 4), None, _scales, since=19, mode="linear", **_symmetric)
for _sizes in ((1, 2, 8, 1), (1, 2, 2, 9)):
    for _mode in ("nearest", "linear", "cubic"):
        _rules = {"mode": _mode, "coordinate_transformation_mode": "align_corners"}
        case("Resize", f(1, 2, 5, 4), _roi, _roi, k(*_sizes), since=11, until=12, **_rules)
        case("Resize", f(1, 2, 5, 4), None, None, k(*_sizes), since=13, **_rules)
        if _mode != "nearest":
            case("Resize", f(1, 2, 5, 4), None, None, k(*_sizes), mode=_mode, antialias=1, since=18)
    _rules = {"coordinate_transformation_mode": "tf_half_pixel_for_nn"}
    case("Resize", f(1, 2, 5, 4), _roi, _roi, k(*_sizes), since=11, until=12, **_rules)
_part = Known(np.array([0, 0, 0.1, 0.2, 1, 1, 1.2, 0.8], np.float32))
_rules = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 0.5}
for _mode in ("nearest", "linear", "cubic"):
    case("Resize", f(1, 2, 5, 4), _part, None, k(1, 2, 4, 1), mode=_mode, since=13, **_rules)
for _policy in ("not_larger", "not_smaller", "stretch"):
    _rules = {"keep_aspect_ratio_policy": _policy, "axes": [2, 3]}
    case("Resize", f(1, 2, 5, 4), None, None, k(7, 9), since=18, **_rules)


def windows() -> Iterator[None]:
    """Random convolutions and pools: one and two axes, all padding rules."""
    for i in range(48):
        axes = 1 if i % 4 == 0 else 2
        kernel = RNG.integers(1, 4, axes).tolist()
        dilations = RNG.integers(1, 3, axes).tolist()
        common: dict[str, Any] = {"strides": RNG.integers(1, 4, axes).tolist()}
        rule = ("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")[i % 5]
        if rule == "NOTSET":
            common["pads"] = [int(RNG.integers(0, n)) for n in kernel * 2]
        else:
            common["auto_pad"] = rule
        size = RNG.integers(6, 11, axes).tolist()
        group = int(RNG.choice([1, 2, 4]))
        weight = f(int(group * RNG.integers(1, 3)), 4 // group, *kernel)
        bias = kf(len(weight)) if i % 2 else None
        # SAME with dilations is refused or computed differently by the runtimes compared with.
        spread = {"dilations": dilations} if rule in ("NOTSET", "VALID") else {}
        operands = (f(2, 4, *size), Known(weight)) + ((bias,) if bias else ())
        case("Conv", *operands, group=group, kernel_shape=kernel, **common, **spread)
        if rule.startswith("SAME"):  # ONNX Runtime refuses to pool with steps beyond the kernel
            common["strides"] = np.minimum(common["strides"], kernel).tolist()
        pool = {"kernel_shape": kernel, **common}
        ceil = {"ceil_mode": 1} if rule == "NOTSET" and i % 2 else {}
        case("MaxPool", f(2, 3, *size), **pool)
        case("MaxPool", f(2, 3, *size), since=10, **pool, **(ceil or spread))
        for included in (0, 1):
            counted = {"count_include_pad": included, **pool}
            case("AveragePool", f(2, 3, *size), **counted)
            case("AveragePool", f(2, 3, *size), since=10, **counted, **ceil)
        yield


assert len(list(windows())) == 48
case("Conv", f(1, 3, 5, 5), f(2, 3, 3, 3))  # the weight's own size, and a computed weight
case("MaxPool", f(1, 2, 8), since=10, kernel_shape=[2], dilations=[2], strides=[3], ceil_mode=1)
case("AveragePool", f(1, 3, 5, 4), kernel_shape=[5, 4])
case("AveragePool", f(1, 3, 6), kernel_shape=[3], dilations=[2], since=19)
case("MaxPool", f(1, 2, 9), since=10, kernel_shape=[2], dilations=[4], strides=[3], ceil_mode=1)
for _size, _kernel in (((9,), (3,)), ((5, 6), (2, 3)), ((4, 5, 3), (3, 2, 2))):
    _pads = [1, *(0,) * (len(_size) - 1), *(1,) * len(_size)]
    _strides = [2, *(1,) * (len(_size) - 1)]
    _spread = [*(1,) * (len(_size) - 1), 2]
    case("Conv", f(2, 4, *_size), f(6, 2, *_kernel), f(6), group=2, pads=_pads, strides=_strides)
    case("Conv", f(2, 4, *_size), kf(6, 2, *_kernel), kf(6), group=2, pads=_pads, dilations=_spread)
    case("Conv", f(2, 4, *_size), kf(4, 1, *_kernel), group=4, auto_pad="SAME_UPPER")
    _window: dict[str, Any] = {"kernel_shape": _kernel, "strides": _strides, "pads": _pads}
    case("MaxPool", f(2, 3, *_size), **_window)
    case("MaxPool", f(2, 3, *_size), since=10, ceil_mode=1, dilations=_spread, **_window)
    for _order in (0, 1) if len(_size) == 2 else (0,):
        _results = {"outputs": 2, "results": (TensorProto.FLOAT, TensorProto.INT64)}
        case("MaxPool", f(2, 3, *_size), **_results, storage_order=_order, since=8, **_window)
    for _included in (0, 1):
        case("AveragePool", f(2, 3, *_size), count_include_pad=_included, since=10, **_window)
    for _p in (1, 2, 3):
        case("LpPool", f(2, 3, *_size), p=_p, **_window)
        case("GlobalLpPool", f(2, 3, *_size), p=_p, until=21)  # nobody has the later form
    _weight = kf(4, 3, *_kernel)
    case("ConvTranspose", f(2, 4, *_size), _weight, kf(6), group=2, pads=_pads, strides=_strides)
    case("ConvTranspose", f(2, 4, *_size), f(4, 3, *_kernel), f(3), dilations=_spread)
    _twice = {"strides": (2,) * len(_size), "dilations": _spread}
    case("ConvTranspose", f(2, 4, *_size), _weight, **_twice, output_padding=(1,) * len(_size))
    _shape = [2 * d + 1 for d in _size]
    case("ConvTranspose", f(2, 4, *_size), _weight, strides=_twice["strides"], output_shape=_shape)
    for _rule in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        case("ConvTranspose", f(2, 4, *_size), _weight, strides=_twice["strides"], auto_pad=_rule)
case("ConvTranspose", f(1, 2, 3, 3), kf(2, 1, 7, 1), strides=[3, 2], pads=[6, 0, 4, 0])

# Recurrences: 4 steps of a batch of 3, 5 inputs, 2 hidden elements
_running = np.array([4, 1, 3], np.int32)
for _name, _gates, _outputs in (("RNN", 1, 2), ("GRU", 3, 2), ("LSTM", 4, 3)):
    _weights = kf(1, 2 * _gates, 5), kf(1, 2 * _gates, 2)
    _bias = kf(1, 4 * _gates)
    _sizes_of: dict[str, Any] = {"outputs": _outputs, "hidden_size": 2}
    case(_name, f(4, 3, 5), *_weights, **_sizes_of)
    case(_name, f(4, 3, 5), *_weights, _bias, direction="reverse", clip=0.4, **_sizes_of)
    for _lengths in (_running, Known(_running)):
        case(_name, f(4, 3, 5), *_weights, None, _lengths, f(1, 3, 2), **_sizes_of)
    case(_name, f(3, 4, 5), *_weights, _bias, None, f(3, 1, 2), layout=1, since=14, **_sizes_of)
    _twice = kf(2, 2 * _gates, 5), kf(2, 2 * _gates, 2), kf(2, 4 * _gates), _running, f(2, 3, 2)
    case(_name, f(4, 3, 5), *_twice, direction="bidirectional", **_sizes_of)
    _functions = {"RNN": ["ScaledTanh"], "GRU": ["HardSigmoid", "Softsign"]}
    _functions["LSTM"] = ["HardSigmoid", "Affine", "LeakyRelu"]
    _sizes_of |= {"activation_alpha": [0.3, 0.7], "activation_beta": [0.4, 0.2]}
    case(_name, f(4, 3, 5), *_weights, activations=_functions[_name], **_sizes_of)
_weights = kf(1, 6, 5), kf(1, 6, 2), kf(1, 12), None
for _state in (f(1, 3, 2), None):
    case("GRU", f(4, 3, 5), *_weights, _state, outputs=2, hidden_size=2, linear_before_reset=1)
_weights = kf(1, 8, 5), kf(1, 8, 2), kf(1, 16), None, f(1, 3, 2), f(1, 3, 2)
for _forget in (0, 1):
    case("LSTM", f(4, 3, 5), *_weights, outputs=3, hidden_size=2, input_forget=_forget)
    _gates_see = {"hidden_size": 2, "input_forget": _forget, "clip": 0.5}
    case("LSTM", f(4, 3, 5), *_weights, kf(1, 6), outputs=3, **_gates_see)


# Codes
U8, I8 = TensorProto.UINT8, TensorProto.INT8
_scale, _zero = s(0.03), Known(np.array(100, np.uint8))
_scales, _zeros = (
    Known(np.array([0.1, 0.02, 0.3], np.float32)),
    Known(np.array([1, -9, 0], np.int8)),
)
case("QuantizeLinear", f(2, 3), _scale, since=10, result=U8)
case("QuantizeLinear", 9 * f(2, 3), _scale, _zero, since=10, result=U8)
case("QuantizeLinear", 9 * f(2, 3), np.array(0.3, np.float32), np.array(-3, np.int8), result=I8)
case("QuantizeLinear", f(2, 3, 4), _scales, _zeros, since=13, result=I8)
case("QuantizeLinear", f(3, 4), _scales, _zeros, since=13, axis=-2, result=I8)
case("QuantizeLinear", f(3), Known(positive(3)), _zeros, since=13, axis=0, result=I8)
case("QuantizeLinear", np.arange(-9, 9, dtype=np.float32), np.array(2, np.float32), result=U8)
case("QuantizeLinear", f(2, 6), Known(positive(2, 3)), since=21, block_size=2, result=U8)
case("QuantizeLinear", f(2, 5), positive(2, 3), since=21, block_size=2, result=U8)
case("QuantizeLinear", f(2, 3), _scale, since=21, output_dtype=I8, result=I8)
for _dtype in (np.uint8, np.int8, np.int32):
    _codes = RNG.integers(0, 127, (2, 3, 4)).astype(_dtype)
    case("DequantizeLinear", _codes, _scale, since=10)
    case("DequantizeLinear", Known(_codes), _scales, since=13)
    case("DequantizeLinear", _codes, _scales, since=13)
    case("DequantizeLinear", _codes, positive(3), since=13)
case("DequantizeLinear", _codes.astype(np.uint8), _scale, _zero, since=10)
case("DequantizeLinear", _codes.astype(np.int8), _scales, _zeros, since=13)
case(
    "DequantizeLinear",
    Known(_codes.astype(np.int8)),
    Known(positive(2, 3, 2)),
    block_size=2,
    axis=2,
    since=21,
)
case(
    "DequantizeLinear",
    _codes.astype(np.int8),
    Known(positive(2, 2, 4)),
    block_size=2,
    axis=1,
    since=21,
)


_weight, _three = kc(np.uint8, 4, 3, 3, 3), Known(positive(4))
_u8, _i8 = Known(np.array(120, np.uint8)), Known(np.array(0, np.int8))
_image = codes(np.uint8, 1, 3, 5, 5)
case(
    "QLinearConv",
    _image,
    _scale,
    _u8,
    _weight,
    s(0.01),
    _u8,
    s(1),
    _u8,
    since=10,
    pads=[1, 1, 1, 1],
    result=U8,
)
case(
    "QLinearConv",
    _image,
    _scale,
    _u8,
    Known(codes(np.int8, 4, 3, 3, 3) // 2),  # ONNX Runtime saturates without VNNI
    _three,
    Known(np.zeros(4, np.int8)),
    s(3),
    _u8,
    Known(np.array([90, -9, 0, 7000], np.int32)),
    result=U8,
)
case(
    "QLinearMatMul",
    codes(np.uint8, 2, 9),
    _scale,
    _u8,
    kc(np.uint8, 9, 4),
    s(0.1),
    _u8,
    s(9),
    _u8,
    result=U8,
)
case(
    "QLinearMatMul",
    codes(np.uint8, 2, 9),
    _scale,
    _u8,
    codes(np.uint8, 9, 4),
    s(0.1),
    _u8,
    s(9),
    _u8,
    result=U8,
)
case("MatMulInteger", codes(np.uint8, 2, 9), kc(np.uint8, 9, 4), since=10, result=TensorProto.INT32)
case("MatMulInteger", codes(np.uint8, 2, 9), kc(np.uint8, 9, 4), _u8, _u8, result=TensorProto.INT32)
case(
    "MatMulInteger",
    codes(np.uint8, 2, 9),
    codes(np.int8, 9, 4) // 2,  # ONNX Runtime saturates pairs of larger products on some CPUs
    np.array(3, np.uint8),
    kc(np.int8, 4),
    result=TensorProto.INT32,
)
case("ConvInteger", _image, _weight, _u8, _u8, pads=[1, 0, 1, 0], result=TensorProto.INT32)
case("ConvInteger", _image, _weight, result=TensorProto.INT32)
case("BatchNormalization", f(2, 3, 4), f(3), kf(3), f(3), positive(3))

# Sampling at real coordinates
for _mode in ("nearest", "bilinear", "bicubic"):
    for _rule in ("zeros", "border", "reflection"):
        for _aligned in (0, 1):
            _grid = 1.3 * f(2, 3, 4, 2)
            _rules = {"padding_mode": _rule, "align_corners": _aligned}
            case("GridSample", f(2, 3, 5, 4), _grid, mode=_mode, until=19, **_rules)
            _new = _mode.removeprefix("bi")
            case("GridSample", f(2, 3, 5, 4), Known(_grid), mode=_new, since=20, **_rules)
for _mode in ("nearest", "linear"):
    case("GridSample", f(1, 2, 3, 4, 2), f(1, 2, 2, 3, 3), mode=_mode, since=20)
for _aligned in (0, 1):
    case("AffineGrid", f(2, 2, 3), k(2, 3, 4, 5), align_corners=_aligned)
    case("AffineGrid", f(1, 3, 4), k(1, 3, 4, 5, 2), align_corners=_aligned)
_rois = np.array([[0, 0, 3, 4], [1, 1.5, 7, 5], [-2, -1, 2.5, 9]], np.float32)
_images = np.array([1, 0, 1])
_regions = {"output_height": 2, "output_width": 3, "spatial_scale": 0.7}
for _mode in ("avg", "max"):
    for _count in (0, 2):
        _rules = {**_regions, "mode": _mode, "sampling_ratio": _count}
        case("RoiAlign", positive(2, 3, 5, 6), Known(_rois), Known(_images), **_rules)
    case("RoiAlign", positive(2, 3, 5, 6), _rois, _images, **_rules)
_boxes = Known(np.array([[1, 0, 0, 5, 4], [0, 1, 1, 2, 3], [0, -4, -4, -2, -2]], np.float32))
case("MaxRoiPool", f(2, 3, 5, 6), _boxes, pooled_shape=[2, 3], until=21)
case("MaxRoiPool", f(2, 3, 5, 6), _boxes, pooled_shape=[1, 1], spatial_scale=0.6, until=21)
_deformed: dict[str, Any] = {"pads": [1, 0, 1, 0], "strides": [2, 1], "dilations": [1, 2]}
case("DeformConv", f(1, 4, 6, 7), kf(6, 4, 3, 2), f(1, 12, 3, 5), **_deformed)
_masked = (f(1, 24, 3, 5), kf(6), positive(1, 12, 3, 5))
case("DeformConv", f(1, 4, 6, 7), kf(6, 2, 3, 2), *_masked, **_deformed, group=2, offset_group=2)
for _size in (1, 3, 5):
    case("LRN", 3 * f(6, 6, 2, 3), size=_size, alpha=0.5, beta=0.6, bias=1.5)
case("MaxUnpool", f(1, 2, 2, 2), RNG.permutation(32)[:8].reshape(1, 2, 2, 2), kernel_shape=[3, 3])
case("Col2Im", f(2, 12, 12), k(5, 5), k(2, 3))
case("Col2Im", f(1, 8, 6), k(4, 5), k(2, 2), pads=[1, 0, 1, 1], strides=[2, 2], dilations=[1, 2])

# Signals
for _size, _parts in (((2, 8), 1), ((2, 7, 3), 2)):
    _axis = len(_size) - 2 if len(_size) > 2 else 1
    for _rules in ({}, {"inverse": 1}, {"onesided": 1}):
        if _parts == 1 or "onesided" not in _rules:
            case("DFT", f(*_size, _parts), axis=_axis, until=19, **_rules)
            case("DFT", f(*_size, _parts), None, Known(np.array(_axis)), since=20, **_rules)
    case("DFT", f(*_size, _parts), Known(np.array(6)), axis=_axis, until=19)
case("DFT", f(2, 5, 2), inverse=1, onesided=1, since=20)
for _onesided in (0, 1):
    _frames = Known(np.array(4)), Known(positive(8))
    case("STFT", f(2, 30, 1), *_frames, onesided=_onesided)
    case("STFT", f(2, 30, 1), _frames[0], None, Known(np.array(7)), onesided=_onesided)
case("STFT", f(1, 30, 1), Known(np.array(4)), positive(8), Known(np.array(8)))


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
