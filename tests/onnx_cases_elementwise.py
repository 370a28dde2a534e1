"""Cases of operators: functions and arithmetic, comparisons, logic, integers."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper
from onnx_cases import RNG, Known, bools, case, f, k, kf, positive, s

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
for _name, _bound in (("Min", np.inf), ("Max", -np.inf)):  # JAX begins its reductions so
    for _shape in ((), (1, 1, 1)):
        _beyond = Known(np.full(_shape, _bound, np.float32))
        case(_name, _beyond, f(2, 3), since=8)
        case(_name, f(2, 1, 3), f(2, 3), _beyond, since=8)
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
