"""Kernel tables: what a target computes with code of its own instead of the generic kernel."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tvm.target import Target
from tvm.tirx import PrimFunc

from qcompiler.backends.tvm.problem import Epilogue
from qcompiler.backends.tvm.te import Expr, element, load, read_by_element, whole_operands
from qcompiler.graph import Constant, Input, Op, fold
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


@dataclass(frozen=True)
class Pointwise:
    """An expression over single elements, as a kernel's code.

    Attributes:
        variables: Values that the kernel computes.
        operands: Inputs that it reads from buffers.
        leaves: What to pass for each operand.
        root: The expression over both.
        skeleton: Whose graph it belongs to.
    """

    variables: tuple[Op, ...]
    operands: tuple[Input, ...]
    leaves: tuple[Op, ...]
    root: Op
    skeleton: Skeleton

    @property
    def types(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and dtype of each operand's buffer."""
        return tuple((x.type.shape, x.type.dtype) for x in self.operands)

    @property
    def epilogue(self) -> Epilogue:
        """What a kernel does to its only variable, if there is one, before it is stored."""
        count, read = len(self.variables), read_by_element(self.skeleton.graph)
        return Epilogue(
            self.types,
            self.root.type.dtype,
            lambda x, buffers, index: self.value((x,)[:count], buffers, index),
            by_element=tuple(i for i, x in enumerate(self.operands) if x in read),
        )

    def value(
        self, elements: Sequence[Expr], buffers: Sequence[Any], index: Sequence[Expr]
    ) -> Expr:
        """Its element at an index, from elements of the variables and buffers of the operands."""
        held: dict[Op, Any] = dict(zip(self.variables, elements, strict=True))
        read: dict[Op, Any] = dict(zip(self.operands, buffers, strict=True))

        def visit(node: Op, operands: list[Expr]) -> Expr:
            each = zip(node.operands, operands, whole_operands(node), strict=True)
            return element(
                node, [load(v, index) if x in read and not whole else v for x, v, whole in each]
            )

        return fold([self.root], {**read, **held}, visit)[self.root]


def pointwise(root: Op, variables: tuple[Op, ...]) -> Pointwise:
    """Take numbers and composites out of an elementwise expression over `variables`."""
    found = skeleton(root, variables)
    inputs = found.graph.inputs
    (result,) = found.graph.outputs.values()
    count = len(variables)
    return Pointwise(inputs[:count], inputs[count:], found.leaves[count:], result, found)


def on_leaves(found: Skeleton, x: Op) -> Pointwise:
    """An op of the skeleton's root, over all that is fed to it."""
    return Pointwise((), found.graph.inputs, found.leaves, found.parts[x], found)


def anchored(found: Skeleton, kinds: tuple[type[Op], ...]) -> tuple[Op, Pointwise] | None:
    """The only op of a kernel that is not elementwise, and what happens to each of its elements.

    None if it is not of these kinds, or is computed from other ops, or has another shape than the
    result.
    """
    anchors = [x for x in found.ops if not x.elementwise]
    if len(anchors) != 1 or not isinstance(anchors[0], kinds):
        return None
    (anchor,) = anchors
    known = all(isinstance(x, (Input, Constant)) for x in anchor.operands)
    if not known or found.root.type.shape != anchor.type.shape:
        return None
    part, root = found.parts[anchor], found.parts[found.root]
    read = {x for node in found.graph.ops if node is not part for x in node.operands}
    operands = tuple(x for x in found.graph.inputs if x in read)
    leaves = tuple(found.feeds[x] for x in operands)
    return anchor, Pointwise((part,), operands, leaves, root, found)
