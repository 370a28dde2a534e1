"""Cases of operators: products, normalization, softmax, attention."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx_cases import Known, case, f, kf, positive, s

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
case("Gemm", f(2, 3), f(3, 4), kf(4), alpha=2.0, beta=3.0)
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
case("MeanVarianceNormalization", 1e-4 * f(2, 3, 4, 5), axes=[0, 2, 3])
for _axis in (0, -1):
    for _p in (1, 2):
        case("LpNormalization", f(3, 4) * (np.arange(4) > 0), axis=_axis, p=_p)
        case("LpNormalization", np.diag([0, 1, 1]).astype(np.float32), axis=_axis, p=_p)

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
