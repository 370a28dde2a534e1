"""Random nodes: functions of one element, arithmetic, comparisons, choice, reductions."""

from __future__ import annotations

from typing import Any

import numpy as np
from fuzz_draft import Draft, Value, generates
from fuzz_runtime import RejectedError
from onnx import TensorProto

PARAMETERS: dict[str, dict[str, tuple[float, float]]] = {
    "Elu": {"alpha": (0.1, 2)},
    "LeakyRelu": {"alpha": (-0.5, 1.5)},
    "HardSigmoid": {"alpha": (0.1, 0.5), "beta": (0.1, 0.9)},
    "Selu": {"alpha": (0.5, 2), "gamma": (0.5, 2)},
    "Celu": {"alpha": (0.2, 2)},
    "Swish": {"alpha": (0.5, 2)},
    "com.microsoft.QuickGelu": {"alpha": (0.5, 2)},
    "ThresholdedRelu": {"alpha": (0, 2)},
    "Shrink": {"lambd": (0, 1), "bias": (0, 1)},
}


@generates(
    "Abs", "Neg", "Relu", "Sigmoid", "Tanh", "Erf", "Exp", "HardSwish", "Identity", "Mish",
    "Softplus", "Softsign", "Elu", "LeakyRelu", "HardSigmoid", "Selu", "Celu", "Swish",
    "com.microsoft.QuickGelu",
    "ThresholdedRelu", "Shrink", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Asinh", "Ceil",
    "Floor", "Round", "Sign",
)  # fmt: skip
def function(d: Draft, op: str) -> None:
    """A function of each element, with its defaults or not."""
    given = {k: float(d.rng.uniform(*v)) for k, v in PARAMETERS.get(op, {}).items()}
    d.emit(op, [d.real(known=0.02)], **(given if d.chance(0.6) else {}))


@generates("Log", "Sqrt", "Reciprocal", "Acosh")
def positive_function(d: Draft, op: str) -> None:
    """A function that needs positive elements."""
    low = 1.0 if op == "Acosh" else 1e-3
    x = d.real()
    if x.low <= low:
        x = d.emit("Abs", [x])[0]
        x = d.emit("Add", [x, d.const(low + 0.1, np.float32)])[0]
    d.emit(op, [x])


@generates("Asin", "Acos", "Atanh")
def unit_function(d: Draft, op: str) -> None:
    """A function of numbers between −1 and 1."""
    y = d.emit("Tanh", [d.real()])[0]
    d.emit(op, [d.emit("Mul", [y, d.const(0.95, np.float32)])[0]])


@generates("Gelu", "com.microsoft.Gelu", "com.microsoft.FastGelu", "com.microsoft.BiasGelu")
def gelu(d: Draft, op: str) -> None:
    """The forms of GELU."""
    x = d.real(lambda v: v.first.ndim > 0)
    if op == "Gelu":
        d.emit(op, [x], **({"approximate": d.pick(("none", "tanh"))} if d.chance(0.6) else {}))
    elif op.endswith("BiasGelu") or (op.endswith("FastGelu") and d.chance(0.5)):
        d.emit(op, [x, d.floats(x.shape[-1:], known=d.chance(0.8))])
    else:
        d.emit(op, [x])


@generates("Dropout")
def dropout(d: Draft, op: str) -> None:
    """Of inference: the identity."""
    if d.opset < 12:
        d.emit(op, [d.real()], ratio=0.3)
    else:
        d.emit(op, [d.real(), d.const(0.3, np.float32)] if d.chance(0.5) else [d.real()])


