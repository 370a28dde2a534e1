"""The artifact: one shared library with kernels, weights and metadata, and how to call it.

The file is an ordinary shared library followed by a trailer: the metadata as JSON, its length, the
SHA-256 of everything before and a magic word.  Loaders ignore what follows the library, weights are
mapped and not copied, and the metadata can be read without running anything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import mmap
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, get_args, get_origin, get_type_hints

import numpy as np

from qcompiler.errors import FileError, TargetError, TypingError, UsageError
from qcompiler.files import atomic_path
from qcompiler.graph import Input
from qcompiler.interpret import check_feeds
from qcompiler.types import Quantization, TensorType

MAGIC = b"QCOMPILE"
FORMAT = 3
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
        float_instructions: Floating-point instructions in its machine code, or in its PTX.
        macs: Multiply-accumulates of one call.
        nbytes: Operands and results of one call, each byte once.
    """

    symbol: str
    implementation: str
    ops: tuple[str, ...]
    role: str
    float_instructions: int
    macs: int
    nbytes: int


@dataclass(frozen=True)
class Metadata:
    """What a library says about itself.

    Attributes:
        model: Name of the model.
        inputs: In the order of the model.
        outputs: Likewise.
        target: Name of the target.
        architecture: "x86_64" or "aarch64".
        cpu: LLVM's name of the CPU; empty if the kernels are not for the CPU.
        features: CPU features that the code may use.
        qcompiler: Version that compiled it.
        tvm: Version of TVM that compiled it.
        source_sha256: Digest of the source model, or None.
        kernels: Every kernel.
        calls: Index of the kernel of each call, in order.
        threads: How many threads a call uses unless the loader says otherwise; None for the cores
            of the machine that runs it.
        weight_bytes: Size of all constants.
        workspace_bytes: Memory for values that each running call needs.
        device: "cpu", "cuda", …: what a builder calls what it builds for.
        runner: The module with the `Runner` of such libraries; see `qcompiler.backends.target`.
        gpus: The GPU architectures that it has code for, such as "sm_90".
        toolkit: Name and version of the GPU's compiler.
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
    calls: tuple[int, ...]
    threads: int | None
    weight_bytes: int
    workspace_bytes: int
    device: str
    runner: str
    gpus: tuple[str, ...] = ()
    toolkit: str = ""

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
            ValueError: another format; KeyError or TypeError where fields are missing, unknown or
                of another type.
        """
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError("no mapping")
        if (found := fields.pop("format", None)) != FORMAT:
            raise ValueError(f"format {found}")
        if any(isinstance(fields[key], dict) for key in ("inputs", "outputs", "calls")):
            raise TypeError("a mapping for a list")
        for key in ("inputs", "outputs"):
            fields[key] = tuple(_value(v) for v in fields[key])
        for key in ("features", "calls", "gpus"):
            fields[key] = tuple(fields[key])
        fields["kernels"] = tuple(
            KernelInfo(**{**k, "ops": tuple(k["ops"])}) for k in fields["kernels"]
        )
        found = cls(**fields)
        if misfit := _misfit(found, cls, "metadata"):
            raise ValueError(f"{misfit} is of another type")
        if not found.outputs:
            raise ValueError("no outputs")
        if any(i >= len(found.kernels) for i in found.calls):
            raise ValueError("an unknown kernel")
        return found


def _misfit(value: Any, kind: Any, where: str) -> str | None:
    """Where a value is not of its annotated type: a negative count is of none."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind).items()
        if not isinstance(value, kind):
            return where
        inner = ((getattr(value, name), hint, f"{where}.{name}") for name, hint in hints)
        return next(filter(None, (_misfit(*item) for item in inner)), None)
    arguments = get_args(kind)
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return where
        return next(filter(None, (_misfit(v, arguments[0], where) for v in value)), None)
    if arguments:  # a union
        return where if all(_misfit(value, k, where) for k in arguments) else None
    if kind is int and where.rpartition(".")[2] not in ("zero_point", "axis"):
        return where if type(value) is not int or value < 0 else None
    return None if type(value) is kind or (kind is float and type(value) is int) else where


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


class Runner(Protocol):
    """A library that is loaded on the device that it was compiled for."""

    def accept(self, name: str, x: Any, stream: Any) -> Any:
        """An input as an array that this device reads, with numpy's `dtype` and `shape`.

        Raises:
            UsageError: it is no array, or lies elsewhere.
        """
        ...

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Feed what `accept` returned and `check_feeds` checked.

        Raises:
            TargetError: the device fails.
        """
        ...


@dataclass(frozen=True, eq=False)
class CompiledModel:
    """A model that runs; several threads may call it at once.

    Attributes:
        path: The library.
        metadata: What it says about itself.
        threads: How many threads one call uses, if not what the metadata says.
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
            TargetError: it was compiled for a CPU with features that this one lacks, for a GPU
                where there is none, or by a package that is not installed.
            FileError: the dynamic linker refuses it.
            UsageError: `threads` is less than 1.
        """
        name, target = self.metadata.runner, self.metadata.target
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise TargetError(
                f"{self.path}: compiled for {target}, whose runner {name} cannot be imported "
                f"({error}): install the package that provides this target"
            ) from error
        runner: Runner = module.Runner(self.path, self.metadata, self.threads)
        return runner

    @property
    def inputs(self) -> tuple[Value, ...]:
        """What to feed, in the order of the model."""
        return self.metadata.inputs

    @property
    def outputs(self) -> tuple[Value, ...]:
        """What comes back."""
        return self.metadata.outputs

    def __call__(self, *feeds: Any, stream: Any = None) -> dict[str, Any]:
        """Run the model.

        Args:
            feeds: One mapping from input names to arrays, or the arrays in the order of the inputs:
                numpy arrays, or anything on the CPU that has DLPack, of exactly the declared dtype
                and shape.  A model for GPUs takes tensors on the GPU too, which are not copied.
            stream: With tensors on the GPU, the stream of CUDA to run on: a number, or an object of
                torch or CuPy; by default torch's current stream for its tensors, else the default
                stream.  As for any kernel, the tensors must be kept until that stream is done with
                them, or belong to it.

        Returns:
            Output name → a new numpy array; for tensors on the GPU, a new tensor there, of the same
            library, which may still be computed: work on other streams waits for it.

        Raises:
            UsageError: an input is missing, unknown, no array, or of another dtype or shape.
            TargetError: the model was compiled for another device, or the device fails.
        """
        if len(feeds) == 1 and isinstance(feeds[0], Mapping):
            named: dict[str, Any] = dict(feeds[0])
        elif len(feeds) == len(self.inputs):
            named = {v.name: x for v, x in zip(self.inputs, feeds, strict=True)}
        else:
            names = ", ".join(v.name for v in self.inputs)
            raise UsageError(f"expected {len(self.inputs)} inputs ({names}), found {len(feeds)}")
        arrays = {name: self.runner.accept(name, x, stream) for name, x in named.items()}
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


def host_array(name: str, x: Any) -> np.ndarray:
    """An input as a numpy array.

    Raises:
        UsageError: it is no array, or not on the CPU.
    """
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
        threads: How many threads one call uses: at most the cores that this process may use; by
            default what the model was compiled with, else all of them.

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
    except (ValueError, KeyError, TypeError, AttributeError, TypingError) as error:
        raise FileError(
            f"{path}: compiled by another version of qcompiler ({error}): compile it again"
        ) from error


def _digest(path: Path, size: int) -> bytes:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return hashlib.sha256(memoryview(whole)[:size]).digest()
