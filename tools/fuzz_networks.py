"""Random nodes of networks: products, convolutions, pools, normalizations, attention, loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from fuzz_draft import Draft, Value, generates
from fuzz_runtime import RejectedError


@generates("MatMul")
def matmul(d: Draft, op: str) -> None:
    """Vectors, matrices, batches that broadcast; weights on either side."""
    x = d.real(lambda v: v.first.ndim > 0)
    depth = x.shape[-1]
    columns = d.integer(1, 6)
    if x.first.ndim >= 2 and d.chance(0.15):  # the constant in front
        left = (d.integer(1, 5), x.shape[-2])
        d.emit(op, [d.real(shape=left, known=0.7), x])
        return
    shape: tuple[int, ...] = (depth, columns)
    if d.chance(0.15):
        shape = (depth,)
    elif d.chance(0.4):
        batch = tuple(1 if d.chance(0.4) else n for n in x.shape[:-2])
        shape = (*batch[d.integer(0, len(batch)) :], depth, columns)
    d.emit(op, [x, d.real(shape=shape, known=0.6)])


@generates("Gemm")
def gemm(d: Draft, op: str) -> None:
    """With and without a bias of every shape."""
    x = d.real(rank=2)
    attributes: dict[str, Any] = {}
    rows, depth = x.shape
    if d.chance(0.3):
        attributes["transA"] = 1
        rows, depth = depth, rows
    columns = d.integer(1, 6)
    shape = (depth, columns)
    if d.chance(0.5):
        attributes["transB"] = 1
        shape = (columns, depth)
    if d.chance(0.3):
        attributes |= {"alpha": d.pick((0.5, -1.5, 1.0)), "beta": d.pick((0.0, 2.0))}
    operands = [x, d.real(shape=shape, known=0.7)]
    if d.opset < 11 or d.chance(0.7):
        bias = d.pick(((columns,), (1, columns), (rows, 1), (rows, columns), (1,), ()))
        operands.append(d.real(shape=bias, known=0.8))
    d.emit(op, operands, **attributes)


@generates("Einsum")
def einsum(d: Draft, op: str) -> None:
    """Sums of products that exporters write, over random sizes."""
    equation = d.pick((
        "ij,jk->ik", "ij,jk", "bij,bjk->bik", "bhqd,bhkd->bhqk", "bqhd,bkhd->bhqk", "i,j->ij",
        "bsd,dhk->bshk", "ij,ij->i", "ij,ji->", "bcd,c->bcd", "...ij,jk->...ik", "ij->ji",
        "bi,bj->bij", "bhwc,hkc->bhwk",
    ))  # fmt: skip
    sizes = {letter: d.integer(1, 4) for letter in "abcdefghijklmnopqrstuvwxyz"}
    batch = tuple(d.integer(1, 3) for _ in range(d.integer(0, 2)))
    operands = []
    for term in equation.partition("->")[0].split(","):
        letters = term.replace("...", "")
        shape = (batch if "..." in term else ()) + tuple(sizes[c] for c in letters.strip())
        operands.append(d.real(shape=shape, known=0.3))
    d.emit(op, operands, equation=equation)


def window(d: Draft, x: Value, limit: int = 3) -> tuple[list[int], dict[str, Any]]:
    """A kernel that fits, its steps and its padding."""
    sizes = x.shape[2:]
    kernel = [d.integer(1, max(1, min(limit, n))) for n in sizes]
    attributes: dict[str, Any] = {}
    if d.chance(0.7):
        attributes["strides"] = [d.integer(1, max(1, min(2, k))) for k in kernel]
    rule = d.pick(("none", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"))
    if rule == "pads":
        attributes["pads"] = [d.integer(0, k - 1) for k in kernel] * 2
        if d.chance(0.3):
            attributes["pads"] = [d.integer(0, k - 1) for k in kernel * 2]
    elif rule != "none":
        attributes["auto_pad"] = rule
    return kernel, attributes


def dilations(d: Draft, x: Value, kernel: list[int]) -> list[int]:
    """Steps between the elements of a kernel that still fits."""
    sizes = zip(kernel, x.shape[2:], strict=True)
    return [d.integer(1, 2) if 2 * (k - 1) < n else 1 for k, n in sizes]


def image(d: Draft) -> Value:
    """One, two or three axes behind batch and channels."""
    rank = d.pick((3, 4, 4, 4, 4, 5))
    return d.real(lambda v: 0 < v.first.size <= 1024, rank=rank)


@generates("Conv", "ConvTranspose")
def convolution(d: Draft, op: str) -> None:
    """Groups, steps, dilations, padding of every kind; one output channel too."""
    x = image(d)
    channels = x.shape[1]
    kernel, attributes = window(d, x)
    groups = d.pick([g for g in (1, 1, 2, 4, channels) if channels % g == 0])
    each = d.integer(1, 3)
    if op == "Conv":
        shape = (groups * each, channels // groups, *kernel)
    else:
        shape = (channels, each, *kernel)
        if "auto_pad" in attributes:
            del attributes["auto_pad"]
        strides = attributes.get("strides", [1] * len(kernel))
        if d.chance(0.3):
            attributes["output_padding"] = [d.integer(0, s - 1) for s in strides]
    if d.chance(0.3) and "SAME" not in attributes.get("auto_pad", ""):
        attributes["dilations"] = dilations(d, x, kernel)
    operands = [x, d.real(shape=shape, known=0.85)]
    if d.chance(0.6):
        operands.append(d.floats((groups * each,), known=d.chance(0.9)))
    if groups > 1 or d.chance(0.3):
        attributes["group"] = groups
    if d.chance(0.5):
        attributes["kernel_shape"] = kernel
    d.emit(op, operands, **attributes)


@generates("MaxPool", "AveragePool", "LpPool")
def pool(d: Draft, op: str) -> None:
    """Windows, rounded up or down, padding counted or not."""
    x = image(d)
    kernel, attributes = window(d, x)
    if op == "AveragePool" and d.chance(0.5):
        attributes["count_include_pad"] = 1
    if op != "LpPool" and d.opset >= 10 and d.chance(0.3):
        attributes["ceil_mode"] = 1
    if op == "LpPool":
        attributes["p"] = d.pick((1, 2))
    spread = d.opset >= (10 if op == "MaxPool" else 19) and "auto_pad" not in attributes
    if spread and d.chance(0.3):
        attributes["dilations"] = dilations(d, x, kernel)
    d.emit(op, [x], kernel_shape=kernel, **attributes)


@generates("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(d: Draft, op: str) -> None:
    """Over all places."""
    d.emit(op, [image(d)])


@generates("BatchNormalization", "InstanceNormalization", "GroupNormalization")
def channel_normalization(d: Draft, op: str) -> None:
    """By parameters per channel."""
    least = 2 if op == "BatchNormalization" else 3
    x = d.real(lambda v: v.first.ndim >= least and v.first.size > 0, rank=d.integer(least, 5))
    channels = x.shape[1]
    groups = d.pick([g for g in (1, 2, channels) if channels % g == 0])
    number = groups if op == "GroupNormalization" and d.opset < 21 else channels
    operands = [x, d.floats((number,), known=True), d.floats((number,), known=True)]
    attributes: dict[str, Any] = {"epsilon": d.pick((1e-5, 1e-2))} if d.chance(0.5) else {}
    if op == "BatchNormalization":
        operands += [d.floats((channels,), known=True), d.floats((channels,), known=True, low=0.1)]
    elif op == "GroupNormalization":
        attributes["num_groups"] = groups
    d.emit(op, operands, **attributes)


@generates(
    "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization",
    "com.microsoft.SkipLayerNormalization", "com.microsoft.SkipSimplifiedLayerNormalization",
)  # fmt: skip
def layer_normalization(d: Draft, op: str) -> None:
    """Over the last axes."""
    skips = "Skip" in op
    x = d.real(lambda v: v.first.ndim > 0 and v.first.size > 0, rank=3 if skips else None)
    axis = -1 if skips or op == "SimplifiedLayerNormalization" else d.axis(x.first.ndim)
    shape = x.shape[axis:] if axis < 0 else x.shape[axis - x.first.ndim :]
    operands: list[Value | None] = [x, d.floats(shape, known=True)]
    attributes: dict[str, Any] = {"epsilon": d.pick((1e-5, 1e-2))} if d.chance(0.5) else {}
    if skips:
        operands.insert(1, d.real(shape=x.shape))
    elif axis != -1 or d.chance(0.5):
        attributes["axis"] = axis
    if op.endswith("LayerNormalization") and "Simplified" not in op and d.chance(0.7):
        operands.append(d.floats(shape, known=True))
    d.emit(op, operands, **attributes)


@generates("LpNormalization", "MeanVarianceNormalization", "LRN")
def normalization(d: Draft, op: str) -> None:
    """Without parameters."""
    x = d.real(lambda v: v.first.ndim > 0, rank=4 if op == "LRN" else None)
    if op == "LpNormalization":
        d.emit(op, [x], axis=d.axis(x.first.ndim, 1), p=d.pick((1, 2)))
    elif op == "LRN":
        d.emit(op, [x], size=d.pick((1, 3)))
    else:
        axes = d.rng.choice(x.first.ndim, d.integer(1, x.first.ndim), replace=False)
        d.emit(op, [x], axes=sorted(axes.tolist()))


@generates("Attention")
def attention(d: Draft, op: str) -> None:
    """Three operands with heads of their own or packed, groups, masks."""
    batch, heads, queries, keys = (d.integer(1, n) for n in (2, 4, 4, 5))
    depth, width = d.pick((1, 2, 4, 8)), d.pick((1, 2, 4, 8))
    groups = d.pick([g for g in (1, 2, heads) if heads % g == 0])
    attributes: dict[str, Any] = {}
    if d.chance(0.5):
        shapes = [(batch, queries, heads * depth), (batch, keys, groups * depth)]
        shapes.append((batch, keys, groups * width))
        attributes |= {"q_num_heads": heads, "kv_num_heads": groups}
    else:
        shapes = [(batch, heads, queries, depth), (batch, groups, keys, depth)]
        shapes.append((batch, groups, keys, width))
    if d.chance(0.3):
        attributes["is_causal"] = 1
    if d.chance(0.3):
        attributes["scale"] = float(d.rng.uniform(0.1, 1))
    if d.chance(0.1):
        attributes["softcap"] = 2.0
    operands = [d.real(shape=s) for s in shapes]
    if d.chance(0.4):
        shape = d.pick(((queries, keys), (batch, 1, queries, keys), (batch, heads, queries, keys)))
        operands.append(d.condition(shape) if d.chance(0.5) else d.floats(shape, known=True))
    d.emit(op, operands, **attributes)


@generates("RotaryEmbedding")
def rotary(d: Draft, op: str) -> None:
    """Pairs turned by their position."""
    batch, heads, length, depth = (d.integer(1, n) for n in (2, 3, 4, 3))
    x = d.real(shape=(batch, heads, length, 2 * depth))
    tables = [d.floats((batch, length, depth), known=True) for _ in range(2)]
    d.emit(op, [x, *tables], interleaved=int(d.chance(0.5)))


@generates("LSTM", "GRU", "RNN")
def recurrence(d: Draft, op: str) -> None:
    """One direction or both, with and without bias and first state."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    x = d.real(lambda v: 0 < v.first.size <= 256 and v.shape[0] <= 8, rank=3)
    steps, batch, features = x.shape
    hidden = d.integer(1, 4)
    direction = d.pick(("forward", "reverse", "bidirectional"))
    ways = 2 if direction == "bidirectional" else 1
    operands: list[Value | None] = [
        x,
        d.floats((ways, gates * hidden, features), known=True),
        d.floats((ways, gates * hidden, hidden), known=True),
        d.floats((ways, 2 * gates * hidden), known=True) if d.chance(0.7) else None,
        d.integers((batch,), 1, steps, np.int32) if d.chance(0.2) else None,
        d.floats((ways, batch, hidden), known=d.chance(0.5)) if d.chance(0.3) else None,
    ]
    attributes = {"linear_before_reset": int(d.chance(0.5))} if op == "GRU" else {}
    outputs = 3 if op == "LSTM" and d.chance(0.5) else d.integer(1, 2)
    d.emit(op, operands, outputs, hidden_size=hidden, direction=direction, **attributes)


@generates("GridSample")
def grid_sample(d: Draft, op: str) -> None:
    """At computed places."""
    if d.opset < 16:
        raise RejectedError("draft: not in this opset")
    x = d.real(lambda v: 0 < v.first.size <= 512, rank=4)
    grid = d.emit("Tanh", [d.floats((x.shape[0], d.integer(1, 4), d.integer(1, 4), 2))])[0]
    modes = ("linear", "nearest", "cubic") if d.opset >= 20 else ("bilinear", "nearest", "bicubic")
    padding = d.pick(("zeros", "border", "reflection"))
    flags = {"align_corners": int(d.chance(0.5))}
    d.emit(op, [x, grid], mode=d.pick(modes), padding_mode=padding, **flags)
