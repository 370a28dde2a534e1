"""Overflow: intervals hold and are reached, lemmas hold and are needed, offenders are named."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np
import pytest
from exact import exact_values, intervals
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Example, examples

from qcompiler.errors import ContractError, UnprovedError
from qcompiler.graph import Constant, Graph, Input, Op, toposort
from qcompiler.interpret import evaluate
from qcompiler.interval import Interval
from qcompiler.invariants import no_overflow
from qcompiler.ops import (
    Add,
    ArgMax,
    Average,
    Cast,
    Codes,
    Composite,
    ConvInteger,
    Exponentials,
    FloorDiv,
    Gather,
    IntegerLayerNorm,
    MatMulInteger,
    Mul,
    NormalizeInteger,
    ReduceSum,
    Requantize,
    ShiftExponentials,
    ShiftGELU,
    Shiftmax,
    ShiftRight,
    Table,
    Window,
    scalar,
)
from qcompiler.passes import Fuse
from qcompiler.types import Quantization, TensorType

Q8 = Quantization.per_tensor("uint8", 0.1)
_count = itertools.count()
SEEDS = st.integers(0, 2**32 - 1)


def plain(dtype: str, *shape: int, q: Quantization | None = None) -> Input:
    return Input(TensorType(dtype, shape, q), name=f"x{next(_count)}")


def ones(dtype: str, *shape: int, value: int = 1) -> Constant:
    return Constant(np.full(shape, value, dtype))


ENDS = st.tuples(st.integers(-9, 9), st.integers(-9, 9)).map(lambda v: Interval(min(v), max(v)))


@settings(max_examples=60)
@given(ENDS, ENDS)
def test_interval_arithmetic_is_that_of_all_pairs(a: Interval, b: Interval) -> None:
    pairs = list(itertools.product(range(a.low, a.high + 1), range(b.low, b.high + 1)))
    operations = {"+": a + b, "-": a - b, "*": a * b}
    if b.low > 0:
        operations |= {"//": a // b, ">>": a >> b}
    for symbol, found in operations.items():
        results = [eval(f"a {symbol} b", {"a": x, "b": y}) for x, y in pairs]
        assert found == Interval(min(results), max(results))
    both = [x for x in range(a.low, a.high + 1) if b.low <= x <= b.high]
    if both:
        assert a & b == Interval(min(both), max(both))
    assert (a <= b) == (len(both) == a.high - a.low + 1)
    assert a <= a | b


INTEGERS = [e for e in examples() if e.op.type.is_integer]


@pytest.mark.parametrize("example", INTEGERS, ids=lambda e: e.name)
def test_values_lie_in_their_intervals(example: Example) -> None:
    rng, inputs = np.random.default_rng(0), example.graph.inputs
    for feeds in (example.feeds(rng), example.feeds(rng), *example.corners()):
        arrays = [feeds[str(x.name)] for x in inputs]
        known: dict[Op, Interval | None] = {
            x: Interval.of(a) if x.type.is_integer else None
            for x, a in zip(inputs, arrays, strict=True)
        }
        operands = [known[x] if x in known else x.bounded() for x in example.op.operands]
        try:
            proved = example.op.bounded(*operands)
        except UnprovedError:
            assert not isinstance(example.op, Composite)
            continue
        if proved is not None:
            assert Interval.of(evaluate(example.graph, feeds)["y"]) <= proved


@settings(max_examples=40)
@given(SEEDS, st.sampled_from(["uint8", "int8"]), st.booleans())
def test_intervals_of_products_are_reached(seed: int, dtype: str, biased: bool) -> None:
    """By the inputs that are extreme wherever a weight of one channel is not 0."""
    rng, info = np.random.default_rng(seed), np.iinfo(dtype)
    codes = rng.integers(-128, 128, (9, 3)).astype(np.int8)
    bias = Constant(rng.integers(-9999, 9999, 3).astype(np.int32)) if biased else None
    rows = np.concatenate([
        np.where(sign * codes.T.astype(int) > 0, info.max, info.min) for sign in (1, -1)
    ]).astype(dtype)  # fmt: skip
    arrays = [] if bias is None else [bias.array]
    matmul = MatMulInteger(plain(dtype, 6, 9), Constant(codes), bias)
    weight = Constant(np.ascontiguousarray(codes.T).reshape(3, 1, 3, 3))
    conv = ConvInteger(plain(dtype, 6, 1, 3, 3), weight, bias, Window((3, 3)))
    for node, x in ((matmul, rows), (conv, rows.reshape(6, 1, 3, 3))):
        found = node.numpy(x, node.operands[1].array, *arrays)
        assert Interval.of(found) == node.bounded(*(v.bounded() for v in node.operands))


def table(dtype: str) -> Constant:
    reals = np.exp(0.05 * (np.arange(256) - 255)) * np.iinfo(dtype).max
    return Constant(np.floor(reals + 0.5).astype(dtype))


def attacks() -> Iterator[tuple[Composite, tuple[np.ndarray, ...]]]:
    """Composites that have lemmas, and operands that lead to the ends of these."""
    rng = np.random.default_rng(0)
    for cls, n in itertools.product((NormalizeInteger, IntegerLayerNorm), (1, 2, 3, 100, 1024)):
        ends, one = np.arange(n) % 2, np.arange(n) == 0
        x = np.where([ends, one, ends > 0, one], [[-32768], [-32768], [0], [0]], 32767)
        x = np.concatenate([x, x // 30_000]).astype(np.int16)
        for epsilon, center in ((0.0, True), (0.0, False), (1e12, True)):
            yield cls(plain("int16", *x.shape), (1,), epsilon, center), (x,)
    channels = Quantization("uint8", (1e-4, 0.5), (0, 255), 1)
    every = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).reshape(-1, 2)[::257]
    yield ShiftGELU(plain("uint8", *every.shape, q=channels), 1), (every.astype(np.uint8),)
    for dtype, scale in itertools.product(("uint8", "int8"), (0.001, 0.1, 2.0)):
        info = np.iinfo(dtype)
        x = rng.integers(info.min, info.max, (5, 40), dtype, endpoint=True)
        x[0], x[1], x[2], x[1, 0], x[2, 0] = info.min, info.max, info.min, info.min, info.max
        codes = plain(dtype, *x.shape, q=Quantization.per_tensor(dtype, scale))
        for kind in (Shiftmax, ShiftExponentials, ShiftGELU):
            yield kind(codes, 1), (x,)
        yield Exponentials(codes, table("uint8"), 1), (x, table("uint8").array)
    for total in (1, 2, 1000, 2**24 - 1):
        weighted = np.array([[-128 * total, 0, 127 * total]], np.int32)
        reciprocal = np.array([[((1 << 46) + total // 2) // total]], np.int64)
        yield Average(plain("int32", 1, 3), plain("int64", 1, 1)), (weighted, reciprocal)


def test_lemmas_hold_and_are_needed() -> None:
    """Values come to within a factor of 8 of each end that the operands alone do not give."""
    reached: dict[tuple[str, int, str], float] = {}
    for node, operands in attacks():
        values, known = exact_values(node, *operands), intervals(node)
        for i, x in enumerate(x for x in values if x.within is not None):
            assert x.within is not None
            alone, seen = x.interval(*(known[y] for y in x.operands)), Interval.of(values[x])
            for side in ("low", "high"):
                told, end, value = (getattr(v, side) for v in (alone, x.within, seen))
                if not (told < end if side == "low" else end < told):
                    continue
                key = (type(node).__name__, i, side)
                near = 1.0 if value == end else value / end if end else 0.0
                reached[key] = max(reached.get(key, 0.0), min(near, 1 / near if near else 0.0))
    far = {key: near for key, near in reached.items() if near < 1 / 8}
    assert not far
    assert {name for name, _, _ in reached} == {type(node).__name__ for node, _ in attacks()}


def overflows(node: Op) -> list[str]:
    inputs = tuple(x for x in toposort([node]) if isinstance(x, Input))
    return list(no_overflow(Graph(inputs, {"y": node})))


def product(size: int) -> Op:
    x = Input(TensorType("uint8", (1, size), Q8), name="x")
    weight = Input(TensorType("int8", (size, 1)), name="w")
    return MatMulInteger(x, weight, sources=("fc1",))


def requantized(x: Op, multiplier: int = 1 << 20) -> Requantize:
    return Requantize((x,), (ones("int32", value=multiplier),), scalar(1, "int64"), 31, Q8)


def looked_up(last: int) -> Op:
    rows = Constant(np.array([0, last], np.int32))
    return Table(CODES, ones("uint8", 512), Q8, rows)


CODES = plain("uint8", 2, q=Q8)
WIDE = plain("int32", 2, q=Quantization.per_tensor("int32", 0.1))
IMAGE = plain("uint8", 1, 1, 300, 300, q=Q8)
KERNEL = Window((300, 300))
ROW = plain("uint8", 1, 70_000, q=Q8)
INT64 = plain("int64", 4)

PROVED: dict[str, Op] = {
    "the longest product": product(65793),
    "a longer one of small weights": MatMulInteger(
        plain("uint8", 1, 10**6, q=Q8), ones("int8", 10**6, 2, value=8)
    ),
    "a large kernel of small weights": ConvInteger(
        IMAGE, ones("int8", 2, 1, 300, 300), None, KERNEL
    ),
    "a sum of 64 bits": ReduceSum(WIDE, (0,), "int64"),
    "the largest multiplier": requantized(WIDE, 2**30),
    "the last row": looked_up(256),
    "indices of the model": Add(INT64, scalar(2**62, "int64")),
    "sums of the model": ReduceSum(Mul(plain("int32", 9), plain("int32", 9)), (0,)),
    "codes of the model": Add(Codes(plain("float32", 2), Q8), ones("uint8", 2, value=200)),
    "rows of the model": Mul(Gather(ones("int64", 4, value=2**62), INT64), scalar(3, "int64")),
    "places of the model": Cast(Mul(ArgMax(IMAGE, 3), scalar(2**61, "int64")), "int8"),
}


@pytest.mark.parametrize("case", PROVED)
def test_what_is_right_is_proved(case: str) -> None:
    assert overflows(PROVED[case]) == []


UNPROVED: list[tuple[Op, str]] = [
    (
        product(65794),
        r"mat_mul_integer \(fc1\): expected values within int32 \(-2147483648…2147483647\), found "
        r"-2147516160…2130738690; give it fewer bits, or `skip` it, by a rule of the configuration",
    ),
    (
        ConvInteger(IMAGE, ones("int8", 2, 1, 300, 300, value=127), None, KERNEL),
        "conv_integer: expected values within int32 .*, found 0…2914650000;",
    ),
    (
        MatMulInteger(ROW, ones("int8", 70_000, 1, value=-127), ones("int32", 1, value=10**9)),
        "mat_mul_integer: expected values within int32 .*, found -2266950000…0;",
    ),
    (ReduceSum(WIDE, (0,)), "reduce_sum: expected values within int32"),
    (requantized(WIDE, -(2**31)), r"requantize: shift_right: expected values below 2\^62, found"),
    (looked_up(257), "table: lookup: expected indices of 0…511, found 0…512"),
    (Mul(WIDE, WIDE), "mul: expected values within int32"),
    (
        Cast(Add(Cast(CODES, "int16"), scalar(-129, "int16")), "int8"),
        "cast: expected values within",
    ),
    (FloorDiv(CODES, CODES), "floor_div: expected divisors above 0, found 0…255"),
    (
        ShiftRight(Cast(CODES, "int64"), Cast(CODES, "int64")),
        "shift_right: expected shifts of 0…62",
    ),
    (
        Add(ReduceSum(CODES, (0,)), ReduceSum(WIDE, (0,))),
        "reduce_sum: expected values within int32",
    ),
]


@pytest.mark.parametrize(("node", "message"), UNPROVED, ids=[m[:24] for _, m in UNPROVED])
def test_what_may_overflow_is_named(node: Op, message: str) -> None:
    first, *_ = overflows(node)
    assert re.match(message, first)


def test_a_kernel_names_the_op_inside() -> None:
    found = product(65794)
    graph = Graph(
        tuple(x for x in found.operands if isinstance(x, Input)), {"y": requantized(found)}
    )
    message = r"^pass fuse must ensure no_overflow: mat_mul_integer \(fc1\): expected values within"
    with pytest.raises(ContractError, match=message):
        Fuse()(graph)
    assert not overflows(requantized(product(65793)))
