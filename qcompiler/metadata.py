"""What a library says about itself, and how that is stored."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from qcompiler.types import Quantization, TensorType

FORMAT = 4
"""Raised when older versions could not read newer files."""


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
class Program:
    """What a library can be asked to compute.

    Attributes:
        name: "main", or what tells it from the library's other programs.
        inputs: In the order of the model.
        outputs: Likewise.
        calls: Index of the kernel of each call, in order.
        workspace_bytes: Memory for values that each running call needs.
        states: Index of an input, and of the output of the same type that replaces it in the next
            call.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    calls: tuple[int, ...]
    workspace_bytes: int
    states: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Part:
    """Samples that one run of a program computes.

    Attributes:
        program: Index of the program.
        first: Index of the first sample.
        count: How many; the program may be for more.
    """

    program: int
    first: int
    count: int


@dataclass(frozen=True)
class Batch:
    """Programs that compute the same of any number of samples, which are independent.

    Attributes:
        sizes: Samples of each program, increasing.
        inputs: Axis of each input that counts samples; None for one that all samples share.
        outputs: Axis of each output along which samples lie behind one another; likewise.
    """

    sizes: tuple[int, ...]
    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]

    def check(self, programs: tuple[Program, ...]) -> None:
        """Refuse what does not describe the programs.

        Raises:
            ValueError: it is said what.
        """
        if len(self.sizes) != len(programs) or list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError("a batch of other programs")
        for size, program in zip(self.sizes, programs, strict=True):
            ends = ((self.inputs, program.inputs), (self.outputs, program.outputs))
            for axes, values in ends:
                for axis, value in zip(axes, values, strict=True):
                    if axis is not None and (
                        axis >= value.type.rank or not size or value.type.shape[axis] % size
                    ):
                        raise ValueError(f"no {size} samples along axis {axis} of {value.name}")

    def samples(self, arrays: Sequence[Any]) -> int | None:
        """How many samples are fed; None where the first input that counts them cannot tell.

        Args:
            arrays: The inputs, with numpy's `shape`; None for one that is missing.
        """
        for x, axis in zip(arrays, self.inputs, strict=True):
            if axis is not None:
                return int(x.shape[axis]) if x is not None and axis < len(x.shape) else None
        return None

    def resized(self, kind: TensorType, axis: int | None, samples: int) -> TensorType:
        """The type for so many samples of an input or output of the first program."""
        if axis is None:
            return kind
        each = kind.shape[axis] // self.sizes[0]
        return kind.with_shape((*kind.shape[:axis], samples * each, *kind.shape[axis + 1 :]))

    def parts(self, samples: int) -> tuple[Part, ...]:
        """So many samples cut greedily: the largest program that is full, and so on."""
        found: list[Part] = []
        first = 0
        while first < samples:
            full = [i for i, size in enumerate(self.sizes) if size <= samples - first]
            program = full[-1] if full else 0
            count = min(self.sizes[program], samples - first)
            found.append(Part(program, first, count))
            first += count
        return tuple(found)


@dataclass(frozen=True)
class Lengths:
    """Programs that compute the same of sequences up to several lengths: shorter ones are padded.

    Attributes:
        capacities: Increasing; programs of one stand together, for each number of samples.
        inputs: Axis of each input along which sequences lie; None for others.
        outputs: Likewise.
    """

    capacities: tuple[int, ...]
    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]

    def check(self, programs: tuple[Program, ...], sizes: int) -> None:
        """Refuse what does not describe the programs, `sizes` for each capacity.

        Raises:
            ValueError: it is said what.
        """
        if list(self.capacities) != sorted(set(self.capacities)):
            raise ValueError("lengths of other programs")
        for i, program in enumerate(programs):
            capacity = self.capacities[i // sizes]
            ends = ((self.inputs, program.inputs), (self.outputs, program.outputs))
            for axes, values in ends:
                for axis, value in zip(axes, values, strict=True):
                    if axis is not None and value.type.shape[axis : axis + 1] != (capacity,):
                        raise ValueError(f"no {capacity} places along axis {axis} of {value.name}")


@dataclass(frozen=True)
class Metadata:
    """What a library says about itself.

    Attributes:
        model: Name of the model.
        programs: What can be run; the first is what a call runs, unless there is a batch.
        batch: Which numbers of samples the programs are for; None where the number is fixed.
        lengths: Which lengths of sequences they are for; likewise.
        target: Name of the target.
        architecture: "x86_64" or "aarch64".
        cpu: LLVM's name of the CPU; empty if the kernels are not for the CPU.
        features: CPU features that the code may use.
        qcompiler: Version that compiled it.
        tvm: Version of TVM that compiled it.
        source_sha256: Digest of the source model, or None.
        kernels: Every kernel, of all programs.
        threads: How many threads a call uses unless the loader says otherwise; None for the cores
            of the machine that runs it.
        weight_bytes: Size of all constants.
        device: "cpu", "cuda", …: what a builder calls what it builds for.
        runner: The module with the `Runner` of such libraries; see `qcompiler.backends.target`.
        gpus: The GPU architectures that it has code for, such as "sm_90".
        toolkit: Name and version of the GPU's compiler.
    """

    model: str
    programs: tuple[Program, ...]
    batch: Batch | None
    lengths: Lengths | None
    target: str
    architecture: str
    cpu: str
    features: tuple[str, ...]
    qcompiler: str
    tvm: str
    source_sha256: str | None
    kernels: tuple[KernelInfo, ...]
    threads: int | None
    weight_bytes: int
    device: str
    runner: str
    gpus: tuple[str, ...] = ()
    toolkit: str = ""

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Of the first program."""
        return self.programs[0].inputs

    @property
    def outputs(self) -> tuple[Value, ...]:
        """Likewise."""
        return self.programs[0].outputs

    @property
    def workspace_bytes(self) -> int:
        """Memory for values that a running call needs at most."""
        return max(program.workspace_bytes for program in self.programs)

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
        if (version := fields.pop("format", None)) != FORMAT:
            raise ValueError(f"format {version}")
        found: Metadata = _built(cls, fields)
        if misfit := _misfit(found, cls, "metadata"):
            raise ValueError(f"{misfit} is of another type")
        if not found.programs or not all(program.outputs for program in found.programs):
            raise ValueError("no outputs")
        if any(i >= len(found.kernels) for program in found.programs for i in program.calls):
            raise ValueError("an unknown kernel")
        for program in found.programs:
            for x, y in program.states:
                if program.inputs[x].type != program.outputs[y].type:
                    raise ValueError("a state of two types")
        groups = 1 if found.lengths is None else len(found.lengths.capacities)
        sizes = 1 if found.batch is None else len(found.batch.sizes)
        if (found.batch or found.lengths) and len(found.programs) != groups * sizes:
            raise ValueError("other programs than its sizes say")
        for group in range(groups if found.batch else 0):
            assert found.batch is not None
            found.batch.check(found.programs[group * sizes : (group + 1) * sizes])
        if found.lengths is not None:
            found.lengths.check(found.programs, sizes)
        return found


def _built(kind: Any, value: Any) -> Any:
    """A value of an annotated type from what JSON keeps of it."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        return kind(**{name: _built(hints[name], x) for name, x in value.items()})
    arguments = get_args(kind)
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_built(arguments[0], x) for x in value)
    inner = [k for k in arguments if dataclasses.is_dataclass(k)]
    return _built(inner[0], value) if inner else value


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
