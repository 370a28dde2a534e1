"""From a file, bytes or an object to an `onnx_ir.Model`, and from its tensors to arrays.

Files come from anywhere: nothing outside the model's folder is read, sizes are compared before
memory is taken, and whatever a damaged file makes a reader raise becomes one line.
"""

from __future__ import annotations

import collections
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from qcompiler.errors import FileError, ModelError, QcompilerError, UnsupportedError, UsageError
from qcompiler.types import DTYPES, FLOAT, FLOATS

# onnx_ir logs what it tolerates in a damaged model; the import refuses it in one line instead.
logging.getLogger("onnx_ir").addHandler(logging.NullHandler())

_LONGEST_WORD = 300  # of messages, which hold whatever a file calls its parts
_NAMES = {ir.DataType.FLOAT: FLOAT, ir.DataType.DOUBLE: "float64"}
"""Where ONNX and numpy call an element type differently."""

SUB_BYTE = (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2)
"""Integers that are kept in a byte each."""


@dataclass(frozen=True)
class Source:
    """A loaded model and where it came from.

    Attributes:
        model: Not to be modified.
        folder: Where external data may lie; None for a model in memory.
    """

    model: ir.Model
    folder: Path | None

    @property
    def opset(self) -> int | None:
        """The version of the standard operators that the model declares."""
        versions = self.model.opset_imports
        return versions.get("", versions.get("ai.onnx"))


def label_of(model: object) -> str:
    """What errors call a model: its path, or "model" when it lives in memory."""
    return os.fspath(model) if isinstance(model, str | os.PathLike) else "model"


def load(model: str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model) -> Source:
    """Read a model; tensors stay where they are until they are used.

    Raises:
        FileError: the file is missing, unreadable or no ONNX model.
        ModelError: the model is damaged.
        UsageError: the argument is of another type.
    """
    folder = None
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        folder = path.absolute().parent
        model = parse(read(path))
    elif isinstance(model, bytes):
        model = parse(model)
    if isinstance(model, onnx.ModelProto):
        model = deserialize(model)
    if not isinstance(model, ir.Model):
        raise UsageError(
            f"expected a path, bytes, onnx.ModelProto or onnx_ir.Model, found {type(model)}"
        )
    return Source(model, folder)


def read(path: Path) -> bytes:
    """The bytes of a regular, non-empty file.

    Raises:
        FileError: there is none, or it cannot be read.
    """
    try:
        if path.is_dir():
            raise FileError("is a directory: expected an ONNX file")
        if not path.exists():
            raise FileError("no such file: expected an ONNX file")
        if not path.is_file():
            raise FileError("is not a regular file: expected an ONNX file")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be read: {one_line(error)}") from None
    if not data:
        raise FileError("is empty: expected an ONNX file")
    if data.startswith(b"version https://git-lfs"):
        raise FileError("is a Git LFS pointer, not the model: fetch it with 'git lfs pull'")
    return data


def parse(data: bytes) -> onnx.ModelProto:
    """Decode a serialized model.

    Raises:
        FileError: the bytes are something else.
        ModelError: they begin like a model but are cut short or damaged.
    """
    try:
        proto = onnx.ModelProto.FromString(data)
    except Exception:  # protobuf's DecodeError
        if data[:1] == b"\x08":  # the field ir_version, which writers put first
            raise ModelError("is truncated or damaged: export or copy it again") from None
        raise FileError("is not an ONNX model: expected a serialized ModelProto") from None
    if not proto.HasField("graph"):
        raise FileError("is not an ONNX model: it holds no graph")
    return proto


def deserialize(proto: onnx.ModelProto) -> ir.Model:
    """The model as onnx_ir sees it.

    Raises:
        ModelError: the model contradicts itself.
    """
    if any(isinstance(name, bytes) for name in _names(proto.graph)):  # protobuf's invalid UTF-8
        raise ModelError("is damaged: a name is not text")
    if proto.graph.sparse_initializer:
        raise UnsupportedError("sparse initializers: store the weights densely")
    initializers = collections.Counter(t.name for t in proto.graph.initializer)
    if initializers[""]:
        raise ModelError("an initializer has no name")
    if twice := [name for name, count in initializers.items() if count > 1]:
        raise ModelError(f"initializer {twice[0]!r} is given twice")
    for x in proto.graph.input:
        if (kind := x.type.WhichOneof("value")) == "map_type":  # onnx_ir cannot read it
            raise UnsupportedError(f"input {x.name!r}: expected a tensor, found a {kind}")
    try:
        return ir.from_proto(proto)
    except Exception as error:  # a damaged model makes onnx_ir fail in many ways
        raise ModelError(f"is damaged: {one_line(error)}") from None


