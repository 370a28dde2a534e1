"""Ops, and walks over them.

An op *is* the value that it computes.  It is a frozen dataclass with identity semantics, whose
fields are operands (`Op`, `Op | None` or a tuple of them) and attributes; building one infers and
checks its type.  `dataclasses.replace` edits, `match` recognises, what no output reaches is dead.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
from typing_extensions import dataclass_transform

from qcompiler.errors import TypingError, UnprovedError
from qcompiler.interval import Interval
from qcompiler.types import TensorType

_C = TypeVar("_C", bound=type)
_V = TypeVar("_V")
_origin: ContextVar[tuple[str, ...]] = ContextVar("origin", default=())


@contextmanager
def origin(sources: tuple[str, ...]) -> Iterator[None]:
    """Ops built inside come from these ONNX nodes unless they say otherwise."""
    token = _origin.set(sources)
    try:
        yield
    finally:
        _origin.reset(token)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
def op(cls: _C) -> _C:
    """Declare an op: a frozen dataclass that compares by identity."""
    return dataclass(frozen=True, eq=False, repr=False)(cls)  # type: ignore[return-value]


@op
class Op:
    """A value and how it is computed.

    A *primitive* says how in four forms, side by side: `numpy(*arrays)`, `te(t, *tensors)` (or
    `scalar(t, *expressions)`, for elementwise ops), `onnx(o, *values)` and, of integers,
    `interval(*intervals)`.  A composite (see `qcompiler.ops.composite`) has a `body` of primitives
    instead.

    Attributes:
        name: The value's name in the user's model, where it has one.
        sources: Names of the ONNX nodes that it comes from, for reports and errors.
        within: A lemma of the body that the op belongs to: where its result lies although the
            intervals of its operands, which are correlated, do not tell.  The docstring of the body
            proves it; tests attack it.
        elementwise: Whether each element of the result is computed from the operands' elements at
            its place, as numpy broadcasts them, and from tables.
        moves: Fields whose elements are what the result consists of: the op does the same to codes
            of one quantization as to the reals they stand for.
        compares: Fields of which only the order counts: likewise.
    """

    name: str | None = field(default=None, kw_only=True)
    sources: tuple[str, ...] = field(default_factory=_origin.get, kw_only=True)

    within: Interval | None = field(default=None, kw_only=True)

    elementwise: ClassVar[bool] = False
    proved: ClassVar[bool] = False
    """Whether its integers must not wrap, whatever those of its operands are."""
    moves: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        _ = self.type  # an ill-typed op cannot be built

    @cached_property
    def type(self) -> TensorType:
        """The inferred type of the value."""
        try:
            return self.infer()
        except TypingError as error:
            if str(error).startswith(self.label()):
                raise
            raise type(error)(f"{self.label()}: {error}") from None

    def infer(self) -> TensorType:
        """The type of the value, from the operands' types.

        Raises:
            TypingError: the operands do not fit.
        """
        raise NotImplementedError(f"{type(self).__name__}.infer")

    def numpy(self, *operands: np.ndarray) -> np.ndarray:
        """The value, from the operands' values: the reference semantics."""
        raise NotImplementedError(f"{type(self).__name__}.numpy")

    def onnx(self, o: Any, *operands: Any) -> Any:
        """Emit the op through `qcompiler.backends.onnx.Emitter` `o`; returns the result value."""
        raise NotImplementedError(f"{type(self).__name__}.onnx")

    def te(self, t: Any, *operands: Any) -> Any:
        """The op as a TE tensor; `t` is `qcompiler.backends.tvm.te`, which ops never import."""
        raise NotImplementedError(f"{type(self).__name__}.te")

    def interval(self, *operands: Any) -> Interval | None:
        """Where the elements of the result lie before it wraps, from where those of operands lie.

        As a form of the op; `bounded` is what to ask.

        Args:
            operands: An `Interval` for each integer operand, None for others.

        Returns:
            None where nobody proves anything of the integers: those of the model itself.

        Raises:
            UnprovedError: an operand may be what the op is not defined for.
        """
        moved = set(self.fields(self.moves))
        found = [y for x, y in zip(self.operands, operands, strict=True) if x in moved]
        return functools.reduce(operator.or_, found) if found else None

    def bounded(self, *operands: Interval | None) -> Interval | None:
        """Where the elements of the result lie, proved to be within its type.

        Args:
            operands: What this function gives for the operands.

        Returns:
            None for real numbers, truth values, and integers of the model itself, such as indices:
            the arithmetic of those wraps, as ONNX has it.

        Raises:
            UnprovedError: the proof fails: some value of the operands may lead to an overflow.
        """
        limits, coded = self.type.limits, self.type.quantization is not None
        widest = [x.type.limits for x in self.operands]
        unknown = any(y is None is not w for y, w in zip(operands, widest, strict=True))
        if not self.proved and (limits is None or (unknown and not coded)):
            return None
        known = (w if y is None else y for y, w in zip(operands, widest, strict=True))
        found = self.interval(*known)
        if found is None or limits is None:
            return limits if coded else None
        if self.within is not None:
            found &= self.within
        return self.fitting(found)

    def fitting(self, found: Interval) -> Interval:
        """Where the result lies, or a part of what it is summed from, proved to be in its type."""
        limits = self.type.limits
        assert limits is not None
        self.prove(found <= limits, f"values within {self.type.dtype} ({limits})", str(found))
        return found

    @classmethod
    def kind(cls) -> str:
        """The op's name in text: `ConvInteger` → `conv_integer`."""
        return _snake(cls.__name__)

    def label(self) -> str:
        """The op as an error calls it: kind, and the user's node names where known."""
        return f"{self.kind()} ({', '.join(self.sources)})" if self.sources else self.kind()

    def expect(self, condition: bool, expected: str, found: object) -> None:
        """Raise a `TypingError` that names this op, unless `condition` holds."""
        if not condition:
            raise TypingError(f"{self.label()}: expected {expected}, found {found}")

    def prove(self, condition: bool, expected: str, found: object) -> None:
        """Raise an `UnprovedError` that names this op, unless `condition` holds."""
        if not condition:
            raise UnprovedError(f"{self.label()}: expected {expected}, found {found}")

    @cached_property
    def operands(self) -> tuple[Op, ...]:
        """All operands, in the order of the fields."""
        found: list[Op] = []
        for name in _field_names(type(self)):  # type: ignore[arg-type]  # hashed by identity
            value = getattr(self, name)
            if isinstance(value, Op):
                found.append(value)
            elif isinstance(value, tuple) and value and isinstance(value[0], Op):
                found.extend(value)
        return tuple(found)

    def fields(self, names: Iterable[str]) -> tuple[Op, ...]:
        """The operands in the fields of those names; absent ones are left out."""
        found: list[Op] = []
        for name in names:
            value = getattr(self, name)
            found.extend(value if isinstance(value, tuple) else () if value is None else (value,))
        return tuple(found)

    @property
    def attributes(self) -> dict[str, Any]:
        """The fields that are neither operands, nor names, nor left at None or their default."""
        return {
            f.name: value
            for f in dataclasses.fields(self)
            if f.name not in ("name", "sources", "within")
            and (value := getattr(self, f.name)) is not None
            and value is not f.default
            and not isinstance(value, Op)
            and not (isinstance(value, tuple) and value and isinstance(value[0], Op))
        }

    def with_operands(self, operands: Iterable[Op], **attributes: Any) -> Op:
        """The same op on other operands, in the order of `operands`, and with other attributes."""
        new = iter(operands)
        changes: dict[str, Any] = dict(attributes)
        for name in _field_names(type(self)):  # type: ignore[arg-type]  # hashed by identity
            value = getattr(self, name)
            if isinstance(value, Op):
                changes[name] = next(new)
            elif isinstance(value, tuple) and value and isinstance(value[0], Op):
                changes[name] = tuple(next(new) for _ in value)
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        return f"<{self.kind()} {self.name or hex(id(self))}: {self.type}>"


