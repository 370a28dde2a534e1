"""Composites: ops whose only definition is a body of other ops.

Reference evaluation, generic kernel and ONNX function all follow from the body; a backend may add
a faster kernel, which a generated test holds equal to it, bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from qcompiler.errors import UnprovedError
from qcompiler.graph import Constant, Graph, Input, Op, fold, op, rebuilt, toposort
from qcompiler.interval import Interval
from qcompiler.types import Quantization, TensorType


@op
class Composite(Op):
    """An op defined by `body`; a field `quantization`, where there is one, says what it means.

    Attributes:
        decomposed: Whether a target that has no kernel for it computes the ops of its body one
            after the other, instead of all in one.
    """

    decomposed: ClassVar[bool] = False
    proved: ClassVar[bool] = True

    def body(self) -> Op:
        """The defining expression over this op's operands."""
        raise NotImplementedError(f"{type(self).__name__}.body")

    @cached_property
    def expansion(self) -> Op:
        """The body, built once."""
        return self.body()

    def infer(self) -> TensorType:
        quantization: Quantization | None = getattr(self, "quantization", None)
        return dataclasses.replace(self.expansion.type, quantization=quantization)

    def numpy(self, *operands: np.ndarray) -> np.ndarray:
        env = dict(zip(self.operands, operands, strict=True))
        return fold([self.expansion], env, lambda node, xs: node.numpy(*xs))[self.expansion]

    def interval(self, *operands: Any) -> Interval | None:
        env = dict(zip(self.operands, operands, strict=True))
        try:
            return fold([self.expansion], env, lambda node, xs: node.bounded(*xs))[self.expansion]
        except UnprovedError as error:
            raise UnprovedError(f"{self.label()}: {error}") from None

    def onnx(self, o: Any, *operands: Any) -> Any:
        return o.composite(self, operands)


@op
class Map(Composite):
    """A real function of one variable, elementwise: `region` has one input and one output.

    Whatever the exporter made of SiLU, GELU or hard-swish, it is one function of one variable, and
    becomes one table when its operand has 8 bits.
    """

    x: Op
    region: Graph

    elementwise: ClassVar[bool] = True
    proved: ClassVar[bool] = False

    def body(self) -> Op:
        return inline(self.region, (self.x,))

    def interval(self, x: Any) -> None:
        """Integers in a function of real numbers are the model's own."""

    def at(self, x: np.ndarray) -> np.ndarray:
        """The function at each element of an array of any shape."""
        (root,), (variable,) = self.region.outputs.values(), self.region.inputs
        env: dict[Op, np.ndarray] = {variable: x}
        with np.errstate(all="ignore"):  # outside its domain a function may be what it likes
            value = fold([root], env, lambda node, xs: node.numpy(*xs))[root]
        return np.asarray(value).reshape(x.shape)  # constants may have ranks of their own


@op
class Fused(Composite):
    """Ops that one kernel computes: `region` over the values of `inputs`."""

    inputs: tuple[Op, ...]
    region: Graph

    proved: ClassVar[bool] = False

    def body(self) -> Op:
        return inline(self.region, self.inputs)

    def bounded(self, *operands: Interval | None) -> Interval | None:
        env: dict[Op, Interval | None] = dict(zip(self.region.inputs, operands, strict=True))
        return fold([self.root], env, lambda node, xs: node.bounded(*xs))[self.root]

    def infer(self) -> TensorType:
        for x, inside in zip(self.inputs, self.region.inputs, strict=True):
            fits = (x.type.dtype, x.type.shape) == (inside.type.dtype, inside.type.shape)
            self.expect(fits, str(inside.type), x.type)
        return self.root.type

    @property
    def root(self) -> Op:
        """The op of the region that computes the result."""
        (result,) = self.region.outputs.values()
        return result


