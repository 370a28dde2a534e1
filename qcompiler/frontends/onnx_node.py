"""One ONNX node as an importer sees it: checked against the operator's schema, operands imported.

An importer is a function from a `Node` to the op (or ops) that compute its outputs:

    @importer("Relu")
    def relu(node: Node) -> Op:
        return Relu(node.x)

`since` is the first opset whose form of the operator the function reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_ir as ir
from onnx.defs import OpSchema

from qcompiler.errors import ModelError, UnsupportedError
from qcompiler.frontends.onnx_contrib import SCHEMAS
from qcompiler.graph import Constant, Op
from qcompiler.ops import FakeQuantize


@dataclass(frozen=True, eq=False)
class Node:
    """A node whose operands are imported.

    Attributes:
        name: Its name in the model, or type and first output where it has none.
        op_type: Name of the operator.
        opset: Version of the standard operators that the model uses.
        inputs: The operands; None for absent optional ones.
        attributes: The given ones, and the schema's defaults.
        outputs: Names of the outputs; "" for absent optional ones.
    """

    name: str
    op_type: str
    opset: int
    inputs: tuple[Op | None, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[str, ...]

    @property
    def x(self) -> Op:
        """The first operand."""
        return self.operand(0)

    def operand(self, index: int) -> Op:
        """An operand that the schema requires."""
        x = self.optional(index)
        assert x is not None  # the schema has been checked
        return x

    def optional(self, index: int) -> Op | None:
        """An operand, or None where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def known(self, index: int, what: str) -> np.ndarray | None:
        """The value of an operand that has to be constant; None where it is absent.

        Raises:
            UnsupportedError: it depends on the model's inputs.
        """
        match self.optional(index):
            case None:
                return None
            case Constant(array=array) | FakeQuantize(Constant(array=array)):
                return array
        raise self.unsupported(f"computed {what}")

    def known_integers(self, index: int, what: str) -> tuple[int, ...] | None:
        """Integers of a constant operand of rank ≤ 1; None where it is absent.

        Raises:
            UnsupportedError: it depends on the model's inputs.
            ModelError: it is of another type or rank.
        """
        if (array := self.known(index, what)) is None:
            return None
        if array.ndim > 1 or array.dtype.kind not in "iu":
            raise self.broken(f"expected {what} as a list of integers, found {array.dtype}")
        return tuple(int(v) for v in array.reshape(-1))

    def known_scalar(self, index: int, what: str) -> float | None:
        """The only element of a constant operand; None where it is absent.

        Raises:
            UnsupportedError: it depends on the model's inputs.
            ModelError: it has more elements.
        """
        if (array := self.known(index, what)) is None:
            return None
        if array.size != 1:
            raise self.broken(f"expected one {what}, found {array.size}")
        return array.reshape(-1)[0].item()

    def integers(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """An attribute of integers, or the default where it is absent."""
        value = self.attributes.get(name, default)
        return None if value is None else tuple(int(v) for v in value)

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute, or the default where neither node nor schema gives one."""
        return int(self.attributes.get(name, default))

    def number(self, name: str, default: float = 0.0) -> float:
        """A float attribute, or the default where neither node nor schema gives one."""
        return float(self.attributes.get(name, default))

    def text(self, name: str, default: str = "") -> str:
        """A string attribute, or the default where neither node nor schema gives one."""
        return str(self.attributes.get(name, default))

    def axis(self, value: int, rank: int) -> int:
        """An axis counted from the front.

        Raises:
            ModelError: it is out of range.
        """
        if not -rank <= value < rank:
            raise self.broken(f"expected an axis in [{-rank}, {rank}), found {value}")
        return value % rank

    def axes(self, values: Sequence[int], rank: int) -> tuple[int, ...]:
        """Distinct axes counted from the front.

        Raises:
            ModelError: one is out of range or occurs twice.
        """
        axes = tuple(self.axis(v, rank) for v in values)
        if len(set(axes)) != len(axes):
            raise self.broken(f"expected distinct axes, found {list(values)}")
        return axes

    def unsupported(self, what: str) -> UnsupportedError:
        """The error for a valid form of the operator that has no importer."""
        return UnsupportedError(f"{self.op_type} with {what}")

    def broken(self, what: str) -> ModelError:
        """The error for a node that contradicts its operator's definition."""
        return ModelError(f"node {self.name!r} ({self.op_type}): {what}")


Importer = Callable[[Node], "Op | tuple[Op, ...]"]
_F = TypeVar("_F", bound=Importer)  # so that importers may call one another

_IMPORTERS: dict[tuple[str, str], dict[int, Importer]] = {}


def importer(op_type: str, since: int = 1, domain: str = "") -> Callable[[_F], _F]:
    """Register the function that imports an operator from opset `since` on."""

    def register(function: _F) -> _F:
        _IMPORTERS.setdefault((domain, op_type), {})[since] = function
        return function

    return register


def find_importer(node: ir.Node, opset: int) -> Importer | None:
    """The function for a node's operator in an opset of the standard domain, if there is one."""
    forms = _IMPORTERS.get((_domain(node), node.op_type), {})
    since = max((s for s in forms if s <= opset), default=None)
    return None if since is None else forms[since]


def importers(domain: str = "") -> Mapping[str, tuple[int, ...]]:
    """Operator of a domain → the opsets from which each of its importers holds."""
    found = {name: forms for (d, name), forms in _IMPORTERS.items() if d == domain}
    return {name: tuple(sorted(forms)) for name, forms in sorted(found.items())}


def _domain(node: ir.Node) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def name_of(node: ir.Node) -> str:
    """What reports and errors call a node."""
    return node.name or f"{node.op_type}:{node.outputs[0].name if node.outputs else ''}"


def schema_of(node: ir.Node, opset: int) -> OpSchema | None:
    """The definition of an operator in an opset; None where there is none."""
    domain = _domain(node)
    contributed = SCHEMAS.get((domain, node.op_type))
    if domain:
        return contributed
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return contributed
    return None if schema.deprecated else schema


def checked(node: ir.Node, schema: OpSchema, opset: int, inputs: tuple[Op | None, ...]) -> Node:
    """The node with the schema's defaults filled in.

    Raises:
        ModelError: operands or attributes do not fit the schema.
    """
    given = dict(node.attributes.items())
    attributes = {
        name: onnx.helper.get_attribute_value(formal.default_value)
        for name, formal in schema.attributes.items()
        if formal.default_value.name
    }
    attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
    attributes |= {name: attribute.value for name, attribute in given.items()}
    outputs = tuple(y.name or "" for y in node.outputs)
    result = Node(name_of(node), node.op_type, opset, inputs, attributes, outputs)
    for name, attribute in given.items():
        if name not in schema.attributes:
            raise result.broken(f"unknown attribute {name!r}")
        expected = schema.attributes[name].type
        if attribute.is_ref() or attribute.type.name != expected.name:
            raise result.broken(
                f"attribute {name!r}: expected {expected.name}, found {attribute.type.name}"
            )
    for name, formal in schema.attributes.items():
        if formal.required and name not in given:
            raise result.broken(f"attribute {name!r} is missing")
    if not schema.min_input <= len(inputs) <= schema.max_input:
        raise result.broken(
            f"expected {schema.min_input} to {schema.max_input} inputs, found {len(inputs)}"
        )
    for i, x in enumerate(inputs):
        parameter = schema.inputs[min(i, len(schema.inputs) - 1)]  # the last may be variadic
        if x is None and parameter.option != OpSchema.FormalParameterOption.Optional:
            raise result.broken(f"input {parameter.name!r} is missing")
    return result
