"""Networks that are real but for one value: which rounding costs how much.

The quantized language says where values are rounded: at each Quantize, and in the weights of the
products in front of it.  `isolate` applies exactly one of these roundings.  Every rounding of the
network belongs to exactly one Quantize, that of the value which the user configures; noise powers
at the output nearly add up to that of the whole network as long as they are small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcompiler.errors import UsageError
from qcompiler.graph import Constant, Graph, Input, Op, fold, rebuilt
from qcompiler.ops import Concat, Dequantize, MaxPool, Movement, Quantize
from qcompiler.types import Quantization

Links = Mapping[Op, Op]
"""Op of the quantized graph → the real op that it stands for."""


@dataclass(frozen=True, eq=False)
class Isolated:
    """A network in which one value is rounded.

    Attributes:
        value: The real value.
        codes: Its codes: computed from exact operands with rounded weights.
        outputs: Output name → value, of the network that goes on with these codes.
    """

    value: Op
    codes: Quantize
    outputs: Mapping[str, Op]


def link(real: Graph, quantized: Graph) -> dict[Op, Op]:
    """What each op of the quantized graph stands for in the real graph that it was made from.

    Both graphs are walked side by side: `InsertQdq` only puts Quantize and Dequantize in between.

    Raises:
        UsageError: the graphs differ in anything else.
    """
    links: dict[Op, Op] = {}
    if list(real.outputs) != list(quantized.outputs):
        raise _foreign(f"outputs {', '.join(quantized.outputs)}", ", ".join(real.outputs))
    stack = [(quantized.outputs[name], y) for name, y in real.outputs.items()]
    while stack:
        node, value = stack.pop()
        while isinstance(node, (Quantize, Dequantize)) and not _is_weight(node):
            links[node] = value
            node = node.x
        if node in links:
            continue
        links[node] = value
        if _is_weight(node) and isinstance(value, Constant):
            continue
        same = type(node) is type(value) and len(node.operands) == len(value.operands)
        if not same or (isinstance(node, Input) and node.name != value.name):
            raise _foreign(node.label(), value.label())
        stack.extend(zip(node.operands, value.operands, strict=True))
    return links


def _is_weight(node: Op) -> bool:
    """Whether codes of a constant, rounded already or not yet."""
    return isinstance(node, Dequantize) and (
        isinstance(node.x, Constant) or _is_rounded_constant(node.x)
    )


def _is_rounded_constant(node: Op) -> bool:
    return isinstance(node, Quantize) and isinstance(node.x, Constant)


def _foreign(found: str, expected: str) -> UsageError:
    return UsageError(
        f"isolated mode: found {found} where the real graph has {expected}: give the graph right "
        "behind insert-qdq, and the real one right in front of it"
    )


def roundings(quantized: Graph) -> list[Quantize]:
    """The Quantize ops that round values, in order: not those that only move codes."""
    return [
        x
        for x in quantized.ops
        if isinstance(x, Quantize) and not _is_rounded_constant(x) and not _moves_codes(x)
    ]


def _moves_codes(node: Quantize) -> bool:
    """Whether the operand holds nothing but values of codes that mean the same."""
    match node.x:
        case Dequantize():
            sources: tuple[Op, ...] = (node.x,)
        case Movement(x) | MaxPool(x):
            sources = (x,)
        case Concat(inputs):
            sources = inputs
        case _:
            return False
    return all(_meaning(x) == node.quantization for x in sources)


def _meaning(x: Op) -> Quantization | None:
    return x.x.type.quantization if isinstance(x, Dequantize) else None


def isolate(quantized: Graph, links: Links, node: Quantize) -> Isolated:
    """The real network with one rounding, and whatever of the real graph that leaves unchanged.

    Args:
        quantized: The graph behind `InsertQdq`.
        links: As `link` gives them.
        node: One of its Quantize ops.
    """
    exact: dict[Op, Op] = {
        x: x if _is_weight(x) else value
        for x, value in links.items()
        if isinstance(x, (Dequantize, Input))
    }
    body = fold([node.x], exact, lambda x, operands: rebuilt(links[x], operands))[node.x]
    codes = Quantize(body, node.quantization, name=node.name, sources=node.sources)

    behind: set[Op] = {node}
    for x in quantized.ops:
        if any(y in behind for y in x.operands):
            behind.add(x)
    env: dict[Op, Op] = {x: value for x, value in links.items() if x not in behind}
    env[node] = Dequantize(codes)

    def visit(x: Op, operands: list[Op]) -> Op:
        if isinstance(x, (Quantize, Dequantize)):
            return operands[0]
        return rebuilt(links[x], operands)

    fold(quantized.outputs.values(), env, visit)
    outputs = {name: env[y] for name, y in quantized.outputs.items()}
    return Isolated(links[node], codes, outputs)