@op
class Input(Op):
    """A value that the caller feeds."""

    tensor_type: TensorType

    def infer(self) -> TensorType:
        """The declared type."""
        return self.tensor_type


@op
class Constant(Op):
    """A value known when the model is compiled.

    Attributes:
        array: The elements; kept as a read-only view, so that the caller's array stays as it is.
        tensor_type: The array's type and, for codes, what they mean; None where they mean nothing.
    """

    array: np.ndarray
    tensor_type: TensorType | None = None

    def __post_init__(self) -> None:
        view = np.asarray(self.array).view()  # of rank 0, numpy's functions give no arrays
        view.setflags(write=False)
        object.__setattr__(self, "array", view)
        super().__post_init__()

    def infer(self) -> TensorType:
        """The array's type, or the declared one, which must match it."""
        plain = TensorType(str(self.array.dtype), tuple(int(d) for d in self.array.shape))
        if (declared := self.tensor_type) is None:
            return plain
        self.expect(
            (declared.dtype, declared.shape) == (plain.dtype, plain.shape), str(declared), plain
        )
        return declared

    def numpy(self, *operands: np.ndarray) -> np.ndarray:
        """The array."""
        return self.array

    def interval(self, *operands: Any) -> Interval | None:
        """That of the elements, if they are integers."""
        return self._interval

    @cached_property
    def _interval(self) -> Interval | None:
        return Interval.of(self.array) if self.type.is_integer else None

    @property
    def is_scalar(self) -> bool:
        """Whether it holds exactly one element."""
        return self.array.size == 1


def toposort(roots: Iterable[Op], stop: Mapping[Op, Any] | None = None) -> list[Op]:
    """All ops that the roots need, operands first; below an op in `stop` nothing is visited."""
    order: list[Op] = []
    seen: set[Op] = set()
    stack: list[tuple[Op, bool]] = [(root, False) for root in reversed(list(roots))]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            if stop is None or node not in stop:
                stack.extend((x, False) for x in reversed(node.operands))
    return order


def fold(
    roots: Iterable[Op], env: dict[Op, _V], visit: Callable[[Op, list[_V]], _V]
) -> dict[Op, _V]:
    """Compute a value for every op from those of its operands; `env` holds the known ones."""
    for node in toposort(roots, env):
        if node not in env:
            env[node] = visit(node, [env[x] for x in node.operands])
    return env


def rebuilt(node: Op, operands: Sequence[Op]) -> Op:
    """The op on other operands; the same object where they are its own."""
    if all(new is old for new, old in zip(operands, node.operands, strict=True)):
        return node
    return node.with_operands(operands)


@functools.cache
def _field_names(cls: Hashable) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]  # a class


@functools.cache
def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
