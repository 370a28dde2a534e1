"""Graphs in files: text and arrays, so that what failed can be sent, replayed and reduced.

A file is a zip archive in which nothing is compressed (that bounds what a damaged one asks for):

- `graph.jsonl`, one JSON value per line: first what the file is, then ops and regions, each behind
  what it refers to by the number of the line, and at last the graph.  Fields have the names and
  declared types of the ops' dataclasses; what holds its default is left out.
- `arrays/<sha256>`, the bytes of an array in C order, little-endian.  Equal ones are stored once.

`relu(x)` is

    {"format": "qcompiler graph", "version": 1, "note": ""}
    {"op": "input", "name": "x", "tensor_type": {"dtype": "float32", "shape": [2]}}
    {"op": "relu", "x": 1}
    {"graph": "graph", "inputs": [1], "outputs": {"y": 2}}

Reading builds ops through their constructors, which check them, and executes nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
import os
import types
import typing
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import FileError, QcompilerError, UsageError
from qcompiler.files import atomic_path
from qcompiler.graph.base import Op
from qcompiler.types import TensorType, raw

if TYPE_CHECKING:
    from qcompiler.graph.graph import Graph

FORMAT, VERSION = "qcompiler graph", 1
TEXT, ARRAYS = "graph.jsonl", "arrays/"
NAME_OFFSET = 30
"""Where a zip file has the name of its first member."""
AnyPath = str | os.PathLike[str]


def write(graph: Graph, path: AnyPath, note: str = "") -> None:
    """Write a graph; see `Graph.save`."""
    writer = _Writer(type(graph))
    writer.line({"format": FORMAT, "version": VERSION, "note": note})
    writer.add(graph)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        file.writestr(zipfile.ZipInfo(TEXT), "".join(f"{line}\n" for line in writer.lines))
        for name, array in writer.arrays.items():
            file.writestr(zipfile.ZipInfo(name), raw(array))


def read(path: AnyPath, graph_class: type[Graph]) -> Graph:
    """Read a graph; see `Graph.load`."""
    importlib.import_module("qcompiler.ops")  # whose ops are known as soon as they exist
    return _opened(path, lambda file: _Reader(file, graph_class).graph())


def read_note(path: AnyPath) -> str:
    """What the graph in a file was saved for.

    Raises:
        FileError: the file is missing, or no saved graph.
    """
    return _opened(path, lambda file: _header(_lines(file)))


def is_saved(path: Any) -> bool:
    """Whether this is the path of a file that begins as saved graphs do."""
    if not isinstance(path, (str, os.PathLike)) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        file.seek(NAME_OFFSET)
        return file.read(len(TEXT)) == TEXT.encode()


def _opened(path: AnyPath, work: typing.Callable[[zipfile.ZipFile], Any]) -> Any:
    try:
        with zipfile.ZipFile(path) as file:
            return work(file)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}: name a saved graph") from None
    except Exception as error:  # whatever a damaged file leads to, the file is to blame
        raise FileError(
            f"{path}: no graph that this version of qcompiler saved, or damaged "
            f"({_reason(error)}): save it again"
        ) from error


def _reason(error: Exception) -> str:
    known = isinstance(error, (ValueError, QcompilerError))
    return " ".join((str(error) if known else f"{type(error).__name__}: {error}").split())


class _Writer:
    """Numbers the values of a graph, and collects its arrays."""

    def __init__(self, graph_class: type[Graph]) -> None:
        self.graph_class = graph_class
        self.lines: list[str] = []
        self.numbers: dict[Op | Graph, int] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def line(self, fields: dict[str, Any]) -> None:
        self.lines.append(json.dumps(fields))

    def add(self, graph: Graph) -> None:
        """Write a graph behind all that it consists of, once."""
        if graph in self.numbers:
            return
        for node in graph.ops:
            if node not in self.numbers:
                fields = {"op": node.kind(), **self._fields(node)}
                self.numbers[node] = len(self.lines)
                self.line(fields)
        fields = {
            "graph": graph.name,
            "inputs": [self.numbers[x] for x in graph.inputs],
            "outputs": {name: self.numbers[y] for name, y in graph.outputs.items()},
            **({"open_batch": dict(graph.open_batch)} if graph.open_batch else {}),
            **({"open_length": dict(graph.open_length)} if graph.open_length else {}),
            **({"states": dict(graph.states)} if graph.states else {}),
        }
        self.numbers[graph] = len(self.lines)
        self.line(fields)

    def _fields(self, value: Any) -> dict[str, Any]:
        fields = {f.name: (getattr(value, f.name), f.default) for f in dataclasses.fields(value)}
        if isinstance(value, Op):
            fields["sources"] = (value.sources, ())  # and not those of where it is read
        return {k: self._encoded(v) for k, (v, default) in fields.items() if v is not default}

    def _encoded(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, self.graph_class):
            self.add(value)
            return self.numbers[value]
        if isinstance(value, Op):
            return self.numbers[value]
        if isinstance(value, tuple):
            return [self._encoded(x) for x in value]
        if isinstance(value, np.ndarray):
            name = ARRAYS + hashlib.sha256(raw(value)).hexdigest()
            self.arrays[name] = value
            return {"dtype": str(value.dtype), "shape": list(value.shape), "member": name}
        if isinstance(value, (int, np.integer)):
            return int(value)
        if isinstance(value, (float, np.floating)):
            return float(value)
        if dataclasses.is_dataclass(value):
            return self._fields(value)
        raise UsageError(f"graph: a {type(value).__name__} in an op cannot be saved")


class _Reader:
    """Builds the values of a file line by line."""

    def __init__(self, file: zipfile.ZipFile, graph_class: type[Graph]) -> None:
        self.file = file
        self.graph_class = graph_class
        self.kinds = {kind.kind(): kind for kind in _subclasses(Op)}
        self.values: list[Op | Graph | None] = [None]
        self.arrays: dict[str, bytes] = {}

    def graph(self) -> Graph:
        """The graph of the last line."""
        lines = _lines(self.file)
        _header(lines)
        for number, line in enumerate(lines[1:], 1):
            self.values.append(self._value(number, line))
        return self._reference(len(self.values) - 1, self.graph_class)

    def _value(self, number: int, line: str) -> Op | Graph:
        try:
            return self._parsed(json.loads(line))
        except Exception as error:
            raise ValueError(f"{TEXT}, line {number}: {_reason(error)}") from error

    def _parsed(self, fields: dict[str, Any]) -> Op | Graph:
        if "op" in fields:
            if (name := fields.pop("op")) not in self.kinds:
                raise ValueError(f"no op is called {name!r} here")
            return self._built(self.kinds[name], {"sources": [], **fields})
        name, inputs, outputs = (fields.pop(key) for key in ("graph", "inputs", "outputs"))
        return self.graph_class(
            tuple(self._reference(x, Op) for x in inputs),
            {key: self._reference(y, Op) for key, y in outputs.items()},
            self._decoded(str, name),
            {str(x): _exactly(int, axis) for x, axis in fields.get("open_batch", {}).items()},
            {str(x): _exactly(str, y) for x, y in fields.get("states", {}).items()},
            {str(x): _exactly(int, axis) for x, axis in fields.get("open_length", {}).items()},
        )

    def _reference(self, number: Any, wanted: type) -> Any:
        value = self.values[_exactly(int, number)]
        return _exactly(wanted, value)

    def _built(self, kind: type, fields: dict[str, Any]) -> Any:
        hints = _hints(kind)
        return kind(**{name: self._decoded(hints[name], value) for name, value in fields.items()})

    def _decoded(self, hint: Any, value: Any) -> Any:
        """The value of a field that is declared as `hint`."""
        outer, inner = typing.get_origin(hint), typing.get_args(hint)
        if outer in (typing.Union, types.UnionType):
            (some,) = (x for x in inner if x is not type(None))
            return None if value is None else self._decoded(some, value)
        if outer is tuple:
            items = _exactly(list, value)
            each = inner[:1] * len(items) if inner[-1] is ... else inner
            return tuple(self._decoded(x, item) for x, item in zip(each, items, strict=True))
        if issubclass(hint, (Op, self.graph_class)):
            return self._reference(value, hint)
        if hint is np.ndarray:
            return self._array(**value)
        if dataclasses.is_dataclass(hint):
            return self._built(typing.cast(type, hint), value)
        return value if hint is float and type(value) is int else _exactly(hint, value)

    def _array(self, dtype: str, shape: list[int], member: str) -> np.ndarray:
        expected = TensorType(dtype, tuple(shape))
        if member not in self.arrays:
            self.arrays[member] = _member(self.file, member)
        return np.frombuffer(self.arrays[member], dtype).reshape(expected.shape)


def _exactly(kind: type, value: Any) -> Any:
    if type(value) is not kind and not (issubclass(kind, Op) and isinstance(value, kind)):
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """The declared types of the fields that a constructor takes."""
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if f.init}


def _subclasses(kind: type[Op]) -> list[type[Op]]:
    below = kind.__subclasses__()
    return [*below, *(x for sub in below for x in _subclasses(sub))]


def _member(file: zipfile.ZipFile, name: str) -> bytes:
    if file.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return file.read(name)


def _lines(file: zipfile.ZipFile) -> list[str]:
    return _member(file, TEXT).decode("ascii").splitlines()


def _header(lines: list[str]) -> str:
    """The note in the first line."""
    header = json.loads(lines[0])
    if (header["format"], header["version"]) != (FORMAT, VERSION):
        raise ValueError(f"{header['format']} {header['version']}, expected {FORMAT} {VERSION}")
    return _exactly(str, header["note"])
