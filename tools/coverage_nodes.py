"""The node tests that ship with `onnx`: what each comes to when it is imported and evaluated.

A node test gives everything as a graph input: shapes, axes and weights too, which models hold as
constants and a compiler of static graphs must know.  So each test is tried as it is, then with
operands of no float dtype known, then with all but the first known; the first form that is not
refused counts, and the table says which it was.
"""

from __future__ import annotations

import enum
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import qcompiler
from qcompiler.errors import QcompilerError, UnsupportedError

WIDE = {"FLOAT16", "BFLOAT16", "DOUBLE"}
NARROW = {"FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"} | {
    "FLOAT4E2M1",
    *("INT4", "UINT4", "INT2", "UINT2"),
}
LOSSES = ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")


class Kind(enum.Enum):
    """What a test is about; only `FLOAT` counts for the floor."""

    FLOAT = "float32 (and integers, booleans beside it)"
    WIDE = "float16, bfloat16 or float64"
    INTEGER = "integers and booleans only"
    NARROW = "float8, float4, int4, int2"
    LOSS = "training: losses and optimizers"
    OBJECT = "strings, sequences, optionals"


class Outcome(enum.Enum):
    """What came of a test; the order is that of the table's columns."""

    RIGHT = "right"
    REFUSED = "refused by name"
    WRONG = "wrong"
    CRASH = "crash"


FORMS = ("as given", "sizes and indices known", "all but the first operand known")


@dataclass(frozen=True)
class Result:
    """What one test came to.

    Attributes:
        form: The index in `FORMS` of the form that counts.
        reason: Of a refusal, a difference or a crash.
    """

    name: str
    operator: str
    kind: Kind
    outcome: Outcome
    form: int
    reason: str = ""


def node_tests() -> list[Any]:
    """All tests, with models and data in memory."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(load_model_tests(kind="node"))


def kind_of(model: onnx.ModelProto) -> Kind:
    """What a test is about, by its operators and the types of its inputs and outputs."""
    if any(n.domain == "ai.onnx.preview.training" for n in model.graph.node):
        return Kind.LOSS
    types = set()
    for value in (*model.graph.input, *model.graph.output):
        if value.type.WhichOneof("value") != "tensor_type":
            return Kind.OBJECT
        types.add(onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type))
    if "STRING" in types:
        return Kind.OBJECT
    if types & NARROW:
        return Kind.NARROW
    if types & WIDE:
        return Kind.WIDE
    return Kind.FLOAT if "FLOAT" in types else Kind.INTEGER


def operator_of(name: str, model: onnx.ModelProto) -> str:
    """The operator that a test is named after; an expanded test has its function's body."""
    if "_expanded" not in name:
        return str(model.graph.node[-1].op_type)
    return _EXPANDED.get(name.partition("_expanded")[0], "functions, expanded")


_EXPANDED: dict[str, str] = {}


def run(tests: Sequence[Any]) -> Iterator[Result]:
    """Every test's result, in order."""
    for test in tests:
        if "_expanded" not in test.name:
            _EXPANDED[test.name] = test.model.graph.node[-1].op_type
    for test in tests:
        operator = operator_of(test.name, test.model)
        kind = Kind.LOSS if operator in LOSSES else kind_of(test.model)
        outcome, form, reason = _outcome(test)
        yield Result(test.name, operator, kind, outcome, form, reason)


def _outcome(test: Any) -> tuple[Outcome, int, str]:
    reason = ""
    for form in range(len(FORMS)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = [_difference(test, form, *data) for data in test.data_sets]
        except QcompilerError as error:
            reason = _reason(error)
            continue
        except Exception as error:  # whatever escapes is a defect of ours
            return Outcome.CRASH, form, f"{type(error).__name__}: {error}".splitlines()[0]
        wrong = [text for text in found if text]
        return (Outcome.WRONG, form, wrong[0]) if wrong else (Outcome.RIGHT, form, "")
    return Outcome.REFUSED, len(FORMS) - 1, reason


def _reason(error: QcompilerError) -> str:
    text = str(error)
    for prefix in ("model: ", "operators that are not supported: "):
        text = text.removeprefix(prefix)
    return text if isinstance(error, UnsupportedError) else f"{type(error).__name__}: {text}"


def _difference(test: Any, form: int, inputs: Sequence[Any], expected: Sequence[Any]) -> str:
    """How the evaluated graph differs from what the test expects; nothing where it does not."""
    model, feeds = with_known(test.model, inputs, form)
    graph = qcompiler.import_onnx(model)
    feeds = {str(x.name): feeds[str(x.name)].astype(x.type.dtype) for x in graph.inputs}
    found = qcompiler.evaluate(graph, feeds)
    for value, y in zip(test.model.graph.output, expected, strict=True):
        got = found[value.name]
        reference = numpy_helper.to_array(y) if isinstance(y, onnx.TensorProto) else np.asarray(y)
        if got.shape != reference.shape:
            return f"{value.name}: expected shape {reference.shape}, found {got.shape}"
        if not _close(got, reference, test.rtol, test.atol):
            return f"{value.name}: {_largest(got, reference)}"
    return ""


def _close(got: np.ndarray, reference: np.ndarray, rtol: float, atol: float) -> bool:
    if reference.dtype.kind in "bui":
        return bool(np.array_equal(got, reference))
    a, b = got.astype(np.float64), reference.astype(np.float64)
    if reference.dtype.name == "float16":
        rtol, atol = max(rtol, 2e-3), max(atol, 1e-3)  # computed in float32 here
    if reference.dtype.name == "bfloat16":
        rtol, atol = max(rtol, 2e-2), max(atol, 1e-2)
    # Sums in float32 round to eps of their largest term, where the expected value may be 0.
    largest = np.abs(b[np.isfinite(b)]).max(initial=0)
    return bool(np.allclose(a, b, rtol, max(atol, 1e-6 * largest), equal_nan=True))


def _largest(got: np.ndarray, reference: np.ndarray) -> str:
    with np.errstate(all="ignore"):
        error = np.abs(got.astype(np.float64) - reference.astype(np.float64))
    return f"largest error {np.nanmax(error, initial=0):.3g}"


def with_known(
    model: onnx.ModelProto, inputs: Sequence[Any], form: int
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model with the operands of a form known, and the arrays of the others."""
    known = onnx.ModelProto()
    known.CopyFrom(model)
    feeds: dict[str, np.ndarray] = {}
    del known.graph.input[:]
    for index, (value, x) in enumerate(zip(model.graph.input, inputs, strict=False)):
        array = numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x
        if (
            isinstance(array, np.ndarray)
            and array.dtype != object
            and index > 0
            and (form == 2 or (form == 1 and array.dtype.kind in "bui"))
        ):
            known.graph.initializer.append(numpy_helper.from_array(array, value.name))
            continue
        declared = known.graph.input.add()
        declared.CopyFrom(value)
        feeds[value.name] = array
        if isinstance(array, np.ndarray):  # the data say what a symbol is
            for dim, size in zip(declared.type.tensor_type.shape.dim, array.shape, strict=False):
                dim.dim_value = size
    return known, feeds
