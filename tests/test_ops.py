"""Every op: an example exists, ONNX Runtime agrees with numpy, ill-typed ones cannot be built."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from example import given
from runtime import assert_agrees
from tiny import Example, examples

import qcompiler.ops as ops
from qcompiler.backends.onnx import to_model
from qcompiler.errors import TypingError
from qcompiler.graph import Constant, Input, Op
from qcompiler.interpret import evaluate
from qcompiler.types import FLOAT, Quantization, TensorType

EXAMPLES = examples()


def concrete(cls: type[Op]) -> Iterator[type[Op]]:
    """The ops of `qcompiler.ops` below `cls` that are not bases of others."""
    found = cls.__subclasses__()
    for subclass in found:
        yield from concrete(subclass)
    if not found and cls.__module__.startswith("qcompiler.ops"):
        yield cls


def named(example: Example) -> str:
    return example.name


def test_every_op_has_two_examples() -> None:
    counts = Counter(type(example.op) for example in EXAMPLES)
    missing = [cls.__name__ for cls in concrete(Op) if counts[cls] < 2]
    assert not missing, "add examples to tests/op_examples.py"


def test_every_op_is_exported() -> None:
    missing = {cls.__name__ for cls in concrete(Op)} - set(ops.__all__)
    assert not missing


def test_composites_say_whether_their_bodies_are_elementwise() -> None:
    for node in (e.op for e in EXAMPLES if not isinstance(e.op, ops.Fused)):
        body = (x for x in ops.skeleton(node).graph.ops if not isinstance(x, Input))
        assert node.elementwise == all(x.elementwise for x in body), node.kind()


@pytest.mark.parametrize("inline", [False, True], ids=["functions", "inline"])
@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_onnx_runtime_agrees(example: Example, inline: bool) -> None:
    model = to_model(example.graph, inline=inline)
    rng = np.random.default_rng(0)
    for feeds in (example.feeds(rng), *example.corners()):
        assert_agrees(example.graph, model, feeds)


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_the_value_has_the_inferred_type(example: Example) -> None:
    y = evaluate(example.graph, example.feeds(np.random.default_rng(1)))["y"]
    assert TensorType(str(y.dtype), y.shape) == dataclasses.replace(
        example.op.type, quantization=None
    )
    if (q := example.op.type.quantization) is not None:
        assert q.bounds.low <= y.min() <= y.max() <= q.bounds.high


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_evaluation_leaves_its_feeds_alone(example: Example) -> None:
    feeds = example.feeds(np.random.default_rng(2))
    before = {name: array.copy() for name, array in feeds.items()}
    evaluate(example.graph, feeds)
    for name, array in feeds.items():
        np.testing.assert_array_equal(array, before[name])


ANY_DTYPE = (ops.Reshape, ops.Transpose, ops.Slice, ops.Pad, ops.Expand, ops.Cast)


def with_wrong_dtypes() -> Iterator[tuple[Op, int]]:
    """Each example and the operands of it that may not be of just any dtype."""
    for node in (example.op for example in EXAMPLES):
        for i in range(0 if isinstance(node, ANY_DTYPE) else len(node.operands)):
            if not (isinstance(node, ops.Lookup) and i == 1):
                yield node, i


@pytest.mark.parametrize(
    ("node", "i"), list(with_wrong_dtypes()), ids=lambda v: v if isinstance(v, int) else v.kind()
)
def test_a_wrong_dtype_is_refused(node: Op, i: int) -> None:
    old = node.operands[i].type
    wrong = Input(TensorType("float64" if old.dtype == "bool" else "bool", old.shape), name="w")
    operands = [wrong if j == i else x for j, x in enumerate(node.operands)]
    with pytest.raises(TypingError, match=f"^{node.kind()}: .*expected .*, found") as info:
        node.with_operands(operands)
    assert "\n" not in str(info.value)


def x(*shape: int, dtype: str = FLOAT, quantization: Quantization | None = None) -> Input:
    return given(dtype, *shape, quantization=quantization)


def u8(*shape: int) -> Input:
    return x(*shape, dtype="uint8")


def s8(*shape: int) -> Input:
    return x(*shape, dtype="int8")


Q8 = Quantization.per_tensor("uint8", 0.1)
Q18 = Quantization.per_tensor("int18", 0.1)
CHANNELS = Quantization("uint8", (0.1, 0.2), (0, 0), 1)
WIDE, BEYOND = x(2, dtype="int32", quantization=Q18), x(4, 2, 3, dtype="bool")
CODES = x(3, 2, dtype="uint8", quantization=CHANNELS)
W3 = ops.Window((3, 3))
EXTREME = Constant(np.full((4, 1), -(2**31), np.int32))

ILL_TYPED: list[tuple[Callable[[], Op], str]] = [
    (lambda: ops.Add(x(2, 3), x(4)), "add: expected shapes that broadcast, found"),
    (lambda: ops.Add(x(2), x(2, dtype="int32")), "add: expected operands of one dtype"),
    (lambda: ops.FloorDiv(x(2), x(2)), "floor_div: expected integers"),
    (lambda: ops.Div(u8(2), u8(2)), "div: expected a float dividend"),
    (lambda: ops.Clip(u8(2), 0, 300), "clip: expected uint8 bounds, found 300"),
    (lambda: ops.Clip(u8(2), 0.5), "clip: expected uint8 bounds, found 0.5"),
    (
        lambda: ops.Mul(x(2, dtype="uint64"), x(2, dtype="uint64")),
        "mul: expected numbers of at most",
    ),
    (lambda: ops.Select(x(2, dtype="bool"), x(2), u8(2)), "select: expected float32"),
    (lambda: ops.Cast(x(2), "int4"), "cast: dtype 'int4': expected one of"),
    (lambda: ops.Conv(x(1, 3, 8, 8), x(4, 2, 3, 3), None, W3), "conv: expected a weight for 3"),
    (lambda: ops.Conv(x(3, 8, 8), x(4, 3, 3, 3), None, W3), "conv: expected operands of rank 4"),
    (lambda: ops.Conv(x(1, 3, 2, 2), x(4, 3, 3, 3), None, W3), "conv: window 3x3: expected"),
    (lambda: ops.Conv(x(1, 3, 8, 8), x(4, 3, 3, 3), x(5), W3), r"conv: expected a bias \[4\]"),
    (lambda: ops.Conv(x(1, 4, 8, 8), x(5, 2, 3, 3), None, W3, 2), "conv: expected a weight"),
    (lambda: ops.MatMul(x(2, 3), x(4, 5)), r"mat_mul: expected operands \[..., m, k\]"),
    (lambda: ops.MatMul(x(3), x(3, 5)), r"mat_mul: expected operands \[..., m, k\]"),
    (lambda: ops.MatMul(x(2, 4, 3), x(3, 3, 5)), "mat_mul: expected leading axes"),
    (lambda: ops.MatMulInteger(u8(2, 3), u8(3, 2)), "mat_mul_integer: expected int8 codes"),
    (lambda: ops.MatMulInteger(u8(2, 9), s8(9, 2), x(2)), "expected a bias int32"),
    (lambda: ops.BatchNormalization(x(1, 3), x(3), x(3), x(3), x(2)), "expected parameters"),
    (lambda: ops.ReduceMean(x(2, 3), (2,)), "reduce_mean: expected distinct axes below 2, found"),
    (lambda: ops.ReduceSum(u8(9), ()), "reduce_sum: expected distinct axes below 1"),
    (lambda: ops.Softmax(x(2, 3), -1), "softmax: expected an axis of x, found -1"),
    (lambda: ops.MaxPool(u8(1, 2, 2, 2), W3), "max_pool: window 3x3: expected at least"),
    (
        lambda: ops.AveragePool(x(1, 1, 3, 3), ops.Window((1, 1), pads=(1, 1, 1, 1))),
        "average_pool: expected no empty window",
    ),
    (lambda: ops.Lookup(u8(2), u8(256)), "lookup: expected an int32 index"),
    (lambda: ops.Lookup(x(2, dtype="int32"), u8(2, 2)), "lookup: expected a table of rank 1"),
    (lambda: ops.Reshape(x(2, 3), (4,)), "reshape: expected 6 elements"),
    (lambda: ops.Transpose(x(2, 3), (0, 0)), "transpose: expected a permutation of 2 axes"),
    (lambda: ops.Slice(x(4), (0,), (5,), (1,)), "slice: expected a range within 0:4:1, found 0:5"),
    (lambda: ops.Slice(x(4), (0, 0), (4, 4), (1, 1)), "slice: expected 1 ranges, found 2"),
    (lambda: ops.Slice(x(), (), (), ()), "slice: expected an operand of rank ≥ 1"),
    (lambda: ops.Pad(x(), (), ()), "pad: expected an operand of rank ≥ 1"),
    (lambda: ops.Pad(x(4), (-1,), (0,)), "pad: expected 2 pads ≥ 0"),
    (lambda: ops.Pad(u8(4), (1,), (0,), 256), "pad: expected a uint8 value, found 256"),
    (lambda: ops.Expand(x(2, 3), (2, 4)), "expand: expected a shape that"),
    (lambda: ops.Concat((x(2, 3), x(3, 3)), 1), "concat: expected operands like"),
    (lambda: ops.Concat((x(2), x(2)), 1), "concat: expected an axis below 1, found 1"),
    (
        lambda: ops.Concat((u8(2), x(2, dtype="uint8", quantization=Q8)), 0),
        "concat: expected operands like",
    ),
    (
        lambda: ops.Reshape(x(3, 2, dtype="uint8", quantization=CHANNELS), (6,)),
        "reshape: expected axis 1 of",
    ),
    (lambda: ops.Quantize(x(2, 3), CHANNELS), "quantize: 2 scales on axis 1: found the shape"),
    (lambda: ops.Dequantize(u8(2)), "dequantize: expected codes that have a quantization"),
    (
        lambda: ops.Requantize((u8(2),), (EXTREME,), EXTREME, 31, Q8),
        "requantize: expected an int64 offset",
    ),
    (
        lambda: ops.Requantize((u8(2),), (EXTREME,), ops.scalar(0, "int64"), 63, Q8),
        "requantize: expected a shift of 1…62, found 63",
    ),
    (
        lambda: ops.Table(u8(2), u8(255), Q8),
        r"table: expected uint8\[256\] or a multiple, found uint8\[255\]",
    ),
    (lambda: ops.Table(x(2, dtype="int32"), u8(256), Q8), "table: expected 8 or 16 bits"),
    (lambda: ops.Table(x(2, dtype="int16"), u8(256), Q8), r"table: expected uint8\[65536\]"),
    (lambda: ops.MatMul(x(2, 3), x(3, 5), x(4)), r"mat_mul: expected a bias \[5\]"),
    (lambda: ops.Not(x(2, dtype="bfloat16")), "not: expected a bool operand"),
    (
        lambda: ops.NormalizeInteger(x(2, 3, dtype="int32", quantization=Q18), (1,), 0.0),
        "normalize_integer: expected codes of at most 16 bits",
    ),
    (
        lambda: ops.Table(u8(2, 2), u8(512), Q8, Constant(np.array([0, 256]))),
        "table: expected int32 rows",
    ),
    (
        lambda: ops.Divide(WIDE, WIDE, Constant(np.array(1, np.int32)), 0, Q8),
        "divide: expected at most 16 bits",
    ),
    (
        lambda: ops.ShiftExponentials(x(2, 3, dtype="uint8", quantization=Q8), 1, BEYOND),
        "shift_exponentials: expected a mask that fits",
    ),
    (lambda: ops.ArgMax(x(2, 3), 2), "arg_max: expected an axis of"),
    (lambda: ops.ArgMax(x(2, 0), 1), "arg_max: expected elements along the axis"),
    (lambda: ops.TopK(x(2, 3), 1, 4), "top_k: expected"),
    (lambda: ops.Lookup(x(2, dtype="int32"), u8()), "lookup: expected a table of rank 1"),
    (lambda: ops.Softmax(x(2, 3), 1, x(4, 2, 3, dtype="bool")), "softmax: expected a bool mask"),
    (lambda: ops.Slice(CODES, (0, 0), (1, 2), (1, 1)), "slice: expected one scale per tensor"),
    (
        lambda: ops.Scatter(x(4, dtype="bool"), x(1, dtype="int64"), x(1, dtype="bool")),
        "scatter: expected numbers",
    ),
    (
        lambda: ops.ConvInteger(u8(1, 3, 8, 8), s8(4, 2, 3, 3), None, W3),
        "conv_integer: expected a weight for 3",
    ),
    (
        lambda: ops.Average(x(2, dtype="int32"), x(2, dtype="int32")),
        "average: expected int64, found int32",
    ),
    (
        lambda: ops.Divide(CODES, CODES, Constant(np.array(1, np.int32)), 0, CHANNELS),
        "divide: expected one scale",
    ),
    (
        lambda: Constant(np.zeros(3, np.int8), TensorType("uint8", (3,))),
        r"constant: expected uint8\[3\], found int8\[3\]",
    ),
]


@pytest.mark.parametrize(("build", "message"), ILL_TYPED, ids=[m[:40] for _, m in ILL_TYPED])
def test_ill_typed_ops_cannot_be_built(build: Callable[[], Op], message: str) -> None:
    with pytest.raises(TypingError, match=message):
        build()


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0.0, 3), (-0.0, 3), (0.25, 4), (-0.25, 3), (0.75, 5), (-0.75, 2), (0.2499, 3),
        (1e30, 255), (-1e30, 0), (np.inf, 255), (-np.inf, 0), (np.nan, 0), (125.8, 255),
    ],
)  # fmt: skip
def test_quantize_rounds_half_up_and_saturates(value: float, code: int) -> None:
    node = ops.Quantize(x(1), Quantization.per_tensor("uint8", 0.5, 3))
    assert node.numpy(np.array([value], np.float32)).tolist() == [code]


@pytest.mark.parametrize(("value", "high"), [(3e9, 2**31 - 1), (-3e9, -(2**31))])
def test_quantize_saturates_at_32_bits(value: float, high: int) -> None:
    """The bounds of int32 are no float32: the nearest one inside is taken."""
    node = ops.Quantize(x(1), Quantization.per_tensor("int32", 1.0))
    code = int(node.numpy(np.array([value], np.float32))[0])
    assert abs(code - high) < 128
    assert abs(code) <= 2**31


def test_a_window_may_be_coarse_in_everything() -> None:
    node = ops.MaxPool(u8(1, 1, 5, 5), ops.Window((2, 2), (2, 2), dilations=(2, 2)))
    array = np.arange(25, dtype=np.uint8).reshape(1, 1, 5, 5)
    assert node.numpy(array).tolist() == [[[[12, 14], [22, 24]]]]


def test_errors_name_the_users_node() -> None:
    with pytest.raises(TypingError, match=r"^relu \(/features/act\): expected"):
        ops.Relu(u8(2), sources=("/features/act",))


def test_products_of_extreme_codes_are_exact() -> None:
    """The largest sums that the overflow check admits: 255·(−128) and 255·127, K = 65793."""
    row = Constant(np.full((1, 65793), 255, np.uint8))
    for code in (-128, 127):
        node = ops.MatMulInteger(row, Constant(np.full((65793, 1), code, np.int8)))
        assert node.numpy(row.array, node.weight.numpy())[0, 0] == 65793 * 255 * code


def test_lookup_tables_cover_all_codes_of_all_pairs() -> None:
    for dtype, result in itertools.product(("uint8", "int8"), ("uint8", "int8")):
        info = np.iinfo(dtype)
        codes = np.arange(info.min, info.max + 1).astype(dtype)
        values = np.random.default_rng(0).permutation(256).astype(result)
        q = Quantization.per_tensor(result, 1.0)
        node = ops.Table(x(256, dtype=dtype), Constant(values), q)
        np.testing.assert_array_equal(node.numpy(codes, values), values)
