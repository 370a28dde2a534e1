"""The kernel table of CUDA targets: which ops have a kernel here, and its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm.target import Target
from tvm.tirx import PrimFunc

from qcompiler.backends.tvm.problem import Conv2d, Epilogue, Matmul
from qcompiler.backends.tvm.recognized import recognized_product
from qcompiler.backends.tvm.table import Anchored, Match, anchored, scalar_value
from qcompiler.backends.tvm.te import whole_operands
from qcompiler.graph import Constant, Graph, Input, Op, fold
from qcompiler.ops import ConvInteger, MaxPool, ReduceSum, Skeleton, Window

from .attention_rule import FusedAttention
from .build import build_product, pack_product
from .elements import LANES
from .generation import Generation, best_generation
from .instructions import Expr
from .pixels import Windows, build_elementwise, build_windows, pack_filters
from .rows import build_rows, row_plan


@dataclass(frozen=True)
class Products:
    """ConvInteger (channels last) and MatMulInteger with constant weights, and what follows."""

    name: str = "cuda product"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A tensor core kernel; None for groups, layouts and weights that it has no form for."""
        product, oldest = recognized_product(found), best_generation(target)
        if product is None or oldest is None:
            return None
        if isinstance(product.problem, Conv2d) and product.problem.groups > 1:
            return None
        return Match(
            (found.key, oldest),
            _builder(product.region, product.problem, oldest),
            (
                product.x,
                pack_product(product.problem, product.weight),
                product.bias,
                *product.operands,
            ),
        )


def _builder(
    region: Anchored, problem: Conv2d | Matmul, oldest: Generation
) -> Callable[[], PrimFunc]:
    return lambda: build_product(problem, oldest, _epilogue(region))


def _epilogue(region: Anchored) -> Epilogue:
    types = tuple((x.type.shape, x.type.dtype) for x in region.operands)
    return Epilogue(types, region.root.type.dtype, region.value)


@dataclass(frozen=True)
class Pixels:
    """Depthwise convolutions, MaxPool and sums of whole images, channels last, and what follows."""

    name: str = "cuda pixels"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel with a thread per four channels of a pixel."""
        region = anchored(found, (ConvInteger, MaxPool, ReduceSum))
        if region is None:
            return None
        windows = _windows(region.anchor)
        if windows is None or region.root.type.is_float:
            return None
        leaves: dict[Op, Op] = dict(zip(found.graph.inputs, found.leaves, strict=True))
        x, *constants = (leaves[operand] for operand in region.anchor.operands)
        packed: tuple[np.ndarray, ...] = ()
        if windows.kind == "dot":
            if not all(isinstance(c, Constant) for c in constants):
                return None
            weight, *bias = (c.array for c in constants if isinstance(c, Constant))
            start = bias[0] if bias else np.zeros(weight.shape[0], np.int32)
            packed = (pack_filters(weight), start)
        epilogue = _epilogue(region)
        return Match(
            found.key,
            lambda: build_windows(windows, epilogue),
            (x, *packed, *(leaves[operand] for operand in region.operands)),
        )


def _windows(anchor: Op) -> Windows | None:
    match anchor:
        case ConvInteger(x=x, weight=weight, window=window, channels_last=True) if (
            weight.type.shape[:2] == (x.type.shape[3], 1) and anchor.groups == x.type.shape[3]
        ):
            kind = "dot"
        case MaxPool(x=x, window=window, channels_last=True) if not x.type.is_float:
            kind = "max"
        case ReduceSum(x=x, axes=(1, 2)) if x.type.rank == 4:
            kind, window = "sum", Window((x.type.shape[1], x.type.shape[2]))
        case _:
            return None
    if kind != "sum" and np.dtype(x.type.dtype).itemsize > 2:
        return None
    return Windows(kind, x.type.shape, x.type.dtype, window, anchor.type.dtype)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Elements:
    """Elementwise integer ops alone."""

    name: str = "cuda elements"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel with a thread per four elements."""
        nodes = [x for x in found.graph.ops if not isinstance(x, Input)]
        (root,) = found.graph.outputs.values()
        if not nodes or not root.type.shape or not all(x.elementwise for x in nodes):
            return None
        if any(x.type.is_float for x in found.graph.ops) or _written_out(root) > _MOST_OPS:
            return None
        read = tuple(found.graph.inputs)
        shape, shapes = _flattened(found.graph, root)
        types = tuple((shapes[x], x.type.dtype) for x in read)

        def value(_: Expr, buffers: Sequence[Expr], index: Sequence[Expr]) -> Expr:
            return scalar_value(root, {}, dict(zip(read, buffers, strict=True)), index)

        return Match(
            found.key,
            lambda: build_elementwise(shape, Epilogue(types, root.type.dtype, value)),
            found.leaves,
        )


def _flattened(graph: Graph, root: Op) -> tuple[tuple[int, ...], dict[Op, tuple[int, ...]]]:
    """Shapes of the result and of the operands; one long row where that makes whole vectors."""
    own: dict[Op, tuple[int, ...]] = {x: x.type.shape for x in graph.inputs}
    shape, size = root.type.shape, root.type.size
    tables = {
        x
        for node in graph.ops
        for x, whole in zip(node.operands, whole_operands(node), strict=True)
        if whole
    }
    elements = [x for x in own if x not in tables]
    if any(own[x] != shape and x.type.size != 1 for x in elements) or size % LANES:
        return shape, own
    return (size,), {**own, **{x: (size,) if own[x] == shape else () for x in elements}}


_MOST_OPS = 500


def _written_out(root: Op) -> int:
    """Operations of an expression in which every operand is written out wherever it is used."""
    return fold([root], {}, lambda node, sizes: 1 + sum(sizes))[root]


@dataclass(frozen=True)
class Rows:
    """Reductions of the last axis with all that is elementwise before and behind them."""

    name: str = "cuda rows"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel with one or more warps per row."""
        plan = row_plan(found.graph)
        if plan is None:
            return None
        leaves = dict(zip(found.graph.inputs, found.leaves, strict=True))
        numbers: dict[Op, int] = {}
        for x, leaf in leaves.items():
            if isinstance(leaf, Constant) and leaf.array.ndim == 0 and _is_simple(leaf.array):
                numbers[x] = int(leaf.array)
        return Match(
            (found.key, tuple(numbers.get(x) for x in leaves)),
            lambda: build_rows(found.graph, plan, numbers),
            tuple(leaf for x, leaf in leaves.items() if x not in numbers),
        )


def _is_simple(number: np.ndarray) -> bool:
    """Whether a number is likely the same in many layers, so that it may go into the code.

    Shifts and what fixed-point bodies are made of, 2^k, 2^k − 1 and 3·2^k, are; the numbers of one
    layer, such as ε, stay arguments, or each layer would have a kernel of its own.
    """
    size = abs(int(number))
    odd = size // (size & -size) if size else 0
    return size <= 64 or odd in (1, 3) or size & (size + 1) == 0


CUDA = (FusedAttention(), Products(), Rows(), Pixels(), Elements())
"""The rules, in order of preference."""
