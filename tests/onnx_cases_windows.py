"""Cases of operators: resampling, and windows that slide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto
from onnx_cases import RNG, Known, case, f, k, kf

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
# EfficientNet: windows far larger than what they read
for _name, _flags in (
    ("AveragePool", {}),
    ("AveragePool", {"count_include_pad": 1}),
    ("MaxPool", {}),
):
    _wide: dict[str, Any] = {"kernel_shape": [1280] * 2, "strides": [1280] * 2, "ceil_mode": 1}
    case(_name, f(1, 3, 7, 5), since=10, **_wide, **_flags)
    case(_name, f(1, 3, 7), since=10, kernel_shape=[9], pads=[2, 1], **_flags)
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
case("ConvTranspose", f(1, 2, 4, 3), kf(2, 3, 3, 2), dilations=[2, 1])
case("ConvTranspose", f(1, 2, 4, 3), kf(2, 3, 2, 3), dilations=[3, 2], strides=[2, 1])
for _name in ("AveragePool", "MaxPool"):  # windows that end where the image does
    case(_name, f(1, 2, 6), since=10, kernel_shape=[2], strides=[1], ceil_mode=1)
