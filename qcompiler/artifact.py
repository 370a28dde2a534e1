"""The artifact: one shared library with kernels, weights and metadata, and how to call it.

The file is an ordinary shared library followed by a trailer: the metadata as JSON, its length, the
SHA-256 of everything before and a magic word.  Loaders ignore what follows the library, weights are
mapped and not copied, and the metadata can be read without running anything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.errors import FileError, UsageError
from qcompiler.files import atomic_path
from qcompiler.graph import Input
from qcompiler.interpret import check_feeds
from qcompiler.types import Quantization, TensorType

if TYPE_CHECKING:
    from qcompiler.backends.tvm.run import Runner

MAGIC = b"QCOMPILE"
FORMAT = 1
"""Raised when older versions could not read newer files."""

_TRAILER = struct.Struct("<Q32s8s")


@dataclass(frozen=True)
class Value:
    """An input or output.

    Attributes:
        name: As in the model.
        type: Element type and shape; for a value that is quantized behind the entry or before the
            exit, what its codes mean there is in `quantization`.
        quantization: Storage, scale and zero point of the codes, or None.
    """

    name: str
    type: TensorType
    quantization: Quantization | None = None


@dataclass(frozen=True)
class KernelInfo:
    """One kernel of a library.

    Attributes:
        symbol: Its function.
        implementation: The rule of the kernel table, or "generic".
        ops: The names of the values that it computes, one per call.
        role: "entry" for the quantize of an input, "exit" for the dequantize of an output, "float"
            for ops that stayed real, "move" for ops that only move elements, else "integer".
        float_instructions: Floating-point instructions in its machine code.
    """

    symbol: str
    implementation: str
    ops: tuple[str, ...]
    role: str
    float_instructions: int


@dataclass(frozen=True)
class Metadata:
    """What a library says about itself.

    Attributes:
        model: Name of the model.
        inputs: In the order of the model.
        outputs: Likewise.
        target: Name of the target.
        architecture: "x86_64" or "aarch64".
        cpu: LLVM's name of the CPU.
        features: CPU features that the code may use.
        qcompiler: Version that compiled it.
        tvm: Version of TVM that compiled it.
        source_sha256: Digest of the source model, or None.
        kernels: Every kernel.
        weight_bytes: Size of all constants.
        workspace_bytes: Memory for values that each running call needs.
    """

    model: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    target: str
    architecture: str
    cpu: str
    features: tuple[str, ...]
    qcompiler: str
    tvm: str
    source_sha256: str | None
    kernels: tuple[KernelInfo, ...]
    weight_bytes: int
    workspace_bytes: int

    @property
    def float_instructions(self) -> int:
        """Floating-point instructions outside the kernels of the two ends."""
        return sum(k.float_instructions for k in self.kernels if k.role not in ("entry", "exit"))

    def to_json(self) -> str:
        """The metadata as it is stored."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """The inverse of `to_json`.

        Raises:
            ValueError: another format; KeyError or TypeError where fields are missing or unknown.
        """
        fields = json.loads(text)
        if (found := fields.pop("format", None)) != FORMAT:
            raise ValueError(f"format {found}")
        for key in ("inputs", "outputs"):
            fields[key] = tuple(_value(v) for v in fields[key])
        fields["features"] = tuple(fields["features"])
        fields["kernels"] = tuple(
            KernelInfo(**{**k, "ops": tuple(k["ops"])}) for k in fields["kernels"]
        )
        return cls(**fields)


def _value(fields: dict[str, Any]) -> Value:
    kind = fields["type"]
    tensor_type = TensorType(
        kind["dtype"], tuple(kind["shape"]), _quantization(kind["quantization"])
    )
    return Value(fields["name"], tensor_type, _quantization(fields["quantization"]))


def _quantization(fields: dict[str, Any] | None) -> Quantization | None:
    if fields is None:
        return None
    scale, zero_point = tuple(fields["scale"]), tuple(fields["zero_point"])
    return Quantization(fields["storage"], scale, zero_point, fields["axis"])


@dataclass(frozen=True, eq=False)
class CompiledModel:
    """A model that runs; several threads may call it at once.

    Attributes:
        path: The library.
        metadata: What it says about itself.
        threads: How many threads one call uses; None for the cores that this process may use.
        owner: Keeps the folder of an unsaved library alive.
    """

    path: Path
    metadata: Metadata
    threads: int | None = None
    owner: object = field(default=None, repr=False)

    @cached_property
    def runner(self) -> Runner:
        """The library, loaded.

        Raises:
            TargetError: it was compiled for a CPU with features that this one lacks.
            FileError: the dynamic linker refuses it.
            UsageError: `threads` is less than 1.
        """
        from qcompiler.backends.tvm.run import Runner

        return Runner(self.path, self.metadata, self.threads)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """What to feed, in the order of the model."""
        return self.metadata.inputs

    @property
    def outputs(self) -> tuple[Value, ...]:
        """What comes back."""
        return self.metadata.outputs

    def __call__(self, *feeds: Any) -> dict[str, np.ndarray]:
        """Run the model.

        Args:
            feeds: One mapping from input names to arrays, or the arrays in the order of the inputs:
                numpy arrays, or anything on the CPU that has DLPack, of exactly the declared dtype
                and shape.

        Returns:
            Output name → a new numpy array.

        Raises:
            UsageError: an input is missing, unknown, no array, or of another dtype or shape.
            TargetError: the model was compiled for another CPU.
        """
        if len(feeds) == 1 and isinstance(feeds[0], Mapping):
            named: dict[str, Any] = dict(feeds[0])
        elif len(feeds) == len(self.inputs):
            named = {v.name: x for v, x in zip(self.inputs, feeds, strict=True)}
        else:
            names = ", ".join(v.name for v in self.inputs)
            raise UsageError(f"expected {len(self.inputs)} inputs ({names}), found {len(feeds)}")
        arrays = {name: _array(name, x) for name, x in named.items()}
        check_feeds({v.name: Input(v.type, name=v.name) for v in self.inputs}, arrays)
        results = self.runner.run([arrays[v.name] for v in self.inputs])
        return {v.name: y for v, y in zip(self.outputs, results, strict=True)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the library to a file, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        with atomic_path(path) as temporary:
            shutil.copyfile(self.path, temporary)


def _array(name: str, x: Any) -> np.ndarray:
    if isinstance(x, np.ndarray):
        return x
    if not hasattr(x, "__dlpack__"):
        raise UsageError(f"input {name!r}: expected an array, found {type(x).__name__}")
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"input {name!r}: cannot be read by the CPU ({error})") from error


def load(path: str | os.PathLike[str], threads: int | None = None) -> CompiledModel:
    """Load a library that qcompiler compiled.

    Args:
        path: The file.
        threads: How many threads one call uses; by default, and at most, the cores that this
            process may use.

    Raises:
        FileError: the file is missing, damaged, or no library of qcompiler.
        TargetError: it was compiled for a CPU with features that this one lacks.
        UsageError: `threads` is less than 1.
    """
    model = CompiledModel(Path(path), read_metadata(path), threads)
    _ = model.runner  # what cannot run is refused here, not at the first call
    return model


def seal(library: Path, metadata: Metadata) -> None:
    """Append the trailer to a linked library."""
    text = metadata.to_json().encode()
    with library.open("ab") as file:
        file.write(text)
    digest = _digest(library, library.stat().st_size)
    with library.open("ab") as file:
        file.write(_TRAILER.pack(len(text), digest, MAGIC))


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """What a library says about itself; nothing of it is executed.

    Raises:
        FileError: the file is missing, damaged, or no library of qcompiler.
    """
    try:
        size = os.stat(path).st_size
        with open(path, "rb") as file:
            file.seek(max(0, size - _TRAILER.size))
            tail = file.read(_TRAILER.size)
            if len(tail) < _TRAILER.size or tail[-len(MAGIC) :] != MAGIC:
                raise FileError(
                    f"{path}: not a library compiled by qcompiler, or cut off: compile it again"
                )
            length, digest, _ = _TRAILER.unpack(tail)
            start = size - _TRAILER.size - length
            file.seek(max(0, start))
            text = file.read(length)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from error
    if start < 0 or _digest(Path(path), size - _TRAILER.size) != digest:
        raise FileError(f"{path}: damaged (its digest does not match): copy or compile it again")
    try:
        return Metadata.from_json(text.decode())
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{path}: compiled by another version of qcompiler ({error}): compile it again"
        ) from error


def _digest(path: Path, size: int) -> bytes:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return hashlib.sha256(memoryview(whole)[:size]).digest()
