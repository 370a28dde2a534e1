"""Single-node models of ONNX Runtime's own operators, and the cases that compute with floats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx_cases import RNG, Known, f, kf, positive
from onnx_models import Builder

from qcompiler.frontends.onnx import import_onnx
from qcompiler.frontends.onnx_contrib import MICROSOFT
from qcompiler.interpret import evaluate

Operand = np.ndarray | Known | None


@dataclass(frozen=True)
class Case:
    op_type: str
    operands: tuple[Operand, ...]
    attributes: dict[str, Any]
    outputs: int
    domain: str
    like: Case | None
    """What has the same outputs, where ONNX Runtime has no form for CPUs."""
    hidden: tuple[int, ...] = ()
    """Outputs that are no floats."""
    result: int = TensorProto.FLOAT
    version: int = 14
    """Of the standard operators."""

    def build(self) -> tuple[Any, dict[str, np.ndarray]]:
        b, names, feeds = Builder(opset=self.version), [], {}
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
        returned = (y for i, y in enumerate(outputs) if i not in self.hidden)
        return b.model(*returned, dtype=self.result), feeds


CASES: list[Case] = []


def _bucket(ahead: int, buckets: int, furthest: int, both: bool) -> int:
    """The row of T5's table for a distance: exact where small, logarithmic beyond."""
    if both:
        buckets //= 2
    base = buckets if both and ahead > 0 else 0
    distance = abs(ahead) if both else max(-ahead, 0)
    exact = buckets // 2
    if distance < exact:
        return base + distance
    steps = math.log(distance / exact) / math.log(furthest / exact) * (buckets - exact)
    return base + min(exact + int(steps), buckets - 1)


def case(
    op_type: str,
    *operands: Operand,
    outputs: int = 1,
    domain: str = MICROSOFT,
    like: Case | None = None,
    hidden: tuple[int, ...] = (),
    result: int = TensorProto.FLOAT,
    version: int = 14,
    **attributes: Any,
) -> Case:
    item = Case(op_type, operands, attributes, outputs, domain, like, hidden, result, version)
    CASES.append(item)
    return CASES[-1]


case("Gelu", 3 * f(9))
case("BiasGelu", 3 * f(2, 9), kf(9))
case("FastGelu", 3 * f(2, 9))
case("FastGelu", 3 * f(2, 9), f(9))
case("QuickGelu", 3 * f(9))
case("QuickGelu", 3 * f(9), alpha=2.0)
case("SimplifiedLayerNormalization", f(2, 5), kf(5), domain="", epsilon=0.01)
case("LayerNormalization", f(2, 5), kf(5), kf(5), domain="", epsilon=0.01)
_old: dict[str, Any] = {"domain": "", "version": 9}
_image = np.linspace(-3, 3, 120, dtype=np.float32).reshape(2, 3, 4, 5)
case("Affine", _image, alpha=0.5, beta=2.0, **_old)
case("ImageScaler", _image, scale=0.5, bias=[1.0, -2.0, 3.0], **_old)
case("Crop", _image, border=[1, 0, 1, 2], **_old)
case("Crop", _image, border=[1, 1, 0, 0], scale=[2, 3], **_old)
case("ScaledTanh", _image, alpha=2.0, beta=0.5, **_old)
case("ParametricSoftplus", _image, alpha=2.0, beta=0.5, **_old)
_angles = np.linspace(0, 3, 40).reshape(10, 4).astype(np.float32)
_turns = (Known(np.cos(_angles)), Known(np.sin(_angles)))
_places = np.array([[0, 1, 2], [7, 8, 9]])
for _interleaved in (0, 1):
    case("RotaryEmbedding", f(2, 3, 24), _places, *_turns, interleaved=_interleaved)
    case("RotaryEmbedding", f(2, 5, 3, 8), np.array([4]), *_turns, interleaved=_interleaved)
    _part = {"interleaved": _interleaved, "rotary_embedding_dim": 8, "num_heads": 2}
    case("RotaryEmbedding", f(2, 3, 24), _places, *_turns, **_part)

