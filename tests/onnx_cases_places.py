"""Cases of operators: means, movements, parts, writing to places, order."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto
from onnx_cases import NEWEST, RNG, Known, bools, case, f, k, kf, positive, s

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
_many = [f(1, 2) for _ in range(600)]
case("Concat", *_many, axis=0, since=28)
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
case("Gather", f(2, 6), k(0, 1, 3), axis=1)
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