@generates("Add", "Sub", "Mul", "PRelu", "Min", "Max", "Sum", "Mean", "Div", "Mod")
def arithmetic(d: Draft, op: str) -> None:
    """Two or more operands that broadcast, constants on either side."""
    of_integers = {"Add": 7, "Sub": 7, "Mul": 7, "Div": 7, "Mod": 10, "Max": 12, "Min": 12}
    if d.opset >= of_integers.get(op, d.opset + 1) and d.chance(0.06):
        a, b = whole(d), whole(d)
        if op in ("Mod", "Div"):
            b = d.const(d.integer(1, 7), np.int64)
        d.emit(op, [a, b])
        return
    x = d.real(known=0.02)
    if op == "PRelu":
        shapes = ((), (1,), x.shape[1:2] + (1,) * max(x.first.ndim - 2, 0))
        shape = d.pick(shapes) if x.first.ndim else ()
        d.emit(op, [x, d.floats(shape, known=d.chance(0.8))])
        return
    low = 0.1 if op in ("Div", "Mod") else -np.inf
    y = d.partner(x, low=low)
    if op == "Mod":
        d.emit(op, [x, y], fmod=1)
        return
    same = op in ("Min", "Max", "Sum", "Mean") and d.opset < 8
    if same:
        y = d.real(shape=x.shape, known=0.4)
    operands = [x, y] if d.chance(0.5) or op == "Div" else [y, x]
    if op in ("Min", "Max", "Sum", "Mean") and d.chance(0.4) and not same:
        operands = [x] if d.chance(0.3) else [*operands, d.partner(x)]
    d.emit(op, operands)


@generates("Pow")
def power(d: Draft, op: str) -> None:
    """Constant exponents; positive bases where they need it."""
    exponent = d.pick((-2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 5))
    shape = d.pick(((), (1,), (1, 1)))
    x = d.real()
    if (exponent < 0 or exponent % 1) and x.low <= 0.01:
        x = d.emit("Add", [d.emit("Abs", [x])[0], d.const(0.1, np.float32)])[0]
    d.emit(op, [x, d.const(np.full(shape, exponent, np.float32))])


@generates("Clip")
def clip(d: Draft, op: str) -> None:
    """Attributes or operands; one bound, both or none, now and then infinite."""
    x = d.real()
    low, high = d.pick(((-1.0, 0.5), (0.0, 6.0), (0.3, 0.3), (-np.inf, 1.0), (-9.0, np.inf)))
    if d.opset < 11:
        bounds = {"min": low, "max": high}
        d.emit(op, [x], **{k: v for k, v in bounds.items() if np.isfinite(v) and d.chance(0.8)})
        return
    operands = [d.const(v, np.float32) if d.chance(0.8) else None for v in (low, high)]
    d.emit(op, [x, *operands])


def whole(d: Draft) -> Value:
    """Whole numbers: values that are there or new ones."""
    fits = [v for v in d.values.values() if v.first.dtype == np.int64 and not v.known]
    if fits and d.chance(0.6):
        return d.pick(fits)
    return d.integers(d.shape(d.integer(0, 3)), -9, 9)