def _names(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    for node in graph.node:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            yield from _names(attribute.g)
    yield graph.name
    yield from (x.name for x in (*graph.input, *graph.output, *graph.initializer))


def to_array(tensor: ir.TensorProtocol, folder: Path | None) -> np.ndarray:
    """The elements of a tensor; every float type as float32.

    Raises:
        ModelError: data and declared shape disagree, or elements are not finite in float32.
        UnsupportedError: elements of a type that the IR lacks, such as strings.
    """
    what = f"tensor {tensor.name!r}"
    dtype = dtype_of(tensor.dtype)
    if dtype not in DTYPES and tensor.dtype not in SUB_BYTE:
        raise UnsupportedError(f"{what}: elements of type {dtype}")
    try:
        dims = tuple(int(d) for d in tensor.shape)  # type: ignore[arg-type]
        if isinstance(tensor, ir.ExternalTensor):
            array = _external(tensor, folder or _base(tensor), dims)
        elif 0 not in dims and _is_empty(tensor):  # onnx_ir would read zeros
            raise ModelError(f"{what}: declared as {list(dims)}, but it holds no data")
        else:
            array = np.asarray(tensor.numpy())
            array = array.copy() if array.flags.writeable else array
    except QcompilerError:
        raise
    except Exception as error:  # lazily decoded data fails in many ways
        raise ModelError(
            f"{what}: its data does not fit {dtype}{tensor.shape}: {one_line(error)}"
        ) from None
    if array.shape != dims:
        raise ModelError(f"{what}: declared as {list(dims)}, but its data is {list(array.shape)}")
    if tensor.dtype in SUB_BYTE:
        return array.astype("uint8" if dtype.startswith("u") else "int8")
    return real(array)


def _is_empty(tensor: ir.TensorProtocol) -> bool:
    fields = ("raw_data", "float_data", "int32_data", "int64_data", "uint64_data", "double_data")
    return isinstance(tensor, ir.TensorProtoTensor) and not any(
        len(getattr(tensor.raw, name)) for name in fields
    )


def dtype_of(element: ir.DataType) -> str:
    """The dtype of an element type inside of a graph, where every float is float32."""
    dtype = declared_dtype(element)
    return FLOAT if dtype in FLOATS else dtype


def declared_dtype(element: ir.DataType) -> str:
    """What numpy calls an element type."""
    return _NAMES.get(element, element.name.lower())


def real(array: np.ndarray) -> np.ndarray:
    """The array, as float32 if it holds floats of any width."""
    if array.dtype.name not in FLOATS or array.dtype == FLOAT:
        return np.asarray(array, array.dtype.newbyteorder("="), order="C")
    with np.errstate(over="ignore"):  # what becomes infinite is reported by name
        return array.astype(FLOAT)


def not_finite(array: np.ndarray) -> str | None:
    """What is wrong with an array that holds NaN or infinities; None if it holds none."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return None
    nans, infinities = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    return f"holds {nans} NaN and {infinities} infinite values as float32: expected finite ones"


def _base(tensor: ir.ExternalTensor) -> Path | None:
    return Path(tensor.base_dir) if str(tensor.base_dir) else None


def _external(tensor: ir.ExternalTensor, folder: Path | None, dims: tuple[int, ...]) -> np.ndarray:
    what = f"tensor {tensor.name!r}: its external data {os.fspath(tensor.location)!r}"
    if folder is None:
        raise ModelError(f"{what} has no folder: import the model by its path")
    path = (folder / tensor.location).resolve()
    if os.path.isabs(tensor.location) or not path.is_relative_to(folder.resolve()):
        raise ModelError(f"{what} lies outside the model's folder: move it there")
    if not path.is_file():
        raise FileError(f"{what} is missing: expected it beside the model, in {folder}")
    dtype = tensor.dtype.numpy()
    count = int(np.prod(dims, dtype=object))
    if tensor.dtype in SUB_BYTE:
        raise UnsupportedError(f"{what} has elements of less than a byte: store them in the model")
    offset, size = tensor.offset or 0, count * dtype.itemsize
    if min((offset, *dims)) < 0:
        raise ModelError(f"{what} has offset {offset}, shape {list(dims)}: expected sizes ≥ 0")
    if tensor.length not in (None, 0, size):
        raise ModelError(f"{what} has {tensor.length} bytes: {list(dims)} needs {size}")
    if offset + size > path.stat().st_size:
        raise ModelError(
            f"{what} ends at byte {path.stat().st_size}: expected {offset + size}; "
            "it is cut short or belongs to another model"
        )
    return np.fromfile(path, dtype.newbyteorder("<"), count, offset=offset).reshape(dims)


def one_line(error: BaseException, limit: int = 200) -> str:
    """What a foreign error says, at its root and in one line of at most `limit` characters."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = printable(str(error)) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}…"


def printable(text: str) -> str:
    """The text in one line, without what a terminal would not show; words of hundreds are cut."""
    words = (w if len(w) <= _LONGEST_WORD else f"{w[:_LONGEST_WORD]}…" for w in text.split())
    return "".join(c if c.isprintable() else "?" for c in " ".join(words))
