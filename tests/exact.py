"""Composites in Python's unbounded integers, every value checked against what is proved of it."""

from __future__ import annotations

import numpy as np

from qcompiler import ops
from qcompiler.graph import Constant, Op, fold
from qcompiler.interval import Interval
from qcompiler.ops import Composite


def assert_exact(node: Composite, *operands: np.ndarray) -> np.ndarray:
    """The op's value, which no overflow has touched: equal to that of unbounded integers."""
    found = node.numpy(*operands)
    expected = exact_values(node, *operands)[node.expansion]
    assert found.shape == expected.shape
    assert (found == expected.astype(found.dtype)).all()
    assert found.dtype == node.type.dtype
    return found


def exact_values(node: Composite, *operands: np.ndarray) -> dict[Op, np.ndarray]:
    """The values of all ops of a body, each within its lemma and where its interval says."""
    env = {x: a.astype(object) for x, a in zip(node.operands, operands, strict=True)}
    values = fold([node.expansion], env, _visit)
    for x, proved in intervals(node).items():
        if proved is not None and values[x].size:
            assert Interval.of(values[x]) <= proved, x
    return values


def intervals(node: Composite) -> dict[Op, Interval | None]:
    """Where the values of all ops of a body lie, of operands that are whatever their types hold."""
    known = {x: x.bounded() or x.type.limits for x in node.operands}
    return fold([node.expansion], known, lambda x, xs: x.bounded(*xs))


def _visit(node: Op, values: list[np.ndarray]) -> np.ndarray:
    result = np.asarray(_value(node, values), object)
    if node.type.is_integer and result.size:
        info = np.iinfo(node.type.dtype)
        assert info.min <= result.min(), node
        assert result.max() <= info.max, node
    return result


def _value(node: Op, v: list[np.ndarray]) -> np.ndarray:
    match node:
        case Constant(array=array):
            return array.astype(object)
        case ops.Add() | ops.Sub() | ops.Mul() | ops.FloorDiv():
            operator = {"add": "__add__", "sub": "__sub__", "mul": "__mul__"}
            return getattr(v[0], operator.get(node.kind(), "__floordiv__"))(v[1])
        case ops.ShiftRight():
            assert (np.abs(v[0]) < 1 << 62).all()
            assert ((v[1] >= 0) & (v[1] <= 62)).all()
            return v[0] >> v[1]
        case ops.Minimum() | ops.Maximum() | ops.GreaterEqual() | ops.Select() | ops.ReduceMax():
            return node.numpy(*v)
        case ops.Clip(low=low, high=high):
            return np.clip(v[0], low, high)
        case ops.Cast():
            return v[0]
        case ops.ReduceSum(axes=axes):
            return v[0].sum(axes, keepdims=True)
        case ops.Lookup():
            return v[1][v[0].astype(np.int64)]
        case Composite():
            env = dict(zip(node.operands, v, strict=True))
            return fold([node.expansion], env, _visit)[node.expansion]
    raise AssertionError(f"no exact form of {node.kind()}")
