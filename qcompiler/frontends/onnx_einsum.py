"""Importer of Einstein's sums, as matrix products between reshapes, two operands at a time."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reduce import reduced_sum
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.frontends.onnx_slice import sliced
from qcompiler.graph import Op
from qcompiler.ops import MatMul, Mul, Transpose

_TERM = re.compile(r"[a-zA-Z]*(?:\.\.\.[a-zA-Z]*)?")


@dataclass(frozen=True)
class _Term:
    """A value with a name for each of its axes: a letter, or −n for the n-th last of the dots."""

    x: Op
    axes: tuple[str | int, ...]

    def size(self, axis: str | int) -> int:
        """How many elements the axis has."""
        return self.x.type.shape[self.axes.index(axis)]

    def ordered(self, axes: Sequence[str | int]) -> _Term:
        """The same value with its axes in another order."""
        permutation = tuple(self.axes.index(a) for a in axes)
        if permutation == tuple(range(len(axes))):
            return self
        return _Term(simplified(Transpose(self.x, permutation)), tuple(axes))

    def shaped(self, shape: Sequence[int]) -> Op:
        """The value in another shape."""
        return simplified(reshaped(self.x, shape))

    def without(self, axes: Collection[str | int]) -> _Term:
        """The value without some axes of size 1."""
        kept = tuple(a for a in self.axes if a not in axes)
        return _Term(self.shaped([self.size(a) for a in kept]), kept)

    def summed(self, axes: Collection[str | int]) -> _Term:
        """The value summed over some of its axes."""
        places = tuple(i for i, a in enumerate(self.axes) if a in axes)
        if not places:
            return self
        return _Term(simplified(reduced_sum(self.x, places)), self.axes).without(axes)

    def diagonal(self) -> _Term:
        """The value with one axis for each name: its elements where equal names have one index."""
        repeated = next((a for a, n in Counter(self.axes).items() if n > 1), None)
        if repeated is None:
            return self
        first, second = [i for i, a in enumerate(self.axes) if a == repeated][:2]
        others = [i for i in range(len(self.axes)) if i not in (first, second)]
        shape = [self.x.type.shape[i] for i in others]
        size = self.x.type.shape[first]
        behind = simplified(Transpose(self.x, (*others, first, second)))
        line = simplified(reshaped(behind, (*shape, size * size)))
        part = simplified(sliced(line, {len(others): (0, size * size, size + 1)}))
        return _Term(part, (*(self.axes[i] for i in others), repeated)).diagonal()


@importer("Einsum", since=12)
def einsum(node: Node) -> Op:
    """Products of elements of all terms, summed over the axes that the result lacks."""
    equation = node.text("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    written = left.split(",")
    if not all(_TERM.fullmatch(t) for t in (*written, right)) or len(written) != len(node.inputs):
        raise node.broken(
            f"equation: cannot read {equation[:60]!r} for {len(node.inputs)} operands"
        )
    terms = [_spelled(node, t, node.operand(i)) for i, t in enumerate(written)]
    dots = sorted({a for t in terms for a in t.axes if isinstance(a, int)})
    if arrow:
        result = _result(right, dots)
    else:  # the letters that occur once, in the order of the alphabet
        counts = Counter(a for t in terms for a in t.axes if isinstance(a, str))
        result = (*dots, *sorted(a for a, n in counts.items() if n == 1))
    sizes = _sizes(node, terms)
    if len(set(result)) != len(result) or not set(dots) <= set(result) <= set(sizes):
        raise node.broken(f"equation: cannot read the result of {equation[:60]!r}")
    terms = [t.diagonal() for t in terms]
    terms = [t.without([a for a in t.axes if t.size(a) != sizes[a]]) for t in terms]
    total, *rest = terms
    for i, term in enumerate(rest, 1):
        needed = {*result, *(a for t in rest[i:] for a in t.axes)}
        total = _product(total, term, needed, result)
    return total.summed(set(total.axes) - set(result)).ordered(result).x


def _spelled(node: Node, term: str, x: Op) -> _Term:
    """The operand with its axes named."""
    before, dots, after = term.partition("...")
    hidden = x.type.rank - len(before) - len(after)
    if hidden < 0 or (hidden and not dots):
        raise node.broken(f"equation: expected {x.type.rank} axes, found {term!r}")
    return _Term(x, (*before, *range(-hidden, 0), *after))


def _result(term: str, dots: list[int]) -> tuple[str | int, ...]:
    before, found, after = term.partition("...")
    return (*before, *(dots if found else ()), *after)


def _sizes(node: Node, terms: list[_Term]) -> dict[str | int, int]:
    """The size of each axis; operands of size 1 broadcast along it."""
    sizes: dict[str | int, int] = {}
    for term in terms:
        for axis, size in zip(term.axes, term.x.type.shape, strict=True):
            known = sizes.get(axis, 1)
            if 1 not in (known, size) and known != size:
                raise node.broken(f"equation: {axis!r} is {known} and {size}")
            sizes[axis] = size if known == 1 else known
    return sizes


def _product(a: _Term, b: _Term, needed: set[str | int], result: Sequence[str | int]) -> _Term:
    """Both terms multiplied, and summed over what is not needed any more."""
    a = a.summed(set(a.axes) - set(b.axes) - needed)
    b = b.summed(set(b.axes) - set(a.axes) - needed)
    shared = [c for c in a.axes if c in b.axes]
    batch, summed = ([c for c in shared if (c in needed) == kept] for kept in (True, False))
    rows = [c for c in a.axes if c not in b.axes]
    columns = [c for c in b.axes if c not in a.axes]
    order = batch + rows + columns
    if not summed:
        if set(order) == set(result):
            order = list(result)
        return _Term(Mul(_aligned(a, order), _aligned(b, order)), tuple(order))
    outer = [a.size(c) for c in batch]
    m, k = (math.prod(a.size(c) for c in axes) for axes in (rows, summed))
    n = math.prod(b.size(c) for c in columns)
    x = a.ordered(batch + rows + summed).shaped([*outer, m, k])
    w = b.ordered(batch + summed + columns).shaped([*outer, k, n])
    sizes = [*outer, *(a.size(c) for c in rows), *(b.size(c) for c in columns)]
    return _Term(simplified(reshaped(simplified(MatMul(x, w)), sizes)), tuple(order))


def _aligned(term: _Term, order: Sequence[str | int]) -> Op:
    """The value with all axes of the order, those that it lacks of size 1."""
    own = term.ordered([c for c in order if c in term.axes])
    return own.shaped([own.size(c) if c in own.axes else 1 for c in order])
