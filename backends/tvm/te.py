"""The TE vocabulary `t` that `Op.te` and `Op.scalar` are written in.

Integer results have the reference's bits.  So has float32 arithmetic on elements: LLVM would
contract a product and a sum into one FMA with one rounding, which numpy does not do, so every
float product is fenced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tvm import te, tirx, topi

from qcompiler.backends.tvm.te_search import arg_extreme, scatter, top_k
from qcompiler.graph import Graph, Op
from qcompiler.ops import AveragePool, Conv, ConvInteger, MatMul, MatMulInteger, MaxPool, Mul
from qcompiler.ops.window import Window

Expr = Any
"""A TIR expression; TVM ships no types."""
Tensor = Any
"""A TE tensor, or anything else that indexes like one."""

__all__ = [
    "all",
    "arg_extreme",
    "average_pool",
    "cast",
    "compute",
    "const",
    "convolution",
    "element",
    "elementwise",
    "floor",
    "floordiv",
    "fmod",
    "if_then_else",
    "intrinsic",
    "load",
    "logical_not",
    "matmul",
    "max",
    "max_pool",
    "maximum",
    "min",
    "minimum",
    "pow",
    "reduce",
    "scatter",
    "select",
    "sum",
    "top_k",
    "topi",
]

compute = te.compute
sum = te.sum
maximum = te.max
minimum = te.min
logical_not = tirx.Not
min = tirx.min
max = tirx.max
select = tirx.Select
floor = tirx.floor
floordiv = tirx.floordiv
if_then_else = tirx.if_then_else
pow = tirx.pow


def const(value: float, dtype: str) -> Expr:
    """A scalar of that dtype."""
    name = str(dtype)
    return tirx.const(float(value) if name.startswith("float") else int(value), name)


def cast(x: Expr, dtype: str) -> Expr:
    """x as another dtype."""
    return x.astype(dtype)


def intrinsic(name: str, x: Expr) -> Expr:
    """A function of the C mathematical library, such as "exp"."""
    return getattr(tirx, name)(x)


def fmod(a: Expr, b: Expr) -> Expr:
    """C's remainder of floats, for which TVM has no form of its own on CPUs."""
    name = "fmodf" if str(a.dtype) == "float32" else "fmod"
    return tirx.call_pure_extern(a.dtype, name, a, b)


def all(tests: Sequence[Expr]) -> Expr:
    """Whether every test holds."""
    return tirx.all(*tests)


def element(op: Op, operands: Sequence[Expr]) -> Expr:
    """One element of an elementwise op from one element of each operand.

    Operands that `op.whole` names are buffers or tensors instead.
    """
    import qcompiler.backends.tvm.te as t

    value = op.scalar(t, *operands)  # type: ignore[attr-defined]
    if isinstance(op, Mul) and op.type.is_float:
        return tirx.call_llvm_pure_intrin(op.type.dtype, "llvm.arithmetic.fence", value)
    return value


def load(x: Tensor, index: Sequence[Expr]) -> Expr:
    """The element of x that numpy's broadcasting puts at an index of the result."""
    shape = [int(d) for d in x.shape]
    own = index[len(index) - len(shape) :]
    return x[
        tuple(tirx.const(0, "int32") if d == 1 else i for i, d in zip(own, shape, strict=True))
    ]


def whole_operands(op: Op) -> list[bool]:
    """For each operand, whether `element` takes it as a whole."""
    names: tuple[str, ...] = getattr(op, "whole", ())
    wholes = {getattr(op, name) for name in names}
    return [x in wholes for x in op.operands]


def tables(graph: Graph) -> set[Op]:
    """The values that ops of a graph take as a whole."""
    return {x for x, whole in _reads(graph) if whole}


def read_by_element(graph: Graph) -> set[Op]:
    """The values of which ops of a graph take one element, or that are not elementwise."""
    return {x for x, whole in _reads(graph) if not whole}


def _reads(graph: Graph) -> Iterator[tuple[Op, bool]]:
    for node in graph.ops:
        yield from zip(node.operands, whole_operands(node), strict=True)


def elementwise(op: Op, operands: Sequence[Tensor]) -> Tensor:
    """An elementwise op on tensors that broadcast together."""
    wholes = whole_operands(op)

    def at(*index: Expr) -> Expr:
        values = [x if whole else load(x, index) for x, whole in zip(operands, wholes, strict=True)]
        return element(op, values)

    return te.compute(op.type.shape, at, name=op.kind())