# Attention with its projection: masks by counts, by places, raw, per query, of Megatron
_x, _w, _b = f(2, 5, 12), kf(12, 24), kf(24)
_keep = (f(2, 5) > -0.8).astype(np.int32)
_keep[:, 0] = 1
_masks: list[np.ndarray] = [
    np.array([3, 5], np.int32),
    np.array([4, 5, 1, 0], np.int32),
    _keep,
    np.minimum(_keep[:, None] + np.eye(5, dtype=np.int32), 1),
]
case("Attention", _x, _w, _b, num_heads=2)
case("Attention", _x, _w, _b, num_heads=4, unidirectional=1, scale=0.3)
for _mask in _masks:
    case("Attention", _x, _w, _b, _mask, num_heads=2)
    case("Attention", _x, _w, _b, _mask, num_heads=2, unidirectional=1)
case("Attention", _x, _w, _b, None, None, f(2, 4, 5, 5), num_heads=4)
case("Attention", _x, _w, _b, _keep, None, f(1, 4, 5, 5), num_heads=4, mask_filter_value=-1e9)
case("Attention", _x, kf(12, 20), kf(20), num_heads=2, qkv_hidden_sizes=[8, 8, 4])
_cached = (_x, _w, _b, None, f(2, 2, 4, 3, 2))
case("Attention", *_cached, num_heads=4, outputs=2, unidirectional=1)
case("Attention", *_cached[:3], np.ones((2, 8), np.int32), _cached[4], num_heads=4, outputs=2)
_square = np.broadcast_to(np.tri(9, dtype=np.int32), (2, 1, 9, 9)).copy()
_options: dict[str, Any] = {"num_heads": 4, "outputs": 2}
_like = case("Attention", *_cached[:3], _square[:, 0, 3:8, :8].copy(), _cached[4], **_options)
case("Attention", *_cached[:3], _square, _cached[4], **_options, like=_like)

# Attention of what is projected already
_q, _k, _v = f(2, 3, 8), f(2, 5, 8), f(2, 5, 12)
case("MultiHeadAttention", _q, _k, _v, num_heads=2)
case("MultiHeadAttention", _q, _k, _v, kf(28), num_heads=2, scale=0.2)
case("MultiHeadAttention", _k, _k, _v, num_heads=4, unidirectional=1)
for _mask in (_masks[0], _masks[2]):
    case("MultiHeadAttention", _q, _k, _v, None, _mask, num_heads=2)
case("MultiHeadAttention", _k, _k, _v, None, _masks[3], num_heads=2)
case("MultiHeadAttention", _q, _k, _v, None, _keep, f(1, 2, 3, 5), num_heads=2)
_packed = np.stack([x.reshape(2, 5, 2, 4) for x in (_k, f(2, 5, 8), _k)], 3)
_apart = (_packed[:, :, :, i].reshape(2, 5, 8) for i in range(3))
_like = case("MultiHeadAttention", *_apart, num_heads=2)
case("MultiHeadAttention", _packed, None, None, num_heads=2, like=_like)
case("MultiHeadAttention", _k, _packed[:, :, :, 1:], None, num_heads=2, like=_like)
case("MultiHeadAttention", f(2, 3, 8), f(2, 2, 5, 4), f(2, 2, 5, 4), num_heads=2)
case("MultiHeadAttention", f(2, 3, 8), f(2, 2, 5, 4), f(2, 2, 5, 4), kf(24), num_heads=2)
_past = (f(2, 2, 3, 4), f(2, 2, 3, 4))
case("MultiHeadAttention", _k, _k, _k, None, None, None, *_past, num_heads=2, outputs=3)

# Attention of decoders
_six = Known(np.array(6, np.int32))
_grouped = (f(2, 6, 64), f(2, 6, 32), f(2, 6, 32), None, None)
_full = Known(np.array([5, 5], np.int32))
_kv = {"num_heads": 4, "kv_num_heads": 2}
_angles = np.linspace(0, 3, 80).reshape(10, 8).astype(np.float32)
_table = (Known(np.cos(_angles)), Known(np.sin(_angles)))
case("GroupQueryAttention", *_grouped, _full, _six, outputs=3, **_kv)
case("GroupQueryAttention", f(2, 6, 128), *[None] * 4, _full, _six, outputs=3, **_kv)
for _interleaved in (0, 1):
    _rotary = {"do_rotary": 1, "rotary_interleaved": _interleaved, **_kv}
    case("GroupQueryAttention", *_grouped, _full, _six, *_table, outputs=3, **_rotary)
