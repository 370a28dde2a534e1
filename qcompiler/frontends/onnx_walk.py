"""The walk from a model's outputs, operands first.

Every value becomes an op of the real language, or a constant when nothing but constants goes into
it.  Shapes are static: what the ops infer is the shape inference.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike
from onnx.defs import OpSchema

from qcompiler.errors import (
    ModelError,
    ShapeError,
    TypingError,
    UnsupportedError,
)
from qcompiler.frontends.onnx_checks import (
    all_float,
    as_declared,
    check_names,
    imported,
    refusal,
    stand_in,
)
from qcompiler.frontends.onnx_codes import KEPT, integers
from qcompiler.frontends.onnx_control import UNROLLED, Values, find_control, subgraphs, varying
from qcompiler.frontends.onnx_finite import check_finite, masks
from qcompiler.frontends.onnx_fold import fold, infer, run
from qcompiler.frontends.onnx_functions import Body, Functions, is_defined
from qcompiler.frontends.onnx_inputs import constant, input_types
from qcompiler.frontends.onnx_model import (
    SUB_BYTE,
    Source,
    not_finite,
    real,
    to_array,
)
from qcompiler.frontends.onnx_node import checked, find_importer, name_of, schema_of
from qcompiler.frontends.onnx_refusals import ADVICE, Refusals
from qcompiler.frontends.onnx_selection import LeftOutWarning, find_selection
from qcompiler.frontends.onnx_sequence import SEQUENCES
from qcompiler.frontends.onnx_stand_ins import settled, unresolved
from qcompiler.graph import Constant, Graph, Input, Op, origin
from qcompiler.ops import Cast
from qcompiler.types import FLOAT

DEEPEST = 64  # subgraphs and functions inside each other
BUDGET = 1 << 26  # elements that may be computed from constants, beside four times the weights


class TooLargeError(Exception):
    """Loops, branches and calls come to too many values: the walk ends.

    Attributes:
        node: The outermost one.
    """

    node = ""


@dataclass(frozen=True)
class Scope:
    """Where the walk is: in the model's graph, or in a function.

    Attributes:
        opset: Version of the standard operators.
        prefix: Of names inside a function.
        node: The node whose operator the function defines: what reports name.
    """

    opset: int
    prefix: str = ""
    node: str | None = None

    def name_of(self, node: ir.Node) -> str:
        """What reports and errors call a node."""
        return f"{self.prefix}{name_of(node)}" if self.node is None else self.node

    def value(self, value: ir.Value) -> str | None:
        """What the graph calls a value."""
        return f"{self.prefix}{value.name}" if value.name else None


class Walk:
    """One import: ONNX value → op, filled on demand."""

    def __init__(
        self,
        source: Source,
        input_shapes: Mapping[str, Sequence[int]],
        input_values: Mapping[str, ArrayLike],
        length: int | None = None,
    ) -> None:
        self.source = source
        self.scope = Scope(source.opset or 1)
        self.functions = Functions(source.model)
        self.varying: dict[ir.Graph, list[ir.Value]] = {}
        self.unrolled = self.depth = 0
        self.refusals = Refusals()
        self.env: dict[ir.Value, Op | None] = {}  # None: depends on what was refused
        self.active: set[ir.Node] = set()
        self.loaded = self.folded = 0  # elements of initializers, and computed from constants
        declared = source.model.graph
        self.inputs: list[Input] = []
        values, self.open = input_types(declared, input_shapes, input_values, length)
        for value, tensor_type in values:
            if (name := str(value.name)) in input_values:
                given = constant(name, tensor_type, input_values[name])
                self.env[value] = Constant(real(given), name=name, sources=())
                continue
            x = Input(tensor_type, name=value.name, sources=())
            self.inputs.append(x)
            narrow = tensor_type.is_float and tensor_type.dtype != FLOAT
            self.env[value] = Cast(x, FLOAT, sources=()) if narrow else x

    def graph(self) -> Graph:
        """The imported graph."""
        declared = self.source.model.graph
        if not declared.outputs:
            raise ModelError("the graph has no outputs")
        names = [str(y.name) for y in declared.outputs]
        if len(set(names)) != len(names):
            raise ModelError(f"the graph returns a value twice: {', '.join(names)}")
        check_names(declared)
        wanted, selection = list(declared.outputs), find_selection(declared)
        if selection is not None and selection.is_last:
            wanted = selection.outputs(wanted)
        try:
            self.compute(wanted)
        except (ModelError, ShapeError):
            self.refusals.check()  # first, since what was refused may be the cause
            raise
        except TooLargeError as error:
            raise UnsupportedError(f"{error.node}: {error}") from None
        self.refusals.check()
        outputs: dict[str, Op] = {}
        for value in wanted:
            op = self.env[value]
            assert op is not None  # nothing was refused
            if op.operands or value in declared.outputs:  # else the application knows it already
                outputs[str(value.name)] = as_declared(op, value)
        if selection is not None:
            if not outputs:
                raise UnsupportedError("computes nothing but a choice of boxes")
            warnings.warn(selection.message(list(outputs)), LeftOutWarning, stacklevel=2)
        name = declared.name or "graph"
        batch, length = self.open.batch, self.open.length
        inputs = tuple(self.inputs)
        graph = Graph(inputs, outputs, name, open_batch=batch, open_length=length)
        for op in graph.ops:
            if (reason := unresolved(op)) is not None:
                self.refusals.add(reason, op.sources[0])
        self.refusals.check()
        graph = graph.rewrite(settled)
        check_finite(graph)
        return graph

    def compute(self, targets: Iterable[ir.Value]) -> None:
        """Import the targets and all that they need, operands first."""
        stack = [(value, False) for value in targets]
        while stack:
            value, expanded = stack.pop()
            if value in self.env:
                continue
            node = value.producer()
            if node is None:
                self.env[value] = self.constant(value)
            elif expanded:
                self.run_node(node)
                self.active.discard(node)
                if value not in self.env:
                    what = f"{node.op_type} with output {value.index()}"
                    self.refusals.add(what, self.scope.name_of(node))
                    self.env[value] = None
            elif node in self.active:
                raise ModelError(f"node {name_of(node)!r} ({node.op_type}) is part of a cycle")
            else:
                self.active.add(node)
                stack.append((value, True))
                stack.extend((x, False) for x in node.inputs if x is not None)

    def constant(self, value: ir.Value) -> Op | None:
        """A value that no node computes: an initializer."""
        if value.const_value is None:
            user = next((f"node {name_of(use.node)!r}" for use in value.uses()), "the graph")
            raise ModelError(f"value {value.name!r}, needed by {user}, is computed by no node")
        try:
            array = to_array(value.const_value, self.source.folder)
        except UnsupportedError as error:
            self.refusals.add(str(error), str(value.name))
            return None
        self.loaded += array.size
        problem = None if array.size < 2 or masks(array) else not_finite(array)
        if problem is not None:  # bounds and masks are refused only where they stay
            raise ModelError(f"initializer {value.name!r} {problem}")
        if (element := value.const_value.dtype) in SUB_BYTE:
            return replace(integers(array, element.name.lower()), name=value.name, sources=())
        return Constant(array, name=value.name, sources=())

    def run_node(self, node: ir.Node) -> None:
        """Import one node whose operands are imported."""
        inputs = tuple(None if x is None else self.env[x] for x in node.inputs)
        name = self.scope.name_of(node)
        try:
            with origin((name,)):
                results = self.results(node, inputs)
        except TooLargeError as error:
            error.node = f"node {name!r} ({node.op_type})"
            raise
        except (UnsupportedError, TypingError) as error:
            self.refusals.add(refusal(node, inputs, error), name)
            results = self.placeholders(node, inputs)
        for value, result in zip(node.outputs, results, strict=False):
            if result is not None and result.name is None:
                result = replace(result, name=self.scope.value(value))
            self.env[value] = result

    def results(self, node: ir.Node, inputs: tuple[Op | None, ...]) -> Sequence[Op | None]:
        """The ops that compute a node's outputs; None for those of refused operands."""
        opset = self.scope.opset
        if self.functions.is_call(node):
            given = [y for x, y in zip(node.inputs, inputs, strict=True) if x is not None]
            prefix = f"{self.scope.name_of(node)}/"
            return self.call(self.functions.called(node), given, prefix, self.scope.node)
        schema = schema_of(node, opset)
        if schema is None:
            domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
            raise UnsupportedError(f"{domain}{node.op_type}{ADVICE.get(node.domain, '')}")
        function = find_importer(node, opset)
        control = find_control(node, opset)
        if any(y is None for x, y in zip(node.inputs, inputs, strict=True) if x is not None):
            if function is None and control is None and not is_defined(schema):
                raise UnsupportedError(node.op_type)
            for graph in subgraphs(node):  # for what they hold that is refused as well
                self.evaluate(graph, [None] * len(graph.inputs))
            return [stand_in(y) for y in node.outputs]
        form = checked(node, schema, opset, inputs)
        if node.op_type == "Constant":
            return [self.literal(node)]
        if control is not None:
            return control(self, form)
        present = [x for x in inputs if x is not None]
        if function is None:
            if all(isinstance(x, Constant) for x in present):
                return self.charged(run(node, schema, opset, inputs))
            return self.defined(node, schema, inputs)
        if node.op_type in KEPT | SEQUENCES or not all(isinstance(x, Constant) for x in present):
            return imported(function, form)
        if all_float(node, present):
            return self.charged([fold(y) for y in imported(function, form)])
        try:
            return self.charged(run(node, schema, opset, inputs))
        except (ModelError, UnsupportedError):  # what ONNX's own code cannot do, an importer may
            results = [fold(y) for y in imported(function, form)]
            if not all(isinstance(y, Constant) for y in results):
                raise
            return self.charged(results)

    def charged(self, values: Sequence[Op]) -> Sequence[Op]:
        """The values, their size charged to the budget for folded constants.

        Raises:
            ModelError: it is spent.
        """
        self.folded += sum(y.type.size for y in values)
        if self.folded > BUDGET + 4 * self.loaded:
            raise ModelError(f"asks for {self.folded} elements computed from constants")
        return values

    def literal(self, node: ir.Node) -> Op:
        """What a Constant node holds."""
        if len(node.attributes) != 1:
            raise ModelError(f"node {name_of(node)!r} (Constant): expected one attribute")
        (attribute,) = node.attributes.values()
        if attribute.name == "value":
            return Constant(to_array(attribute.as_tensor(), self.source.folder))
        if attribute.name in ("value_float", "value_floats"):
            return Constant(np.asarray(attribute.value, np.float32))
        if attribute.name in ("value_int", "value_ints"):
            return Constant(np.asarray(attribute.value, np.int64))
        raise UnsupportedError(f"Constant with {attribute.name}")

    def evaluate(self, graph: ir.Graph, arguments: Values) -> Values:
        """The outputs of a subgraph for its arguments; all None if it holds what is refused.

        Values that do not depend on the arguments are kept for the next step or call.

        Raises:
            UnsupportedError: steps, branches and calls come to too many nodes.
        """
        if graph not in self.varying:
            self.varying[graph] = varying(graph)
        self.unrolled += len(self.varying[graph])
        if self.unrolled > UNROLLED or self.depth == DEEPEST:
            raise TooLargeError(
                f"its loops, branches and functions, unrolled, come to more than {UNROLLED} values "
                f"or are nested more than {DEEPEST} deep: run the model on parts of its sequence"
            )
        refused = self.refusals.count
        self.depth += 1
        self.env.update(zip(graph.inputs, arguments, strict=True))
        try:
            self.compute(graph.outputs)
            results = [self.env[y] for y in graph.outputs]
        finally:
            for value in self.varying[graph]:
                self.env.pop(value, None)
            self.depth -= 1
        return results if self.refusals.count == refused else [None] * len(results)

    def call(self, body: Body, operands: Values, prefix: str, node: str | None) -> Values:
        """The results of a function for the operands that are given."""
        caller = self.scope
        self.scope = Scope(caller.opset if body.opset is None else body.opset, prefix, node)
        try:
            return self.evaluate(body.graph, operands)
        finally:
            self.scope = caller

    def defined(self, node: ir.Node, schema: OpSchema, inputs: Values) -> Values:
        """The results of an operator that the standard defines by a function.

        Raises:
            UnsupportedError: there is no such definition, or it uses what is not supported.
        """
        body = self.functions.defining(node, schema, self.scope.opset, inputs)
        if body is None:
            raise UnsupportedError(node.op_type)
        name = self.scope.name_of(node)
        active, outer, self.refusals = set(self.active), self.refusals, Refusals()
        operands = [x for x in inputs if x is not None]
        results: Values = ()
        try:
            results = self.call(body, operands, f"{name}/", name)
        except (ModelError, ShapeError):
            if not self.refusals.count:  # else what was refused may be the cause
                raise
        inner, self.refusals = self.refusals, outer
        if inner.count:
            self.active = active
            for step in body.graph.all_nodes():  # for the next call to be refused as well
                for value in step.outputs:
                    self.env.pop(value, None)
            raise UnsupportedError(f"{node.op_type}, which is defined by {', '.join(inner.nodes)}")
        return results

    def placeholders(self, node: ir.Node, inputs: tuple[Op | None, ...]) -> Sequence[Op | None]:
        """Stand-ins for a refused node's outputs, so that the walk finds all refusals.

        Their types are what ONNX infers, or else what the model declares.
        """
        declared = [stand_in(y) for y in node.outputs]
        schema = schema_of(node, self.scope.opset)
        if schema is None or any(
            y is None for x, y in zip(node.inputs, inputs, strict=True) if x is not None
        ):
            return declared
        try:
            types = infer(node, schema, self.scope.opset, inputs)
        except ModelError:
            return declared
        return [y if t is None else Input(t) for t, y in zip(types, declared, strict=True)]
