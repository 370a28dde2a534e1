"""Named properties of graphs: each yields the offenders, nothing when it holds.

Passes name them in `requires` and `ensures`, so that a wrong order of passes is a readable error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qcompiler.errors import UnprovedError
from qcompiler.graph import Constant, Graph, Input, Op, fold
from qcompiler.interval import Interval
from qcompiler.ops import (
    BatchNormalization,
    Cast,
    ConvInteger,
    Dequantize,
    Fused,
    Map,
    MatMulInteger,
    MaxPool,
    Quantize,
)
from qcompiler.ops.integer import Product

Invariant = Callable[[Graph], Iterator[str]]


def well_formed(graph: Graph) -> Iterator[str]:
    """Every op's type is the one that its operands imply, and operands come before users."""
    seen: set[Op] = set()
    for node in graph.ops:
        if any(x not in seen for x in node.operands):
            yield f"{node.label()} comes before an operand"
        if node.infer() != node.type:
            yield f"{node.label()} has type {node.type}, its operands imply {node.infer()}"
        seen.add(node)


def real(graph: Graph) -> Iterator[str]:
    """No codes: nothing has a quantization yet."""
    for node in graph.ops:
        if isinstance(node, (Quantize, Dequantize)) or node.type.quantization is not None:
            yield f"{node.label()}: {node.type} is quantized"


def no_batch_norm(graph: Graph) -> Iterator[str]:
    """Every batch normalization is folded."""
    for node in graph.ops:
        if isinstance(node, BatchNormalization):
            yield f"{node.label()} is left"


def quantized(graph: Graph) -> Iterator[str]:
    """Real ops stand between Dequantize and Quantize: the quantized language."""
    codes = any(isinstance(node, (Quantize, Dequantize)) for node in graph.ops)
    if not codes and any(computes_float(node) for node in graph.ops):
        yield "no value is quantized"
    for node in graph.ops:
        if isinstance(node, (ConvInteger, MatMulInteger, Fused)):
            yield f"{node.label()} belongs to the integer language"


def unfused(graph: Graph) -> Iterator[str]:
    """No kernels have been formed yet."""
    for node in graph.ops:
        if isinstance(node, Fused):
            yield f"{node.label()} is fused"


def channels_last(graph: Graph) -> Iterator[str]:
    """Convolutions and pools have their channels last."""
    for node in graph.ops:
        if isinstance(node, (ConvInteger, MaxPool)) and not node.channels_last:
            yield f"{node.label()} has its channels first"


def no_overflow(graph: Graph) -> Iterator[str]:
    """No integer can leave its type, whatever the inputs hold; the model's own may wrap."""
    found: list[str] = []

    def visit(node: Op, operands: list[Interval | None]) -> Interval | None:
        try:
            return node.bounded(*operands)
        except UnprovedError as error:
            found.append(str(error))
            return node.type.limits

    fold(graph.ops, {}, visit)
    for offence in found:
        yield f"{offence}; give it fewer bits, or `skip` it, by a rule of the configuration"


def proved(node: Op) -> Op:
    """The op itself, if it and what it is computed from keep to their types, back to the codes.

    Raises:
        UnprovedError: names what may overflow.
    """
    _bounded(node)
    return node


def _bounded(node: Op) -> Interval | None:
    return node.bounded(*(x.type.limits if _ends(x) else _bounded(x) for x in node.operands))


def _ends(x: Op) -> bool:
    """Whether the type alone says where a value lies: codes, and what holds no integers."""
    coded = x.type.quantization is not None
    return not x.type.is_integer or (coded and not isinstance(x, (Constant, Product)))


def float_ops(graph: Graph) -> Iterator[Op]:
    """The real ops that an integer graph still computes in float.

    Quantize and Dequantize are not counted: they stand at the ends, or around one of these.
    """
    for node in graph.ops:
        if not isinstance(node, (Quantize, Dequantize)) and computes_float(node):
            yield node


def converts(node: Op) -> bool:
    """Whether the op only changes the width of floats, as at the ends of a float16 model."""
    return isinstance(node, Cast) and node.type.is_float and node.x.type.is_float


def computes_float(node: Op) -> bool:
    """Whether the op reads or writes floating-point numbers."""
    if isinstance(node, Fused):
        return any(computes_float(x) for x in node.region.ops)
    if isinstance(node, Map):
        return True
    if isinstance(node, (Input, Constant)) or converts(node):
        return False
    return node.type.is_float or any(x.type.is_float for x in node.operands)