case("GroupQueryAttention", *_grouped, _full, _six, local_window_size=2, outputs=3, **_kv)
case("GroupQueryAttention", *_grouped, _full, _six, softcap=1.5, scale=0.4, outputs=3, **_kv)
case("GroupQueryAttention", *_grouped, _full, _six, smooth_softmax=1, outputs=3, **_kv)
_sink = (*[None] * 4, kf(4))
case("GroupQueryAttention", *_grouped, _full, _six, *_sink, outputs=3, **_kv)
_cache = (f(2, 1, 64), f(2, 1, 32), f(2, 1, 32), f(2, 2, 5, 16), f(2, 2, 5, 16))
case("GroupQueryAttention", *_cache, _full, _six, *_table, do_rotary=1, outputs=3, **_kv)
_ends = np.array([3, 5], np.int32)
case("GroupQueryAttention", *_grouped, _ends, _six, outputs=3, **_kv)
for _both in (0, 1):
    _lengths = Known(np.array([9])), Known(np.array([7]))
    _table = f(8, 3)
    _terms = np.array(
        [[_table[_bucket(k - q, 8, 6, bool(_both))] for k in range(7)] for q in range(9)]
    )
    _like = Case("Identity", (_terms.transpose(2, 0, 1)[None],), {}, 1, "", None)
    _rule = {"max_distance": 6, "is_bidirectional": _both}
    case("RelativePositionBias", Known(_table), *_lengths, like=_like, **_rule)

# Sums and normalizations
_row = (f(2, 3, 8), f(2, 3, 8), kf(8))
case("SkipLayerNormalization", *_row)
case("SkipLayerNormalization", *_row, kf(8), kf(8), epsilon=0.1)
case("SkipLayerNormalization", f(2, 3, 8), f(1, 3, 8), kf(8), kf(8))
case("SkipLayerNormalization", f(2, 3, 8), kf(3, 8), kf(8))
case("SkipSimplifiedLayerNormalization", *_row, kf(8), epsilon=0.1)
_ids = RNG.integers(0, 9, (2, 5), np.int32)
_counted: dict[str, Any] = {"outputs": 2, "hidden": (1,)}
_embedding = (kf(9, 8), kf(6, 8))
case("EmbedLayerNormalization", _ids, None, *_embedding, None, kf(8), kf(8), **_counted)
_segments = RNG.integers(0, 2, (2, 5), np.int32)
_rows = (*_embedding, kf(2, 8), kf(8), kf(8))
case("EmbedLayerNormalization", _ids, _segments, *_rows, _keep, **{**_counted, "outputs": 3})
_reversed = np.arange(5, dtype=np.int32)[None, ::-1].repeat(2, 0)
case("EmbedLayerNormalization", _ids, _segments, *_rows, None, _reversed, **_counted)


def like(op_type: str, *operands: Operand, **attributes: Any) -> Case:
    return Case(op_type, operands, attributes, 1, "", None)


_x, _b, _y = f(2, 6, 8), f(8), f(2, 6, 8)
case("BiasAdd", _x, _b, _y, like=like("Identity", _x + _b + _y))
_first, _second = np.split(_x + _b, 2, 2)
_gelu = case("Gelu", _second)
_halves = evaluate(import_onnx(_gelu.build()[0]), _gelu.build()[1])["y0"] * _first
case("BiasSplitGelu", _x, _b, like=like("Identity", _halves))
for _axis in (1, 2):
    _sum = f(2, 3, 4)
    _like = like("Softmax", _sum + 1, axis=2) if _axis == 2 else None
    if _axis == 1:
        _like = like("Identity", np.exp(_sum) / np.exp(_sum).sum((1, 2), keepdims=True))
    _ones = np.ones((3, 4), np.float32)
    case("BiasSoftmax", _sum, _ones, axis=_axis, is_inner_broadcast=0, like=_like)