def inline(region: Graph, operands: tuple[Op, ...]) -> Op:
    """The region's only output, computed from `operands` instead of its inputs."""
    env: dict[Op, Op] = dict(zip(region.inputs, operands, strict=True))
    (result,) = region.outputs.values()
    return fold([result], env, lambda node, xs: node.with_operands(xs) if xs else node)[result]


def flat(root: Op) -> Op:
    """The same value without `Fused` ops."""

    def visit(node: Op, operands: list[Op]) -> Op:
        if isinstance(node, Fused):
            return flat(inline(node.region, tuple(operands)))
        return rebuilt(node, operands)

    return fold([root], {}, visit)[root]


@dataclasses.dataclass(frozen=True)
class Skeleton:
    """What a kernel depends on: primitives over typed inputs, all numbers taken out.

    Attributes:
        graph: Primitives only; inputs without scales, constants among them.
        leaves: What to feed to each input: operands of the op, and constants of its body.
        root: What a kernel rule matches: the op over inputs and constants, composites as such, no
            `Fused` among them.
        parts: Every op of `root`, and of the bodies of its composites → what computes it in
            `graph`.
        node: The op itself.
        key: Equal for ops that can share one kernel (or one ONNX function).
    """

    graph: Graph
    leaves: tuple[Op, ...]
    root: Op
    parts: Mapping[Op, Op]
    node: Op

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """What of `root` computes, operands first."""
        found = toposort([self.root])
        return tuple(x for x in found if not isinstance(x, (Input, Constant)))

    @cached_property
    def feeds(self) -> Mapping[Op, Op]:
        """Inputs of `graph` → what to feed to each."""
        return dict(zip(self.graph.inputs, self.leaves, strict=True))

    def fed(self, x: Op) -> Op:
        """What an input or a constant of `root` stands for."""
        return self.feeds[self.parts[x]]

    @cached_property
    def key(self) -> str:
        """The graph's text, and the attributes in full, whose numbers the text rounds."""
        return "\n".join([str(self.graph), *(repr(x.attributes) for x in self.graph.ops)])


def skeleton(node: Op, operands: tuple[Op, ...] | None = None) -> Skeleton:
    """Expand an op to primitives, with its operands and constants as inputs.

    Args:
        node: Any op.
        operands: Values that it is computed from, if these are not its own operands; they become
            the first inputs.  Whatever else it needs must be an `Input` or a constant.
    """
    leaves: dict[Op, Input] = {}
    parts: dict[Op, Op] = {}

    def leaf(x: Op) -> Input:
        if x not in leaves:
            plain = TensorType(x.type.dtype, x.type.shape)
            leaves[x] = Input(plain, name=f"x{len(leaves)}", sources=())
        return leaves[x]

    def expand(x: Op, values: list[Op]) -> Op:
        match x:
            case Constant() | Input():
                parts[x] = leaf(x)
            case Composite():
                inner: dict[Op, Op] = dict(zip(x.operands, values, strict=True))
                parts[x] = fold([x.expansion], inner, expand)[x.expansion]
            case _:
                parts[x] = dataclasses.replace(x.with_operands(values), name=None, sources=())
        return parts[x]

    root, inside = (node, operands) if operands is not None else _apart(node)
    outside = node.operands if operands is None else operands
    parts.update({x: leaf(fed) for x, fed in zip(inside, outside, strict=True)})
    result = fold([root], dict(parts), expand)[root]
    graph = Graph(tuple(leaves.values()), {"y": result}, node.kind())
    return Skeleton(graph, tuple(leaves), root, parts, node)


def _apart(node: Op) -> tuple[Op, tuple[Op, ...]]:
    """The op with nothing of the graph behind its operands, and what stands for these there."""
    if isinstance(node, Fused):
        return flat(node.root), node.region.inputs
    inside = tuple(
        x if isinstance(x, (Input, Constant)) else Input(x.type, name=x.name, sources=())
        for x in node.operands
    )
    return rebuilt(node, inside), inside
