"""Importers of operators that look for the largest or smallest elements."""

from __future__ import annotations

from qcompiler.frontends.onnx_index import LONGEST_LINE, elements, positions, wrapped
from qcompiler.frontends.onnx_logic import selected
from qcompiler.frontends.onnx_node import Importer, Node, importer
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Op
from qcompiler.ops import ArgMax, ArgMin, Equal, Reshape, TopK

_MOST_COMPARISONS = 1 << 32  # TopK compares each element with each other of its row


def _place(cls: type[ArgMax] | type[ArgMin]) -> Importer:
    def read(node: Node) -> Op:
        x = node.x if node.x.type.rank else Reshape(node.x, (1,))
        axis = node.axis(node.integer("axis"), x.type.rank)
        if x.type.shape[axis] == 0:
            raise node.broken(f"expected elements along axis {axis}, found {x.type}")
        found = cls(x, axis, bool(node.integer("select_last_index")))
        if node.integer("keepdims") and node.x.type.rank:
            return found
        return reshaped(found, [d for i, d in enumerate(found.type.shape) if i != axis])

    return read


importer("ArgMax")(_place(ArgMax))
importer("ArgMin")(_place(ArgMin))


@importer("TopK")
def top_k_by_attribute(node: Node) -> tuple[Op, Op]:
    """The k largest elements and their indices, k in an attribute."""
    return _top_k(node, node.integer("k"))


@importer("TopK", since=10)
def top_k(node: Node) -> tuple[Op, Op]:
    """The k largest or smallest elements and their indices, in order whether asked for or not."""
    found = node.known_integers(1, "k") or ()
    if len(found) != 1:
        raise node.broken(f"expected one k, found {list(found)}")
    return _top_k(node, found[0])


def _top_k(node: Node, k: int) -> tuple[Op, Op]:
    x = node.x.type
    axis = node.axis(node.integer("axis", -1), x.rank)
    size = x.shape[axis]
    if k == 0:
        raise node.unsupported("k=0")
    if not 1 <= k <= size:
        raise node.broken(f"k: expected 1 to {size}, found {k}")
    if x.size * size > _MOST_COMPARISONS:
        raise node.unsupported(f"{x.size // size} rows of {size} elements")
    indices = TopK(node.x, axis, k, bool(node.integer("largest", 1)))
    return elements(node, node.x, indices, axis), indices


@importer("OneHot", since=9)
def one_hot(node: Node) -> Op:
    """One value at the places that indices name on a new axis, another elsewhere."""
    indices, values = node.x, node.operand(2)
    depth = node.known_scalar(1, "depth")
    if depth is None or depth != int(depth) or not 1 <= depth <= LONGEST_LINE:
        raise node.broken(f"depth: expected a whole number within 1…{LONGEST_LINE}, found {depth}")
    if values.type.shape != (2,):
        raise node.broken(f"expected the values for off and on, found {values.type}")
    rank = indices.type.rank
    axis = node.axis(node.integer("axis"), rank + 1)
    shape = indices.type.shape
    found = reshaped(wrapped(indices, int(depth)), (*shape[:axis], 1, *shape[axis:]))
    here = Equal(found, positions((*shape[:axis], int(depth), *shape[axis:]), axis))
    off, on = (reshaped(sliced(values, {0: (i, i + 1, 1)}), ()) for i in (0, 1))
    return selected(here, on, off)
