"""Importer of Einstein's sums of two operands, as a matrix product between reshapes."""

from __future__ import annotations

import math
import re

from qcompiler.frontends.onnx_fold import simplified
from qcompiler.frontends.onnx_node import Node, importer
from qcompiler.frontends.onnx_reshape import reshaped
from qcompiler.graph import Op
from qcompiler.ops import MatMul, Mul, Transpose


@importer("Einsum", since=12)
def einsum(node: Node) -> Op:
    """Batches are axes of all three terms, and what the result lacks is summed."""
    equation = node.text("equation").replace(" ", "")
    form = re.fullmatch(r"([a-zA-Z.]*),([a-zA-Z.]*)(?:->([a-zA-Z.]*))?", equation)
    if form is None or len(node.inputs) != 2:
        raise node.unsupported(f"equation {equation!r}")
    a, b = node.operand(0), node.operand(1)
    terms = [_spelled(node, t, x.type.rank) for t, x in zip(form.groups()[:2], (a, b), strict=True)]
    result = form[3]
    if result is None:  # the letters that occur once, in the order of the alphabet
        letters = "".join(t for t in terms)
        result = "".join(c for c in sorted(set(letters)) if letters.count(c) == 1)
    dots = max((t for t in (_dots(terms[0]), _dots(terms[1]))), key=len)
    result = result.replace("...", dots)
    sizes: dict[str, int] = {}
    for term, x in zip(terms, (a, b), strict=True):
        for letter, size in zip(term, x.type.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise node.unsupported(f"equation {equation!r} and sizes that broadcast")
    if any(len(set(t)) != len(t) for t in (*terms, result)) or not set(result) <= set(sizes):
        raise node.unsupported(f"equation {equation!r}")
    return _product(node, a, b, terms[0], terms[1], result, sizes)


def _spelled(node: Node, term: str, rank: int) -> str:
    """The term with digits, right-aligned, for the axes that its dots stand for."""
    if term.count("...") > 1 or "." in term.replace("...", ""):
        raise node.broken(f"equation: cannot read {term!r}")
    hidden = rank - len(term.replace("...", ""))
    if hidden < 0 or (hidden and "..." not in term):
        raise node.broken(f"equation: expected {rank} axes, found {term!r}")
    return term.replace("...", "9876543210"[10 - hidden :] if hidden else "")


def _dots(term: str) -> str:
    return "".join(c for c in term if c.isdigit())


def _product(
    node: Node, a: Op, b: Op, left: str, right: str, result: str, sizes: dict[str, int]
) -> Op:
    shared = [c for c in left if c in right]
    batch = [c for c in shared if c in result]
    summed = [c for c in shared if c not in result]
    rows = [c for c in left if c not in right]
    columns = [c for c in right if c not in left]
    if not set(rows + columns) <= set(result):
        raise node.unsupported(f"equation {node.text('equation')!r}")
    if not summed:
        return Mul(*(_aligned(x, term, result) for x, term in ((a, left), (b, right))))

    def size(letters: list[str]) -> int:
        return math.prod(sizes[c] for c in letters)

    outer = [sizes[c] for c in batch]
    m, k, n = size(rows), size(summed), size(columns)
    x = simplified(reshaped(_permuted(a, left, batch + rows + summed), [*outer, m, k]))
    w = simplified(reshaped(_permuted(b, right, batch + summed + columns), [*outer, k, n]))
    order = batch + rows + columns
    apart = reshaped(MatMul(x, w), [sizes[c] for c in order])
    return _permuted(apart, "".join(order), list(result))


def _permuted(x: Op, term: str, order: list[str]) -> Op:
    """x with its axes in another order."""
    permutation = tuple(term.index(c) for c in order)
    if permutation == tuple(range(len(order))):
        return x
    return simplified(Transpose(x, permutation))


def _aligned(x: Op, term: str, result: str) -> Op:
    """x with the axes of the result, those that it lacks of size 1."""
    moved = _permuted(x, term, sorted(term, key=result.index))
    sizes = dict(zip(sorted(term, key=result.index), moved.type.shape, strict=True))
    return simplified(reshaped(moved, [sizes.get(c, 1) for c in result]))
