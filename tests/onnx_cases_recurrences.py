"""Cases of operators: recurrences, and codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto
from onnx_cases import RNG, Known, case, codes, f, kc, kf, positive, s

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
for _factor in (kc(np.uint8, 9, 4), codes(np.uint8, 9, 4)):
    _operands = codes(np.uint8, 2, 9), _scale, _u8, _factor, s(0.1), _u8, s(9), _u8
    case("QLinearMatMul", *_operands, result=U8)
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
