"""Cases of operators: sampling at real coordinates, regions, signals."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx_cases import RNG, Known, case, f, k, kf, positive

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
