"""Integers that mean real numbers: what an operator takes them for, and what it makes of them.

In the real language a value that a model keeps in codes is a `FakeQuantize`, and integers that it
goes on with are `Codes`.  Dequantizing takes the shortest way back: codes that only moved since
they were quantized are the real value, moved; codes of a constant are a constant that is to get
exactly these codes again; of all other integers arithmetic makes real numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from qcompiler.frontends.onnx_fold import fold, simplified
from qcompiler.frontends.onnx_node import Node
from qcompiler.graph import Constant, Op
from qcompiler.ops import (
    Add,
    Cast,
    Clip,
    Codes,
    Div,
    Equal,
    FakeQuantize,
    Floor,
    Mul,
    Pad,
    Relu,
    Reshape,
    Select,
    Sub,
    scalar,
)
from qcompiler.types import FLOAT, Quantization, Storage, TensorType

KEPT = frozenset(["DequantizeLinear", "QuantizeLinear"])
"""Operators that stay what they are even if all their operands are constants."""


def storage_of(x: Op) -> str:
    """What integers a value may hold: its dtype, or fewer bits that are kept in it."""
    if isinstance(x, Codes):
        return x.meaning.storage
    q = x.type.quantization
    return q.storage if q is not None else x.type.dtype


def integers(array: np.ndarray, storage: str) -> Constant:
    """A constant of integers of any width."""
    bounds = Storage(storage)
    array = array.astype(bounds.dtype)
    if storage == bounds.dtype:
        return Constant(array)
    plain = Quantization.per_tensor(storage, 1.0)
    return Constant(array, TensorType(bounds.dtype, array.shape, plain))


def known_quantization(
    node: Node, scale: Op, zero_point: Op | None, storage: str, axis: int | None = None
) -> Quantization | None:
    """What codes mean, where that is known; None where it is computed.

    Args:
        node: For errors.
        scale: One, or one per index of `axis`.
        zero_point: As many; None for 0.
        storage: Of the codes.
        axis: Counted from the front; one scale alone is for the whole tensor.
    """
    if not isinstance(scale, Constant) or not isinstance(zero_point, Constant | None):
        return None
    scales = scale.array.reshape(-1).astype(np.float64)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise node.broken("expected positive finite scales")
    zeros = np.zeros(len(scales), np.int64)
    if zero_point is not None:
        if zero_point.type.size != len(scales):
            raise node.broken(f"expected {len(scales)} zero points, found {zero_point.type.size}")
        zeros = zero_point.array.reshape(-1).astype(np.int64)
    if len(scales) == 1:
        return Quantization.per_tensor(storage, scales[0], int(zeros[0]))
    if axis is None:
        raise node.unsupported(f"{len(scales)} scales for one tensor")
    return Quantization(storage, tuple(scales.tolist()), tuple(zeros.tolist()), axis)


def dequantized(
    node: Node, codes: Op, scale: Op, zero_point: Op | None, axis: int | None = None
) -> Op:
    """scale·(codes − zero_point) as a real value."""
    q = None
    if scale.type.rank < 2 or scale.type.size == 1:
        q = known_quantization(node, scale, zero_point, storage_of(codes), axis)
    if q is None:  # computed, or one scale per element
        real = _real(codes)
        if zero_point is not None:
            real = simplified(Sub(real, _aligned(_real(zero_point), axis, codes.type.rank)))
        return simplified(Mul(real, _aligned(scale, axis, codes.type.rank)))
    _check_axis(node, codes, q)
    if isinstance(codes, Constant):
        return _constant(codes, q)
    if q.axis is not None:
        return (
            codes.real if isinstance(codes, Codes) and codes.meaning == q else _arithmetic(codes, q)
        )
    return moved_back(codes, lambda leaf: _leaf(leaf, q), q)


def quantized(
    node: Node, x: Op, scale: Op, zero_point: Op | None, storage: str, axis: int | None = None
) -> Op:
    """round(x / scale) + zero_point as integers."""
    q = None
    if scale.type.rank < 2 or scale.type.size == 1:
        q = known_quantization(node, scale, zero_point, storage, axis)
    if q is not None:
        _check_axis(node, x, q)
        if not isinstance(x, Constant):
            return Codes(x, q)
        with np.errstate(over="ignore"):  # to infinities, which saturate
            whole = np.rint(x.array / q.scales(x.type.rank).astype(np.float32))
        codes = np.clip(whole + q.zero_points(x.type.rank), q.bounds.low, q.bounds.high)
        return integers(codes, storage)
    bounds, rank = Storage(storage), x.type.rank
    if bounds.bits > 16:
        raise node.unsupported(f"a computed scale of {storage}")
    steps = _half_even(Div(x, _aligned(scale, axis, rank)))
    if zero_point is not None:
        steps = Add(steps, _aligned(_real(zero_point), axis, rank))
    return fold(Cast(Clip(steps, float(bounds.low), float(bounds.high)), bounds.dtype))


def moved_back(codes: Op, leaf: Callable[[Op], Op], q: Quantization | None) -> Op:
    """The real value of integers that were moved about, from the real values of what was moved.

    Args:
        codes: Integers.
        leaf: From integers that no movement made to the real value that they mean.
        q: What the integers mean, which holds for all of them; None where that is not known yet.
    """
    env: dict[Op, Op] = {}
    for node, moved in _walk(codes, q):
        if moved is None:
            env[node] = leaf(node)
            continue
        value = _on_reals(node, [env[x] if x in moved else x for x in node.operands], q)
        env[node] = value if q is None else FakeQuantize(value, q)
    return env[codes]


def unmoved(codes: Op) -> Iterator[Op]:
    """The values whose elements some integers are, as far as they were only moved about."""
    return (node for node, moved in _walk(codes, None) if moved is None)


def _walk(codes: Op, q: Quantization | None) -> Iterator[tuple[Op, tuple[Op, ...] | None]]:
    """Each op with the operands whose elements it takes over, those first; None where it ends."""
    seen: set[Op] = set()
    stack = [(codes, False)]
    while stack:
        node, expanded = stack.pop()
        moved = _moved(node, q)
        if expanded or (moved is None and node not in seen):
            yield node, moved
        elif node not in seen:
            stack.append((node, True))
            stack.extend((x, False) for x in moved or ())
        seen.add(node)


def _moved(node: Op, q: Quantization | None) -> tuple[Op, ...] | None:
    """The operands whose elements an op takes over, if it does only that."""
    if isinstance(node, (Clip, Relu)) and q is not None:
        return (node.x,)
    if isinstance(node, Pad) and q is None:
        return None
    return node.fields(node.moves) or None


def _on_reals(node: Op, operands: list[Op], q: Quantization | None) -> Op:
    """A movement of codes as one of real values."""
    if q is None:
        return node.with_operands(operands)

    def real(code: float) -> float:
        return float((code - q.zero_point[0]) * q.scale[0])

    match node:
        case Pad(value=code):
            return replace(node, x=operands[0], value=real(code))
        case Clip(low=low, high=high):
            bounds = (None if v is None else real(v) for v in (low, high))
            return Clip(_not_rounded(operands[0]), *bounds)
        case Relu():
            return Clip(_not_rounded(operands[0]), real(0))
    return node.with_operands(operands)


def _not_rounded(x: Op) -> Op:
    """What is clamped at codes may be clamped before it is rounded."""
    return x.x if isinstance(x, FakeQuantize) else x


def _leaf(codes: Op, q: Quantization) -> Op:
    match codes:
        case Codes(meaning=meaning) if meaning == q:
            return codes.real
        case Codes(meaning=meaning) if meaning.axis is None:  # s·(c − z) with c = r/s' + z'
            term = q.scale[0] * (meaning.zero_point[0] - q.zero_point[0])
            value: Op = Mul(codes.real, scalar(q.scale[0] / meaning.scale[0], FLOAT))
            return FakeQuantize(Add(value, scalar(term, FLOAT)), q)
        case Constant():
            return _constant(codes, q)
    return _arithmetic(codes, q)


def _arithmetic(codes: Op, q: Quantization) -> Op:
    """s·(c − z), which is kept in the codes that it comes from."""
    rank = codes.type.rank
    real: Op = Cast(codes, FLOAT)
    if any(q.zero_point):
        real = Sub(real, Constant(q.zero_points(rank).astype(np.float32)))
    real = Mul(real, Constant(q.scales(rank).astype(np.float32)))
    return FakeQuantize(real, q) if q.bounds.bits <= 16 else real


def _constant(codes: Constant, q: Quantization) -> Op:
    """The real numbers of known codes, which are to be kept unless they are biases."""
    rank = codes.type.rank
    reals = (codes.array.astype(np.int64) - q.zero_points(rank)) * q.scales(rank)
    real = Constant(reals.astype(np.float32), name=codes.name)
    return FakeQuantize(real, q) if q.bounds.bits <= 16 else real


def _check_axis(node: Node, x: Op, q: Quantization) -> None:
    if q.axis is not None and x.type.shape[q.axis] != len(q.scale):
        raise node.broken(f"{len(q.scale)} scales on axis {q.axis} of {x.type}")


def _aligned(values: Op, axis: int | None, rank: int) -> Op:
    """One value, values along an axis, or one per element, to be broadcast."""
    if values.type.rank > 1 and values.type.size > 1:
        return values
    if values.type.size == 1:
        return simplified(Reshape(values, ()))
    shape = tuple(-1 if i == axis else 1 for i in range(rank))
    return simplified(Reshape(values, tuple(values.type.size if d < 0 else d for d in shape)))


def _real(integers: Op) -> Op:
    return simplified(Cast(integers, FLOAT))


def _half_even(x: Op) -> Op:
    """The nearest whole number, the even one of two."""
    below = Floor(x)
    half = scalar(0.5, FLOAT)
    rest = Sub(x, below)
    odd = Sub(below, Mul(scalar(2, FLOAT), Floor(Mul(below, half))))
    return Add(below, Select(Equal(rest, half), odd, Floor(Add(rest, half))))
