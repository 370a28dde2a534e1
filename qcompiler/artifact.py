"""The artifact: one shared library with kernels, weights and metadata, and how to call it.

The file is an ordinary shared library followed by a trailer: the metadata as JSON, its length, the
SHA-256 of everything before and a magic word.  Loaders ignore what follows the library, weights are
mapped and not copied, and the metadata can be read without running anything.
"""

from __future__ import annotations

import hashlib
import importlib
import mmap
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qcompiler.dispatch import expected
from qcompiler.errors import FileError, TargetError, TypingError, UsageError
from qcompiler.files import atomic_path
from qcompiler.interpret import check_feeds
from qcompiler.metadata import Metadata, Value

MAGIC = b"QCOMPILE"

_TRAILER = struct.Struct("<Q32s8s")


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
        """What to feed, in the order of the model; for a batch, of its smallest size."""
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
                and shape, but for the number of samples where `metadata.batch` leaves it open.  A
                model for GPUs takes tensors on the GPU too, which are not copied.
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
        check_feeds(expected(self.metadata, arrays), arrays)
        results = self.runner.run([arrays[v.name] for v in self.inputs])
        return {v.name: y for v, y in zip(self.outputs, results, strict=True)}

    def session(self, samples: int | None = None) -> Session:
        """The model with a state of its own, which begins with zeros.

        Args:
            samples: How many it remembers at once, where any number may be fed; by default 1.

        Raises:
            UsageError: the model has no state, or takes another number of samples.
        """
        return Session(self, samples)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the library to a file, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        with atomic_path(path) as temporary:
            shutil.copyfile(self.path, temporary)


class Session:
    """A model and what it remembers from one call to the next; one thread may call it at a time.

    Attributes:
        model: The model; several sessions may share it.
        states: Input name → codes, or reals where they stayed so.  They may be set.
    """

    def __init__(self, model: CompiledModel, samples: int | None = None) -> None:
        """Begin; see `CompiledModel.session`."""
        metadata = model.metadata
        batch, program = metadata.batch, metadata.programs[0]
        if not program.states:
            raise UsageError(
                f"{metadata.model}: has no state: compile it with --state INPUT=OUTPUT"
            )
        if samples is not None and (batch is None or samples < 1):
            expected = "at least 1" if batch is not None else "none, the number is fixed"
            raise UsageError(f"samples: expected {expected}, found {samples}")
        self.model = model
        self._after = {program.inputs[x].name: program.outputs[y].name for x, y in program.states}
        self._types = {}
        for x, _ in program.states:
            value = program.inputs[x]
            kind = value.type
            if batch is not None:
                kind = batch.resized(kind, batch.inputs[x], samples or 1)
            self._types[value.name] = kind
        self.states: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        """Forget: every state becomes that of zeros."""
        for name, kind in self._types.items():
            q = kind.quantization
            zero = 0 if q is None else q.zero_points(kind.rank)
            self.states[name] = np.full(kind.shape, zero, kind.dtype)

    def __call__(self, *feeds: Any, stream: Any = None) -> dict[str, Any]:
        """Run the model on its state, and keep the next one.

        Args:
            feeds: As for `CompiledModel`, of the inputs that are no states.
            stream: Likewise.

        Returns:
            Output name → array, states left out.

        Raises:
            UsageError: as `CompiledModel` does; a state is fed.
        """
        values = [v for v in self.model.inputs if v.name not in self._after]
        if len(feeds) == 1 and isinstance(feeds[0], Mapping):
            named = dict(feeds[0])
        elif len(feeds) == len(values):
            named = {v.name: x for v, x in zip(values, feeds, strict=True)}
        else:
            names = ", ".join(v.name for v in values)
            raise UsageError(f"expected {len(values)} inputs ({names}), found {len(feeds)}")
        if fed := [name for name in named if name in self._after]:
            raise UsageError(f"input {fed[0]!r}: the session keeps it: set session.states instead")
        results = self.model({**named, **self.states}, stream=stream)
        self.states = {name: results.pop(after) for name, after in self._after.items()}
        return results


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
