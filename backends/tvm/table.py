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
from qcompiler.ops import Skeleton


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
class Anchored:
    """An accumulation and what happens to each of its elements.

    Attributes:
        anchor: The only op of the skeleton that is not elementwise.
        operands: The inputs that the elementwise ops read.
        root: The op whose elements are stored.
    """

    anchor: Op
    operands: tuple[Input, ...]
    root: Op

    def value(self, accumulator: Expr, buffers: Sequence[Any], index: Sequence[Expr]) -> Expr:
        """The element to store, from that of the anchor and the buffers of `operands`."""
        env: dict[Op, Any] = {self.anchor: accumulator}
        env |= dict(zip(self.operands, buffers, strict=True))

        def visit(node: Op, values: list[Any]) -> Expr:
            wholes = whole_operands(node)
            return element(
                node,
                [
                    load(value, index) if isinstance(x, Input) and not whole else value
                    for x, value, whole in zip(node.operands, values, wholes, strict=True)
                ],
            )

        return fold([self.root], env, visit)[self.root]


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
    return Anchored(anchor, tuple(x for x in found.graph.inputs if x in read), root)
