"""What ops write their ONNX form to: `Op.onnx(o, *values)` gets an `Emitter` as `o`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from qcompiler.graph import Constant, Graph, Op, fold
from qcompiler.ops import Composite, Fused, Map, skeleton
from qcompiler.types import raw

OPSET = 21
"""16-bit and 4-bit QuantizeLinear need it; ONNX Runtime has it since 1.20."""

IR_VERSION = 10
"""The first that may carry opset 21."""

DOMAIN = "qcompiler"
"""Of the ONNX functions that composites become."""


class Emitter:
    """Collects the nodes, initializers and functions of one ONNX graph.

    Args:
        reserved: Names that no value in between may take.
        inline: Write the bodies of composites in place instead of calling functions.

    Attributes:
        scope: What names of values in between begin with: the op being written.
    """

    def __init__(self, reserved: Iterable[str] = (), *, inline: bool = False) -> None:
        self.inline = inline
        self.scope = ""
        self._tape = ir.tape.Tape()
        self._taken = set(reserved)
        self._counts: dict[str, int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._functions: dict[bytes, ir.Function] = {}
        self._by_key: dict[tuple[str, str], ir.Function] = {}

    @property
    def nodes(self) -> Sequence[ir.Node]:
        """Every node so far, in order."""
        return self._tape.nodes

    @property
    def initializers(self) -> list[ir.Value]:
        """The constants that some node uses."""
        return [v for v in self._constants.values() if v.uses()]

    @property
    def functions(self) -> list[ir.Function]:
        """The functions that composites call."""
        return list(self._functions.values())

    def op(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The result of a node.

        Args:
            operator: The standard operator's name.
            inputs: Its inputs; None for an optional one that is left out.
            attributes: Its attributes: numbers, strings, or lists of them.
        """
        value = self._tape.op(operator, _trimmed(inputs), _attributes(attributes))
        return self.named(value, operator)

    def ops(
        self, count: int, operator: str, *inputs: ir.Value | None, **attributes: Any
    ) -> list[ir.Value]:
        """The results of a node that has `count` of them; see `op`."""
        values = self._tape.op_multi_out(
            operator, _trimmed(inputs), _attributes(attributes), num_outputs=count
        )
        return [self.named(value, operator) for value in values]

    def named(self, value: ir.Value, suggestion: str) -> ir.Value:
        """Give a value between ops a name of its own, and its node the same."""
        base = f"{self.scope}/{suggestion}" if self.scope else suggestion
        name = base
        while name in self._taken:
            self._counts[base] = count = self._counts.get(base, 0) + 1
            name = f"{base}_{count}"
        self._taken.add(name)
        return rename(value, name)

    def constant(self, array: np.ndarray, name: str | None = None) -> ir.Value:
        """The initializer that holds `array`: one for all equal arrays, named by the first."""
        key = _content(array)
        if key not in self._constants:
            value = ir.Value(const_value=ir.tensor(array), shape=ir.Shape(array.shape))
            value.dtype = data_type(str(array.dtype))
            self._constants[key] = rename(value, name) if name else self.named(value, "constant")
        return self._constants[key]

    def widened(
        self,
        dtype: str,
        values: Sequence[ir.Value | None],
        compute: Callable[..., ir.Value],
    ) -> ir.Value:
        """`compute(*values)`, in a wider dtype where ONNX Runtime has no arithmetic for this one.

        Args:
            dtype: Of the values and of the result.
            values: What to widen; None is passed on.
            compute: Writes the operators; they must give the same integers in a wider dtype.
        """
        wide = self.widened_dtype(dtype)
        if wide == dtype:
            return compute(*values)
        to = self.dtype(wide)
        result = compute(*(None if v is None else self.op("Cast", v, to=to) for v in values))
        return self.op("Cast", result, to=self.dtype(dtype))

    def widened_dtype(self, dtype: str) -> str:
        """The dtype that `widened` computes in."""
        return _WIDE.get(dtype, dtype)

    def dtype(self, name: str) -> int:
        """ONNX's number of a dtype, as in `Cast(to=…)`."""
        return int(data_type(name))

    def composite(self, node: Composite, values: Sequence[ir.Value]) -> ir.Value:
        """Write a composite: a call of its function, or its body in place.

        A region (`Map`, `Fused`) is written in place in any case.
        """
        if self.inline or isinstance(node, (Map, Fused)):
            env: dict[Op, ir.Value] = dict(zip(node.operands, values, strict=True))
            return fold([node.expansion], env, self.emit)[node.expansion]
        form = skeleton(node)
        key = (node.kind(), form.key)
        if key not in self._by_key:
            self._by_key[key] = self._shared(_function(form.graph))
        name = self._by_key[key].name
        known = dict(zip(node.operands, values, strict=True))
        arguments = [known[x] if x in known else self.emit(x, []) for x in form.leaves]
        return self.named(self._tape.op(name, arguments, domain=DOMAIN), name)

    def emit(self, node: Op, values: list[ir.Value]) -> ir.Value:
        """Write any op on the values of its operands."""
        if isinstance(node, Constant):
            return self.constant(node.array)
        result: ir.Value = node.onnx(self, *values)
        return result

    def _shared(self, function: ir.Function) -> ir.Function:
        """An equal function that is known already, or else this one under a free name."""
        content = ir.to_proto(function).SerializeToString(deterministic=True)
        if content not in self._functions:
            names = {f.name for f in self._functions.values()}
            kind, count = function.name, 0
            while function.name in names:
                count += 1
                function.name = f"{kind}_{count}"
            self._functions[content] = function
        return self._functions[content]


