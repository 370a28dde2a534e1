"""Importers of sequences and optional values: lists of values that the import takes apart."""

from __future__ import annotations

import numpy as np

from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.frontends.onnx_stand_ins import TensorSequence
from qcompiler.graph import Constant, Op
from qcompiler.ops import Concat, Reshape

SEQUENCES = frozenset(
    ["Optional", "OptionalGetElement", "SequenceConstruct", "SequenceEmpty", "SplitToSequence"]
)
"""Operators of tensors that give none, even if all their operands are constants."""

_LONGEST = 1 << 12  # parts that a tensor is split into


@importer("SequenceEmpty", since=11)
def empty(node: Node) -> Op:
    """No values."""
    return TensorSequence(())


@importer("SequenceConstruct", since=11)
def construct(node: Node) -> Op:
    """The operands."""
    return TensorSequence(tuple(node.operand(i) for i in range(len(node.inputs))))


@importer("SequenceInsert", since=11)
def insert(node: Node) -> Op:
    """One more value, at the end unless a constant index says where."""
    values = list(_values(node))
    values.insert(_place(node, 2, len(values), len(values) + 1), node.operand(1))
    return TensorSequence(tuple(values))


@importer("SequenceErase", since=11)
def erase(node: Node) -> Op:
    """All values but one: the last unless a constant index says which."""
    values = list(_values(node))
    del values[_place(node, 1, len(values) - 1, len(values))]
    return TensorSequence(tuple(values))


@importer("SequenceAt", since=11)
def at(node: Node) -> Op:
    """The value at a constant index."""
    values = _values(node)
    return values[_place(node, 1, 0, len(values))]


@importer("SequenceLength", since=11)
def length(node: Node) -> Op:
    """How many values there are."""
    return Constant(np.array(len(_values(node)), np.int64))


@importer("ConcatFromSequence", since=11)
def concat(node: Node) -> Op:
    """The values one behind the other along an axis, which may be a new one."""
    values = _values(node)
    if not values:
        raise node.broken("expected a sequence of at least one value")
    new = node.integer("new_axis")
    rank = values[0].type.rank
    axis = node.axis(node.integer("axis"), rank + bool(new))
    if new:
        shapes = [x.type.shape for x in values]
        values = tuple(
            reshaped(x, (*s[:axis], 1, *s[axis:])) for x, s in zip(values, shapes, strict=True)
        )
    return Concat(values, axis)


@importer("SplitToSequence", since=11)
def split(node: Node) -> Op:
    """Parts along an axis: of equal size, of the sizes given, or single elements without it."""
    x, sizes = node.x, node.known(1, "sizes")
    axis = node.axis(node.integer("axis"), x.type.rank)
    total = x.type.shape[axis]
    if sizes is None:
        parts = [1] * total
    elif sizes.ndim:
        parts = [int(v) for v in sizes.reshape(-1)]
    elif (size := int(sizes)) < 1:
        raise node.broken(f"expected parts of at least 1 element, found {size}")
    else:
        parts = [min(size, total - start) for start in range(0, total, size)]
    if sum(parts) != total or min(parts, default=0) < 0:
        raise node.broken(f"expected sizes that add up to {total}, found {parts}")
    if len(parts) > _LONGEST:
        raise node.unsupported(f"{len(parts)} parts")
    values, start = [], 0
    for size in parts:
        part = sliced(x, {axis: (start, start + size, 1)})
        if sizes is None and not node.integer("keepdims", 1):
            part = Reshape(part, (*x.type.shape[:axis], *x.type.shape[axis + 1 :]))
        values.append(part)
        start += size
    return TensorSequence(tuple(values))


@importer("Optional", since=15)
@importer("OptionalGetElement", since=15)
def optional(node: Node) -> Op:
    """The value, which is there."""
    if node.optional(0) is None:
        raise node.unsupported("no value")
    return node.x


@importer("OptionalHasElement", since=15)
def has_element(node: Node) -> Op:
    """Whether there is a value: known, since optional values exist during the import only."""
    return Constant(np.array(node.optional(0) is not None))


def _values(node: Node) -> tuple[Op, ...]:
    """The values of the first operand.

    Raises:
        ModelError: it is no sequence.
    """
    if not isinstance(node.x, TensorSequence):
        raise node.broken(f"expected a sequence, found {node.x.type}")
    return node.x.values


def _place(node: Node, operand: int, default: int, stop: int) -> int:
    """A constant index below `stop`, counted from the front."""
    count = len(_values(node))
    found = node.known_integers(operand, "index")
    if found is None:
        found = (default,)
    if len(found) != 1 or not -count <= found[0] < stop:
        raise node.broken(f"expected an index in [{-count}, {stop}), found {list(found)}")
    return found[0] + (count if found[0] < 0 else 0)
