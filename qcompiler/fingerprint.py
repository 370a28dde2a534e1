"""What a value is computed from and how, in 32 bytes: the same in all graphs that compute it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from qcompiler.graph import Graph, Input, Op, fold
from qcompiler.types import raw

_known: WeakKeyDictionary[Op, bytes] = WeakKeyDictionary()


def fingerprints(graph: Graph) -> Mapping[Op, bytes]:
    """Op → SHA-256 of its kind, its attributes and the fingerprints of its operands.

    Names count for inputs alone.  What several graphs share is looked at once.

    >>> from qcompiler.ops import Add, Relu
    >>> from qcompiler.types import TensorType
    >>> def made(name: str) -> bytes:
    ...     x = Input(TensorType("float32", (2,)), name=name)
    ...     y = Relu(Add(x, x))
    ...     return fingerprints(Graph((x,), {"y": y}))[y]
    >>> made("x") == made("x"), made("x") == made("y")
    (True, False)
    """
    found = {node: _known[node] for node in graph.ops if node in _known}
    fold(graph.ops, found, _fingerprint)
    _known.update(found)
    return found


def _fingerprint(node: Op, operands: list[bytes]) -> bytes:
    digest = hashlib.sha256(node.kind().encode())
    if isinstance(node, Input):
        digest.update(repr(node.name).encode())
    given = iter(operands)
    for field in dataclasses.fields(node):
        if field.name not in ("name", "sources"):
            for part in _parts(getattr(node, field.name), given):
                digest.update(part)
    return digest.digest()


def _parts(value: Any, operands: Iterator[bytes]) -> Iterator[bytes | memoryview]:
    """A field's value as bytes that no other value gives; operands by their fingerprints."""
    match value:
        case Op():
            yield next(operands)
        case Graph():
            found = fingerprints(value)
            yield from (found[x] for x in (*value.inputs, *value.outputs.values()))
        case np.ndarray():
            yield f"{value.dtype}{value.shape}".encode()
            yield raw(value)
        case tuple():
            yield f"({len(value)}".encode()
            for item in value:
                yield from _parts(item, operands)
        case _ if dataclasses.is_dataclass(value):
            yield type(value).__name__.encode()
            for field in dataclasses.fields(value):
                yield from _parts(getattr(value, field.name), operands)
        case _:
            yield f"{value!r};".encode()