@generates("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
def comparison(d: Draft, op: str) -> None:
    """Of floats or whole numbers; the result may choose between floats."""
    real = d.chance(0.6) and (op != "Equal" or d.opset >= 11)
    x = d.real() if real or (d.opset < 9 and op != "Equal") else whole(d)
    if x.first.dtype == np.float32:
        y = d.partner(x)
    else:
        y = d.integers(d.broadcastable(x.shape), -9, 9)
    d.emit(op, [x, y] if d.chance(0.5) else [y, x])


@generates("And", "Or", "Xor", "Not", "IsNaN", "IsInf")
def logic(d: Draft, op: str) -> None:
    """Of booleans of shapes that broadcast."""
    if op in ("IsNaN", "IsInf"):
        d.emit(op, [d.real()])
        return
    x = d.condition(d.shape(d.integer(0, 4)))
    d.emit(op, [x] if op == "Not" else [x, d.condition(d.broadcastable(x.shape))])


@generates("Where")
def where(d: Draft, op: str) -> None:
    """A choice between floats, constants included."""
    x = d.real(known=0.05)
    y = d.const(d.pick((0, -1e4, -1, 1)), np.float32) if d.chance(0.3) else d.partner(x)
    chosen = d.condition(d.broadcastable(x.shape))
    d.emit(op, [chosen, x, y] if d.chance(0.5) else [chosen, y, x])


@generates("Cast", "CastLike")
def cast(d: Draft, op: str) -> None:
    """From what is there to floats, whole numbers or booleans."""
    x = d.pick((d.real, lambda: whole(d), lambda: d.condition(d.shape(2))))()
    to = d.pick((TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL))
    if op == "CastLike":
        d.emit(op, [x, d.const(0, d.pick((np.float32, np.int64)))])
    else:
        d.emit(op, [x], to=to)


@generates(
    "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum", "ReduceSumSquare",
    "ReduceProd", "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip
def reduction(d: Draft, op: str) -> None:
    """Over some axes, all or none, kept or not."""
    x = d.real(low=1e-2 if op == "ReduceLogSum" else -np.inf)
    attributes: dict[str, Any] = {"keepdims": int(d.chance(0.5))} if d.chance(0.8) else {}
    operands: list[Value | None] = []
    if x.first.ndim and d.chance(0.8):
        number = d.integer(1, x.first.ndim)
        axes = d.rng.choice(x.first.ndim, number, replace=False).tolist()
        if d.opset >= 11 and d.chance(0.4):
            axes = [a - x.first.ndim for a in axes]
        operands, more = d.listed(axes, 13 if op == "ReduceSum" else 18, "axes")
        attributes |= more
    d.emit(op, [x, *operands], **attributes)


@generates("ArgMax", "ArgMin")
def extremum(d: Draft, op: str) -> None:
    """The index of the largest or smallest."""
    x = d.real(lambda v: v.first.ndim > 0)
    attributes = {"select_last_index": 1} if d.opset >= 12 and d.chance(0.2) else {}
    d.emit(op, [x], axis=d.axis(x.first.ndim), keepdims=int(d.chance(0.5)), **attributes)


@generates("CumSum", "CumProd")
def cumulative(d: Draft, op: str) -> None:
    """Running sums, from either end."""
    x = d.real(lambda v: v.first.ndim > 0)
    axis = d.const(d.axis(x.first.ndim), np.int64)
    d.emit(op, [x, axis], exclusive=int(d.chance(0.3)), reverse=int(d.chance(0.3)))


@generates("Softmax", "LogSoftmax", "Hardmax")
def softmax(d: Draft, op: str) -> None:
    """Along an axis; before opset 13 along all behind it."""
    x = d.real(lambda v: v.first.ndim > 0)
    d.emit(op, [x], **({"axis": d.axis(x.first.ndim)} if d.chance(0.8) else {}))


@generates("TopK")
def top(d: Draft, op: str) -> None:
    """The largest elements and their places."""
    x = d.real(lambda v: v.first.ndim > 0)
    axis = d.axis(x.first.ndim)
    k = d.integer(0 if d.chance(0.05) else min(1, x.shape[axis]), x.shape[axis])
    if d.opset < 10:
        d.emit(op, [x], 2, axis=axis, k=k)
        return
    attributes = {"largest": int(d.chance(0.7))} if d.opset >= 11 else {}
    d.emit(op, [x, d.const([k], np.int64)], 2, axis=axis, **attributes)


@generates("Shape", "Size")
def sizes(d: Draft, op: str) -> None:
    """Known at compile time."""
    d.emit(op, [d.real()])


@generates("OneHot")
def one_hot(d: Draft, op: str) -> None:
    """Rows of zeros with a one."""
    depth = d.integer(1, 6)
    indices = d.integers(d.shape(d.integer(0, 2)), 0, depth - 1)
    values = d.const([0, 1] if d.chance(0.7) else [-1, 0.5], np.float32)
    d.emit(op, [indices, d.const(depth, np.int64), values])


@generates("Range", "ConstantOfShape", "Constant", "EyeLike")
def constant(d: Draft, op: str) -> None:
    """Values that depend on no input."""
    if op == "Range":
        d.emit(op, [d.const(v, np.int64) for v in (0, d.integer(1, 9), 1)])
    elif op == "ConstantOfShape":
        d.emit(op, [d.const(d.shape(2), np.int64)])
    elif op == "EyeLike":
        d.emit(op, [d.real(rank=2)])
    else:
        raise RejectedError("draft: initializers stand for it")