def _groups(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, groups: int) -> np.ndarray:
    """Images whose channels come last, normalized by groups of channels."""
    parts = x.reshape(*x.shape[:3], groups, -1)
    centered = parts - parts.mean((1, 2, 4), keepdims=True)
    normal = centered / np.sqrt(np.square(centered).mean((1, 2, 4), keepdims=True) + 1e-3)
    return normal.reshape(x.shape) * scale + bias


_image, _scale, _bias, _rule = f(2, 3, 5, 8), f(8), f(8), {"groups": 4, "epsilon": 1e-3}
_normal = _groups(_image, _scale, _bias, 4)
_parameters = (Known(_scale), Known(_bias))
case("GroupNorm", _image, *_parameters, activation=0, like=like("Identity", _normal), **_rule)
_like = like("Identity", (_normal / (1 + np.exp(-_normal))).transpose(0, 3, 1, 2))
_first = _image.transpose(0, 3, 1, 2)
case("GroupNorm", _first, *_parameters, activation=1, channels_last=0, like=_like, **_rule)
_skip, _more = f(2, 8), f(8)
_like = like("Identity", _groups(_image + _skip[:, None, None] + _more, _scale, _bias, 4))
_operands = (_image, *_parameters, _skip, Known(_more))
case("SkipGroupNorm", *_operands, activation=0, like=_like, **_rule)

# Products
case("FusedMatMul", f(2, 3, 4), f(2, 4, 5), alpha=0.3)
case("FusedMatMul", f(2, 4, 3), kf(5, 4), transA=1, transB=1, alpha=0.3)
case("FusedMatMul", f(6, 3, 2, 4), f(4, 3, 2, 5), transBatchA=1, transBatchB=1)
case("FusedMatMul", f(4, 2, 6, 3), f(5, 2, 6, 4), transA=1, transBatchA=1, transBatchB=1, transB=1)
case("FusedMatMul", f(4), f(4, 5), transA=1)
case("TransposeMatMul", f(4, 3), kf(5, 4), transA=1, transB=1, alpha=2.0)
case("FusedGemm", f(2, 3), kf(3, 4), kf(4), activation="Relu")
_leaky = {"activation": "LeakyRelu", "activation_alpha": 0.2}
case("FusedGemm", f(3, 2), kf(4, 3), kf(4), transA=1, transB=1, alpha=0.5, beta=2.0, **_leaky)
_z = f(2, 5)
_like = case("FastGelu", _z @ np.eye(5, dtype=np.float32), f(5))
case("GemmFastGelu", _z, np.eye(5, dtype=np.float32), _like.operands[1], like=_like)
_image = (f(1, 4, 5, 5), kf(6, 2, 3, 3), kf(6))
for _name, _params in (("Relu", []), ("Tanh", []), ("LeakyRelu", [0.2]), ("Clip", [-0.5, 0.5])):
    _window = {"group": 2, "kernel_shape": [3, 3], "pads": [1] * 4}
    _after = {"activation": _name, **({"activation_params": _params} if _params else {})}
    case("FusedConv", *_image, **_window, **_after)
case("FusedConv", *_image, f(1, 6, 3, 3), activation="Relu", group=2)
for _bits in (2, 4, 8):
    for _blocks in (2, 3):
        _size = {"bits": _bits, "block_size": 16, "K": 16 * _blocks - 4, "N": 6}
        _codes = Known(RNG.integers(0, 256, (6, _blocks, 2 * _bits), np.uint8))
        _operands = (f(2, 3, 16 * _blocks - 4), _codes, Known(positive(6, _blocks)))
        case("MatMulNBits", *_operands, **_size)
        _zeros = Known(RNG.integers(0, 256, (6, -(-_blocks * _bits // 8)), np.uint8))
        case("MatMulNBits", *_operands, _zeros, None, kf(6), **_size)
