"""CollapseUnary: whatever computes a function of one variable becomes that function."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.graph import Constant, Graph, Input, Op, fold, origin, rebuilt, toposort
from qcompiler.invariants import converts, real
from qcompiler.ops import Add, Clip, Elementwise, Map, Mul, Relu, Sub
from qcompiler.passes.base import Pass, Preserves


@dataclass(frozen=True)
class CollapseUnary(Pass):
    """Collapse elementwise ops that together are one nonlinear function of one value.

    x·sigmoid(x), x·clip(x + 3, 0, 6)/6, the five ops of an exported GELU: each is a function of one
    variable, and an 8-bit function of one variable is a table of 256 entries.  What is affine or
    merely clamps in front stays outside: it costs nothing in the epilogue of a product.

    >>> from qcompiler.ops import Sigmoid
    >>> from qcompiler.types import TensorType
    >>> x = Input(TensorType("float32", (1, 4)), name="x")
    >>> print(graph := Graph((x,), {"y": Mul(x, Sigmoid(x))}))
    graph(%x: float32[1x4]) {
      %sigmoid: float32[1x4] = sigmoid(%x)
      %mul: float32[1x4] = mul(%x, %sigmoid)
      return y=%mul
    }
    >>> print(CollapseUnary()(graph))
    graph(%x: float32[1x4]) {
      %map: float32[1x4] = map(%x) (%x: float32[1x4]) {
        %sigmoid: float32[1x4] = sigmoid(%x)
        %mul: float32[1x4] = mul(%x, %sigmoid)
        return y=%mul
      }
      return y=%map
    }
    """

    requires = (real,)
    ensures = (real,)
    preserves: ClassVar[Preserves] = "bits"

    def run(self, graph: Graph) -> Graph:
        """Collapse every cone that is not part of a larger one."""
        variables = _variables(graph)
        tops = {
            node: _late_variable(node, variables[node], graph)
            for node in graph.ops
            if variables[node] is not node and _is_top(node, variables, graph)
        }
        cones = {top: x for top, x in tops.items() if _nonlinear(_between(top, x))}
        if not cones:
            return graph

        def visit(node: Op, operands: list[Op]) -> Op:
            if (x := cones.get(node)) is None:
                return rebuilt(node, operands)
            inside = _between(node, x)
            sources = tuple(dict.fromkeys(s for step in inside for s in step.sources))
            with origin(sources):
                return Map(env[x], _region(node, x), name=node.name)

        env: dict[Op, Op] = {}
        fold(graph.ops, env, visit)
        return graph.with_outputs(env)


def _variables(graph: Graph) -> dict[Op, Op]:
    """Op → the real value that it is an elementwise function of, with scalar constants; or itself.

    The function's values, and what lies on the way, may be of any dtype: x > 0 is one as well.
    """
    variables: dict[Op, Op] = {}
    for node in graph.ops:
        variables[node] = node
        if not isinstance(node, Elementwise) or converts(node):
            continue
        values = [x for x in node.operands if not isinstance(x, Constant)]
        scalars = all(x.is_scalar for x in node.operands if isinstance(x, Constant))
        found = {variables[x] for x in values}
        if not scalars or len(found) != 1 or any(x.type.shape != node.type.shape for x in values):
            continue
        (variable,) = found
        if variable.type.is_float:
            variables[node] = variable
    return variables


def _is_top(node: Op, variables: dict[Op, Op], graph: Graph) -> bool:
    """Whether the cone ends here: some user is not a function of the same variable."""
    users = graph.users[node]
    inside = all(variables[user] is variables[node] and user is not node for user in users)
    return graph.is_output(node) or not users or not inside


def _late_variable(top: Op, variable: Op, graph: Graph) -> Op:
    """The variable moved behind what is affine or clamps, as far as all paths go through it."""
    inside = set(_between(top, variable))
    while True:
        users = [user for user in graph.users[variable] if user in inside]
        if len(users) != 1 or users[0] is top or not _linear(users[0]):
            return variable
        if not graph.only_user(variable):
            return variable
        variable = users[0]


def _linear(node: Op) -> bool:
    """Whether the op only clamps, or is affine in its variable."""
    match node:
        case Relu() | Clip():
            return True
        case Add(_, Constant()) | Sub(_, Constant()) | Mul(_, Constant()):
            return True
    return False


def _nonlinear(cone: Iterable[Op]) -> bool:
    return any(not _linear(node) for node in cone)


def _between(top: Op, variable: Op) -> list[Op]:
    """The ops of the cone, its variable and constants left out."""
    return [
        node
        for node in toposort([top], {variable: None})
        if node is not variable and not isinstance(node, Constant)
    ]


def _region(top: Op, variable: Op) -> Graph:
    x = Input(variable.type, name="x", sources=())
    env: dict[Op, Op] = {variable: x}
    fold([top], env, lambda node, xs: node.with_operands(xs) if xs else _scalar(node))
    return Graph((x,), {"y": env[top]}, "map")


def _scalar(constant: Op) -> Op:
    """Without axes, so that the function can be evaluated on values of any shape."""
    assert isinstance(constant, Constant)
    return Constant(constant.array.reshape(()), sources=constant.sources)
