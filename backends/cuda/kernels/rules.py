"""The kernel table of CUDA targets: which ops have a kernel here, and its arguments."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tvm.target import Target

from qcompiler.backends.tvm.problem import Conv2d
from qcompiler.backends.tvm.recognized import recognized_product
from qcompiler.backends.tvm.table import Match, anchored, on_leaves
from qcompiler.backends.tvm.te import tables
from qcompiler.graph import Constant, Graph, Op, fold, toposort
from qcompiler.ops import (
    ConvInteger,
    Exponentials,
    IntegerNormalization,
    MaxPool,
    ReduceMax,
    ReduceSum,
    ShiftExponentials,
    ShiftGELU,
    Shiftmax,
    Skeleton,
    Window,
)
from qcompiler.types import TensorType

from .attention_rule import Attentions
from .build import build_product, pack_product
from .elements import LANES
from .generation import best_generation
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
        problem, end = product.problem, product.end
        if isinstance(problem, Conv2d) and problem.groups > 1:
            return None
        return Match(
            (found.key, oldest),
            lambda: build_product(problem, oldest, end.epilogue),
            (product.x, pack_product(problem, product.weight), product.bias, *end.leaves),
        )


@dataclass(frozen=True)
class Pixels:
    """Depthwise convolutions, MaxPool and sums of whole images, channels last, and what follows."""

    name: str = "cuda pixels"

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """A kernel with a thread per four channels of a pixel."""
        region = anchored(found, (ConvInteger, MaxPool, ReduceSum))
        if region is None:
            return None
        anchor, end = region
        windows = _windows(anchor)
        if windows is None or found.root.type.is_float:
            return None
        x, *constants = map(found.fed, anchor.operands)
        packed: tuple[np.ndarray, ...] = ()
        if windows.kind == "dot":
            if not all(isinstance(c, Constant) for c in constants):
                return None
            weight, *bias = (c.array for c in constants if isinstance(c, Constant))
            start = bias[0] if bias else np.zeros(weight.shape[0], np.int32)
            packed = (pack_filters(weight), start)
        return Match(
            found.key,
            lambda: build_windows(windows, end.epilogue),
            (x, *packed, *end.leaves),
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
        if not found.root.type.shape or not all(x.elementwise for x in found.ops):
            return None
        whole = on_leaves(found, found.root)
        if _computes_float(found) or _written_out(whole.root) > _MOST_OPS:
            return None
        shape, shapes = _flattened(found.graph, found.root.type)
        types = tuple((shapes[x], x.type.dtype) for x in whole.operands)
        end = replace(whole.epilogue, operands=types)
        return Match(found.key, lambda: build_elementwise(shape, end), whole.leaves)


def _computes_float(found: Skeleton) -> bool:
    return any(x.type.is_float for x in toposort([found.root]))


def _flattened(
    graph: Graph, result: TensorType
) -> tuple[tuple[int, ...], dict[Op, tuple[int, ...]]]:
    """Shapes of the result and of the operands; one long row where that makes whole vectors."""
    own: dict[Op, tuple[int, ...]] = {x: x.type.shape for x in graph.inputs}
    shape, size, whole = result.shape, result.size, tables(graph)
    elements = [x for x in own if x not in whole]
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
        reductions = [x for x in found.ops if not x.elementwise]
        shapes = {x.operands[0].type.shape for x in reductions if _is_row(x)}
        if len(shapes) != 1 or _computes_float(found) or not all(map(_is_row, reductions)):
            return None
        plan = row_plan(found.graph, *shapes)
        if plan is None:
            return None
        leaves, numbers = found.feeds, dict[Op, int]()
        for x, leaf in leaves.items():
            if isinstance(leaf, Constant) and leaf.array.ndim == 0 and _is_simple(leaf.array):
                numbers[x] = int(leaf.array)
        return Match(
            (found.key, tuple(numbers.get(x) for x in leaves)),
            lambda: build_rows(found.graph, plan, numbers),
            tuple(leaf for x, leaf in leaves.items() if x not in numbers),
        )


def _is_row(node: Op) -> bool:
    """Whether an op reduces the last axis, and does all else element by element."""
    match node:
        case ReduceSum(x, axes) | ReduceMax(x, axes) | IntegerNormalization(x, axes):
            return axes == (x.type.rank - 1,)
        case Exponentials() | ShiftExponentials() | Shiftmax() | ShiftGELU():
            return node.axis == node.type.rank - 1
    return False


def _is_simple(number: np.ndarray) -> bool:
    """Whether a number is likely the same in many layers, so that it may go into the code.

    Shifts and what fixed-point bodies are made of, 2^k, 2^k − 1 and 3·2^k, are; the numbers of one
    layer, such as ε, stay arguments, or each layer would have a kernel of its own.
    """
    size = abs(int(number))
    odd = size // (size & -size) if size else 0
    return size <= 64 or odd in (1, 3) or size & (size + 1) == 0


CUDA = (Attentions(), Products(), Rows(), Pixels(), Elements())
"""The rules, in order of preference."""