def reduce(reducer: Callable[..., Expr], op: Any, x: Tensor, dtype: str) -> Tensor:
    """Reduce x over `op.axes`, which stay with size 1, in `dtype`."""
    axes = {a: te.reduce_axis((0, int(x.shape[a])), f"r{a}") for a in op.axes}

    def at(*index: Expr) -> Expr:
        source = [axes.get(i, v) for i, v in enumerate(index)]
        return reducer(x(*source).astype(dtype), axis=list(axes.values()))

    return te.compute(op.type.shape, at, name="total")


def matmul(
    op: MatMul | MatMulInteger, a: Tensor, b: Tensor, bias: Tensor | None, dtype: str
) -> Tensor:
    """a [..., m, k] by b [..., k, n], summed in `dtype`, plus bias [n]."""
    k = te.reduce_axis((0, int(a.shape[-1])), "k")

    def at(*index: Expr) -> Expr:
        *leading, i, j = index
        left = load(a, (*leading, i, k.var)).astype(dtype)
        return te.sum(left * load(b, (*leading, k.var, j)).astype(dtype), axis=[k])

    total = te.compute(op.type.shape, at, name="total")
    if bias is None:
        return total
    return te.compute(op.type.shape, lambda *i: total(*i) + bias[i[-1]], name="biased")


def convolution(
    op: Conv | ConvInteger, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: str
) -> Tensor:
    """x by weight [o, c / groups, kh, kw], summed in `dtype`, plus bias [o]."""
    last = isinstance(op, ConvInteger) and op.channels_last
    channel, height, width = (3, 1, 2) if last else (1, 2, 3)
    outputs, inner, kh, kw = (int(d) for d in weight.shape)
    zero = const(0, x.dtype)
    c, i, j = (te.reduce_axis((0, d), name) for d, name in ((inner, "c"), (kh, "i"), (kw, "j")))

    def at(*index: Expr) -> Expr:
        o = index[channel]
        source = list(index)
        first = 0 if op.groups == 1 else tirx.floordiv(o, outputs // op.groups) * inner
        source[channel] = first + c.var
        inside = []
        for axis, tap, direction in ((height, i, 0), (width, j, 1)):
            source[axis], tests = _tap(op.window, direction, index[axis], tap, int(x.shape[axis]))
            inside += tests
        value = x(*source)
        value = tirx.if_then_else(tirx.all(*inside), value, zero) if inside else value
        return te.sum(value.astype(dtype) * weight[o, c, i, j].astype(dtype), axis=[c, i, j])

    total = te.compute(op.type.shape, at, name="total")
    if bias is None:
        return total
    return te.compute(op.type.shape, lambda *n: total(*n) + bias[n[channel]], name="biased")


def max_pool(op: MaxPool, x: Tensor) -> Tensor:
    """The largest element of each window."""
    height, width = (1, 2) if op.channels_last else (2, 3)
    return _pool(op, x, te.max, const(op.lowest, x.dtype), height, width)


def average_pool(op: AveragePool, x: Tensor) -> Tensor:
    """The mean of the elements of each window, without the padding."""
    total = _pool(op, x, te.sum, const(0, x.dtype), 2, 3)

    def at(*index: Expr) -> Expr:
        count = const(1, "int32")
        for axis in (2, 3):
            direction, taps = axis - 2, const(0, "int32")
            for tap in range(op.window.kernel[direction]):
                _, tests = _tap(op.window, direction, index[axis], tap, int(x.shape[axis]))
                inside = tirx.all(*tests).astype("int32") if tests else const(1, "int32")
                taps = taps + inside
            count = count * taps
        return total(*index) / count.astype(x.dtype)

    return te.compute(op.type.shape, at, name="mean")


def _pool(op: Any, x: Tensor, reducer: Any, padding: Expr, height: int, width: int) -> Tensor:
    window: Window = op.window
    i, j = (te.reduce_axis((0, d), name) for d, name in zip(window.kernel, "ij", strict=True))

    def at(*index: Expr) -> Expr:
        source, inside = list(index), []
        for axis, tap, direction in ((height, i, 0), (width, j, 1)):
            source[axis], tests = _tap(window, direction, index[axis], tap, int(x.shape[axis]))
            inside += tests
        value = x(*source)
        value = tirx.if_then_else(tirx.all(*inside), value, padding) if inside else value
        return reducer(value, axis=[i, j])

    return te.compute(op.type.shape, at, name="total")


def _tap(
    window: Window, direction: int, place: Expr, tap: Any, size: int
) -> tuple[Expr, list[Expr]]:
    """Where a tap of the window at `place` reads, and the tests that this is inside."""
    before, after = window.pads[direction], window.pads[direction + 2]
    at = place * window.strides[direction] + tap * window.dilations[direction] - before
    return at, ([at >= 0] if before else []) + ([at < size] if after else [])
