"""Random nodes that move elements: shapes, orders, parts, joins, gathers, scatters, resampling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from fuzz_draft import Draft, Value, generates
from fuzz_runtime import RejectedError


@generates("Reshape", "Flatten", "Expand", "Tile")
def reshape(d: Draft, op: str) -> None:
    """Another shape, with 0 and −1 for what follows."""
    if op == "Reshape":
        if d.chance(0.7):
            d.reshaped(d.integer(1, 6), -np.inf)
            return
        x = d.real(lambda v: v.first.ndim > 0)
        cut = d.integer(0, x.first.ndim - 1)
        d.emit(op, [x, d.const([0] * cut + [-1], np.int64)])
    elif op == "Flatten":
        x = d.real()
        axis = d.integer(0, x.first.ndim)
        d.emit(op, [x], **({"axis": axis} if d.chance(0.8) else {}))
    elif op == "Expand":
        x = d.real()
        grown = [int(d.pick((2, 3))) if n == 1 and d.chance(0.7) else n for n in x.shape]
        sizes = [1 if d.chance(0.3) else n for n in grown]
        more = [d.integer(1, 3) for _ in range(d.integer(0, 2))] if len(grown) < 5 else []
        d.emit(op, [x, d.const([*more, *sizes], np.int64)])
    else:
        x = d.real(lambda v: v.first.ndim > 0)
        d.emit(op, [x, d.const([d.integer(1, 3) for _ in x.shape], np.int64)])


@generates("Transpose")
def transpose(d: Draft, op: str) -> None:
    """A permutation of the axes, or the reverse order."""
    x = d.real()
    order = d.rng.permutation(x.first.ndim).tolist()
    d.emit(op, [x], **({"perm": order} if d.chance(0.85) and order else {}))


@generates("Squeeze", "Unsqueeze")
def unit_axes(d: Draft, op: str) -> None:
    """Axes of size 1 gone or new; of a constant now and then."""
    x = d.floats(d.shape(2), known=True) if d.chance(0.15) else d.real()
    if op == "Squeeze":
        units = [i for i, n in enumerate(x.shape) if n == 1]
        if not units or d.chance(0.2):
            d.emit(op, [x])
            return
        axes = [i for i in units if d.chance(0.7)] or units[:1]
        rank = x.first.ndim
    else:
        rank = x.first.ndim + d.integer(1, 2)
        if rank > 7:
            raise RejectedError("draft: too many axes")
        axes = sorted(d.rng.choice(rank, rank - x.first.ndim, replace=False).tolist())
    if d.opset >= 11 and d.chance(0.3):
        axes = [a - rank for a in axes]
    operands, attributes = d.listed(axes, 13, "axes")
    d.emit(op, [x, *operands], **attributes)


@generates("DepthToSpace", "SpaceToDepth")
def blocks(d: Draft, op: str) -> None:
    """Channels against places."""
    size = d.integer(1, 3)
    if op == "DepthToSpace":
        x = d.real(lambda v: v.first.ndim == 4 and v.shape[1] % size**2 == 0, rank=4)
    else:
        x = d.real(lambda v: all(n % size == 0 for n in v.shape[2:]), rank=4)
    modes = {"mode": d.pick(("DCR", "CRD"))} if op == "DepthToSpace" and d.opset >= 11 else {}
    d.emit(op, [x], blocksize=size, **modes)


@generates("Concat")
def concat(d: Draft, op: str) -> None:
    """Two or three parts, one of them constant now and then."""
    x = d.real(lambda v: v.first.ndim > 0, known=0.02)
    axis = d.axis(x.first.ndim)
    parts = [x]
    for _ in range(d.integer(0 if d.chance(0.1) else 1, 2)):
        sizes = list(x.shape)
        sizes[axis] = d.pick((1, 2, 3, sizes[axis]))
        parts.append(d.real(shape=tuple(sizes), known=0.3))
    d.rng.shuffle(parts)  # type: ignore[arg-type]
    d.emit(op, parts, axis=axis)


@generates("Split")
def split(d: Draft, op: str) -> None:
    """Equal parts, or parts of given sizes, which may be 0."""
    x = d.real(lambda v: v.first.ndim > 0)
    axis = d.axis(x.first.ndim)
    n = x.shape[axis]
    number = d.integer(1, 3)
    if d.chance(0.5) and n % number == 0 and d.opset < 18:
        d.emit(op, [x], number, axis=axis)
    elif d.chance(0.5) and d.opset >= 18 and n >= number:
        d.emit(op, [x], number, axis=axis, num_outputs=number)
    else:
        cuts = sorted(d.integer(0, n) for _ in range(number - 1))
        parts = np.diff([0, *cuts, n]).tolist()
        operands, attributes = d.listed(parts, 13, "split")
        d.emit(op, [x, *operands], number, axis=axis, **attributes)


@generates("Slice")
def cut(d: Draft, op: str) -> None:
    """Parts of some axes, by steps that may be negative."""
    x = d.real(lambda v: v.first.ndim > 0)
    number = d.integer(1, x.first.ndim)
    axes = d.rng.choice(x.first.ndim, number, replace=False).tolist()
    starts, ends, steps = [], [], []
    for a in axes:
        n = x.shape[a]
        step = d.pick((1, 1, 1, 2, 3, -1, -2)) if d.opset >= 10 else 1
        first, last = sorted((d.integer(0, n), d.integer(0, n)))
        last += int(first == last and d.chance(0.95))
        if step < 0:
            first, last = last, first - 1 if first else -(2**31)
        starts.append(first - n if d.chance(0.2) and 0 < first < n else first)
        ends.append(d.pick((last, 2**31 - 1)) if step > 0 else last)
        steps.append(step)
    if d.opset < 10:
        d.emit(op, [x], starts=starts, ends=ends, axes=axes)
    else:
        d.emit(op, [x, *(d.const(v, np.int64) for v in (starts, ends, axes, steps))])


@generates("Pad")
def pad(d: Draft, op: str) -> None:
    """Around every axis, or cut off."""
    x = d.real(lambda v: v.first.ndim > 0)
    modes = ["constant", "constant", "reflect", "edge"] + ["wrap"] * (d.opset >= 19)
    mode = d.pick(modes)
    low = -1 if mode == "constant" and d.chance(0.2) else 0
    limit = min(x.shape) - 1 if mode in ("reflect", "wrap") else 2
    pads = [d.integer(low, max(min(2, limit), 0)) for _ in range(2 * x.first.ndim)]
    value = float(d.pick((0, 0, 0.5, -3)))
    if d.opset < 11:
        d.emit(op, [x], pads=pads, mode=mode, value=value)
        return
    fill = [d.const(value, np.float32)] if mode == "constant" and d.chance(0.6) else []
    d.emit(op, [x, d.const(pads, np.int64), *fill], mode=mode)


@generates("Gather", "GatherElements", "GatherND")
def gather(d: Draft, op: str) -> None:
    """By constant or computed indices; of a table that is constant now and then."""
    x = d.real(lambda v: v.first.ndim > 0 and min(v.shape) > 0, known=0.3)
    if x.first.ndim == 0 or min(x.shape) == 0:
        raise RejectedError("draft: nothing to gather")
    axis = d.axis(x.first.ndim)
    n = x.shape[axis]
    low = -n if d.opset >= 11 and d.chance(0.3) else 0
    dtype = d.pick((np.int64, np.int64, np.int32))
    if op == "Gather":
        indices = d.integers(d.shape(d.integer(0, 2), empty=False), low, n - 1, dtype, known=0.5)
        d.emit(op, [x, indices], **({"axis": axis} if axis or d.chance(0.5) else {}))
    elif op == "GatherElements":
        shape = list(x.shape)
        shape[axis] = d.integer(1, 4)
        d.emit(op, [x, d.integers(tuple(shape), low, n - 1, dtype)], axis=axis)
    else:
        batch = d.integer(0, x.first.ndim - 1) if d.opset >= 12 and d.chance(0.3) else 0
        depth = d.integer(1, x.first.ndim - batch)
        tuples = indices_into(
            d, x.shape[batch : batch + depth], (*x.shape[:batch], d.integer(1, 4))
        )
        d.emit(op, [x, tuples], **({"batch_dims": batch} if batch else {}))


def indices_into(d: Draft, sizes: tuple[int, ...], shape: tuple[int, ...]) -> Value:
    """Tuples of indices, each within its own axis."""

    def draw() -> np.ndarray:
        return np.stack([d.rng.integers(0, n, shape) for n in sizes], -1).astype(np.int64)

    return d.const(draw()) if d.chance(0.5) else d.input(draw)


@generates("ScatterElements", "ScatterND", "Scatter", "TensorScatter")
def scatter(d: Draft, op: str) -> None:
    """Updates of some elements."""
    x = d.real(lambda v: v.first.ndim > 0 and min(v.shape) > 0)
    if op == "TensorScatter":
        x = d.real(lambda v: min(v.shape) > 0, rank=d.integer(3, 4))
        updates = list(x.shape)
        updates[-2] = d.integer(1, x.shape[-2])
        start = d.integers((x.shape[0],), 0, x.shape[-2] - updates[-2])
        d.emit(op, [x, d.real(shape=tuple(updates)), start])
        return
    rules = ["none"] + ["add", "mul"] * (d.opset >= 16) + ["min", "max"] * (d.opset >= 18)
    rule = d.pick(rules)
    attributes: dict[str, Any] = {"reduction": rule} if rule != "none" else {}
    if op == "ScatterND":
        depth = d.integer(1, x.first.ndim)
        number = d.integer(1, 3) if rule != "none" else 1
        tuples = indices_into(d, x.shape[:depth], (number,))
        updates_shape = (number, *x.shape[depth:])
        d.emit(op, [x, tuples, d.real(shape=updates_shape, known=0.2)], **attributes)
        return
    axis = d.axis(x.first.ndim)
    shape = list(x.shape)
    shape[axis] = d.integer(1, x.shape[axis]) if rule != "none" else 1
    indices = d.integers(tuple(shape), 0, x.shape[axis] - 1)
    updates_value = d.real(shape=tuple(shape), known=0.2)
    d.emit(op, [x, indices, updates_value], axis=axis, **attributes)


@generates("Resize", "Upsample")
def resize(d: Draft, op: str) -> None:
    """Nearest, linear or cubic, to sizes or by scales."""
    x = d.real(lambda v: 0 < v.first.size <= 256, rank=4)
    factors = [1, 1, d.pick((0.5, 1, 1.5, 2, 3)), d.pick((0.5, 1, 2, 2.5))]
    mode = d.pick(("nearest", "nearest", "linear", "cubic"))
    if op == "Upsample" or d.opset < 11:
        mode = "nearest" if mode == "cubic" else mode
        factors = [float(math.ceil(v)) for v in factors]
        if op == "Upsample" and d.opset < 9:
            d.emit(op, [x], scales=factors, mode=mode)
        else:
            d.emit(op, [x, d.const(factors, np.float32)], mode=mode)
        return
    attributes: dict[str, Any] = {"mode": mode}
    rules = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
    attributes["coordinate_transformation_mode"] = d.pick(rules)
    if mode == "nearest":
        roundings = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        attributes["nearest_mode"] = d.pick(roundings)
    if mode == "cubic" and d.chance(0.5):
        attributes["cubic_coeff_a"] = -0.5
    if mode != "nearest" and d.opset >= 18 and d.chance(0.3):
        attributes["antialias"] = 1
    roi = None if d.opset >= 13 else d.const([], np.float32)
    corners = attributes["coordinate_transformation_mode"] == "align_corners"
    whole = all((n * f).is_integer() for n, f in zip(x.shape, map(float, factors), strict=True))
    # Whether the corners of 2.4 elements lie at 0 and 1.4 or at 0 and 1, runtimes dispute.
    if d.chance(0.5) and (whole or not corners):
        d.emit(op, [x, roi, d.const(factors, np.float32)], **attributes)
        return
    sizes = [*x.shape[:2], *(max(1, int(n * f)) for n, f in zip(x.shape[2:], factors[2:]))]  # noqa: B905
    scales = None if d.opset >= 13 else d.const([], np.float32)
    d.emit(op, [x, roi, scales, d.const(sizes, np.int64)], **attributes)


@generates("CenterCropPad")
def crop(d: Draft, op: str) -> None:
    """To the middle."""
    x = d.real(lambda v: v.first.ndim > 0)
    d.emit(op, [x, d.const([d.integer(1, 6) for _ in x.shape], np.int64)])


@generates("ReverseSequence")
def reverse(d: Draft, op: str) -> None:
    """Each row from its length backwards."""
    x = d.real(lambda v: v.first.ndim >= 2 and min(v.shape) > 0, rank=d.integer(2, 4))
    d.emit(op, [x, d.integers((x.shape[1],), 1, x.shape[0])], batch_axis=1, time_axis=0)


@generates("Trilu")
def triangle(d: Draft, op: str) -> None:
    """Above or below a diagonal."""
    x = d.real(lambda v: v.first.ndim >= 2, rank=d.integer(2, 4))
    k = [d.const(d.integer(-2, 2), np.int64)] if d.chance(0.5) else []
    d.emit(op, [x, *k], upper=int(d.chance(0.5)))


@generates("Compress")
def compress(d: Draft, op: str) -> None:
    """By a constant condition."""
    x = d.real(lambda v: v.first.ndim > 0)
    axis = d.axis(x.first.ndim)
    d.emit(op, [x, d.const(d.rng.random(x.shape[axis]) < 0.6)], axis=axis)