class _Body(Emitter):
    """The body of a function, whose constants are nodes."""

    def constant(self, array: np.ndarray, name: str | None = None) -> ir.Value:
        key = _content(array)
        if key not in self._constants:
            self._constants[key] = self.op("Constant", value=ir.tensor(array))
        return self._constants[key]


def data_type(name: str) -> ir.DataType:
    """ONNX's element type of a dtype, or of a storage such as "uint4"."""
    return ir.DataType[_FLOATS.get(name, name.upper())]


_WIDE = {
    **dict.fromkeys(("bool", "int8", "uint8", "int16", "uint16"), "int32"),
    "uint32": "int64",
}
"""What ONNX Runtime 1.20 computes in; later versions know more types."""

_FLOATS = {"float32": "FLOAT", "float64": "DOUBLE"}


def rename(value: ir.Value, name: str) -> ir.Value:
    """Name a value, and the node or tensor that it comes from."""
    value.name = name
    if (node := value.producer()) is not None:
        node.name = name
    if value.const_value is not None:
        value.const_value.name = name
    return value


def _function(graph: Graph) -> ir.Function:
    """The graph of a skeleton, which has one output, as a function of its inputs."""
    names = graph.names
    body = _Body(names[x] for x in graph.inputs)
    env: dict[Op, ir.Value] = {x: ir.Value(name=names[x]) for x in graph.inputs}
    arguments = list(env.values())
    (result,) = graph.outputs.values()
    output = fold([result], env, body.emit)[result]
    if output in arguments:
        output = body.op("Identity", output)
    form = ir.Graph(arguments, [output], nodes=body.nodes, opset_imports={"": OPSET})
    return ir.Function(DOMAIN, graph.name, graph=form, attributes=[])


def _content(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return str(array.dtype), array.shape, hashlib.sha256(raw(array)).digest()


def _trimmed(inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """Without the absent inputs at the end."""
    last = max((i for i, x in enumerate(inputs) if x is not None), default=-1)
    return list(inputs[: last + 1])


def _attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """With types for empty lists, which say nothing of their elements."""
    return {k: ir.AttrInt64s(k, []) if v == [] else v for k, v in attributes.items()}
