"""Kernel tables: what a target computes with code of its own instead of the generic kernel."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tvm.target import Target
from tvm.tirx import PrimFunc

from qcompiler.backends.tvm.te import Expr, element, load, whole_operands
from qcompiler.graph import Input, Op, fold
from qcompiler.ops import Skeleton, skeleton


@dataclass(frozen=True)
class Match:
    """A kernel for one op.

    Attributes:
        key: Equal where the kernel is the same.
        build: Makes it: a function of the arguments' buffers and the result's.
        arguments: Leaves of the skeleton, or arrays that are packed for the kernel.
    """

    key: Hashable
    build: Callable[[], PrimFunc]
    arguments: tuple[Op | np.ndarray, ...]


class KernelRule(Protocol):
    """An entry of a kernel table."""

    @property
    def name(self) -> str:
        """What the metadata calls the kernels."""
        ...

    def match(self, found: Skeleton, target: Target) -> Match | None:
        """The kernel for an op, or None: then the next rule is asked."""
        ...


def scalar_value(
    root: Op, elements: dict[Op, Expr], buffers: dict[Op, Any], index: Sequence[Expr]
) -> Expr:
    """One element of a value from what it is computed from.

    Args:
        root: Elementwise down to `elements` and `buffers`.
        elements: Values to their elements at the index.
        buffers: Values to the buffers that hold them.
        index: Of the element.
    """

    def visit(node: Op, operands: list[Expr]) -> Expr:
        wholes = whole_operands(node)
        return element(
            node,
            [
                load(value, index) if x in buffers and not whole else value
                for x, value, whole in zip(node.operands, operands, wholes, strict=True)
            ],
        )

    return fold([root], {**buffers, **elements}, visit)[root]


@dataclass(frozen=True)
class Pointwise:
    """An expression over single elements, as a kernel's code.

    Attributes:
        variables: Inputs of the expression that the kernel computes.
        operands: Those that it reads from buffers.
        leaves: What to pass for each operand.
        root: The expression.
        skeleton: What it was taken from.
    """

    variables: tuple[Input, ...]
    operands: tuple[Input, ...]
    leaves: tuple[Op, ...]
    root: Op
    skeleton: Skeleton

    @property
    def types(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and dtype of each operand's buffer."""
        return tuple((x.type.shape, x.type.dtype) for x in self.operands)

    def value(
        self, elements: Sequence[Expr], buffers: Sequence[Any], index: Sequence[Expr]
    ) -> Expr:
        """Its element at an index, from elements of the variables and buffers of the operands."""
        held: dict[Op, Expr] = dict(zip(self.variables, elements, strict=True))
        read: dict[Op, Any] = dict(zip(self.operands, buffers, strict=True))
        return scalar_value(self.root, held, read, index)


def pointwise(root: Op, variables: tuple[Op, ...]) -> Pointwise:
    """Take numbers and composites out of an elementwise expression over `variables`."""
    found = skeleton(root, variables)
    inputs = found.graph.inputs
    (result,) = found.graph.outputs.values()
    count = len(variables)
    return Pointwise(inputs[:count], inputs[count:], found.leaves[count:], result, found)


@dataclass(frozen=True)
class Anchored:
    """An accumulation and what happens to each of its elements.

    Attributes:
        anchor: The only op of the skeleton that is not elementwise.
        operands: The inputs that the elementwise ops read.
        root: The op whose elements are stored.
        skeleton: What it was found in.
    """

    anchor: Op
    operands: tuple[Input, ...]
    root: Op
    skeleton: Skeleton

    def value(self, accumulator: Expr, buffers: Sequence[Any], index: Sequence[Expr]) -> Expr:
        """The element to store, from that of the anchor and the buffers of `operands`."""
        read: dict[Op, Any] = dict(zip(self.operands, buffers, strict=True))
        return scalar_value(self.root, {self.anchor: accumulator}, read, index)


def anchored(found: Skeleton, kinds: tuple[type[Op], ...]) -> Anchored | None:
    """The skeleton as one op of these kinds, on inputs, and elementwise ops of its shape."""
    nodes = [x for x in found.graph.ops if not isinstance(x, Input)]
    anchors = [x for x in nodes if not x.elementwise]
    (root,) = found.graph.outputs.values()
    if len(anchors) != 1 or not isinstance(anchors[0], kinds):
        return None
    (anchor,) = anchors
    on_inputs = all(isinstance(x, Input) for x in anchor.operands)
    if not on_inputs or root.type.shape != anchor.type.shape:
        return None
    read = {x for node in nodes if node is not anchor for x in node.operands}
    return Anchored(anchor, tuple(x for x in found.graph.inputs if x in read), root, found)
