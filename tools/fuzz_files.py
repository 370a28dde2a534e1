"""Damaged inputs of the command line: models, calibration samples, YAML, libraries.

Each kind of damage is a function of a random generator that writes files into an empty folder and
says which command reads them.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from fuzz_damage_models import damaged_model, special_model
from fuzz_runtime import build
from onnx import helper

from qcompiler.artifact import _TRAILER, MAGIC

Rng = np.random.Generator


@dataclass(frozen=True)
class Files:
    """A folder made for one command.

    Attributes:
        kind: What is damaged, for the report.
        command: The arguments of `qcompile`; paths are relative to the folder.
        output: What the command writes if it succeeds, if anything.
    """

    kind: str
    command: tuple[str, ...]
    output: str | None

    @property
    def quiet(self) -> tuple[str, ...]:
        """The option that leaves nothing but errors and warnings, where the command has it."""
        return () if self.command[0] in ("inspect", "bench") else ("--quiet",)


Damage = Callable[[Rng, Path, Path], Files]


def pick(rng: Rng, choices: tuple) -> object:  # type: ignore[type-arg]
    """One of them."""
    return choices[int(rng.integers(len(choices)))]


def damaged_bytes(rng: Rng, data: bytes) -> bytes:
    """Some bytes flipped, gone, doubled or new."""
    result = bytearray(data)
    if not result:
        return b"\0"
    at = int(rng.integers(len(result)))
    length = int(rng.integers(1, 64))
    match int(rng.integers(6)):
        case 0:
            del result[at:]
        case 1:
            del result[at : at + length]
        case 2:
            result[at:at] = result[at : at + length]
        case 3:
            result[at:at] = rng.bytes(length)
        case 4:
            result[at : at + length] = bytes(len(result[at : at + length]))
        case _:
            for place in rng.integers(0, len(result), int(rng.integers(1, 9))):
                result[place] = int(rng.integers(256))
    return bytes(result)


def small_model() -> onnx.ModelProto:
    """`y = relu(x · w)`, sound."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Relu", ["h"], ["y"], name="last"),
    ]
    x, y = np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float32)
    weight = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    return build(nodes, {"x": x}, {"w": weight}, {"y": y}, 17)


def _write_small(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(small_model().SerializeToString())


def _samples(folder: Path) -> None:
    samples = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    np.savez(folder / "calib.npz", x=samples)


def model(rng: Rng, folder: Path, library: Path) -> Files:
    """A random graph with a field of its protobuf changed, or with damaged bytes."""
    data, feeds = damaged_model(rng)
    if rng.random() < 0.3:
        data = damaged_bytes(rng, data)
    (folder / "model.onnx").write_bytes(data)
    np.savez(folder / "calib.npz", **feeds)  # type: ignore[arg-type]
    return _compile(rng, "model", "--calib", "calib.npz")


def absurd(rng: Rng, folder: Path, library: Path) -> Files:
    """A small model that asks for very much, or never ends."""
    (folder / "model.onnx").write_bytes(special_model(rng))
    return _compile(rng, "absurd model")


def _compile(rng: Rng, kind: str, *options: str) -> Files:
    if rng.random() < 0.1:
        return Files(kind, ("inspect", "model.onnx"), None)
    if rng.random() < 0.15:
        return Files(kind, ("model.onnx", *options, "-o", "out.so"), "out.so")
    command = ("model.onnx", *options, "--emit", "onnx", "-o", "out.onnx")
    return Files(kind, command, "out.onnx")


def samples(rng: Rng, folder: Path, library: Path) -> Files:
    """A damaged archive, or a sound one of arrays that do not fit."""
    _write_small(folder)
    name = "calib.npz"
    kind = int(rng.integers(4))
    stream = io.BytesIO()
    fine = rng.standard_normal((8, 4)).astype(np.float32)
    if kind == 0:
        np.savez(stream, x=fine)
        content = damaged_bytes(rng, stream.getvalue())
    elif kind == 1:
        name = "calib.npy"
        np.save(stream, fine)
        content = damaged_bytes(rng, stream.getvalue())
    elif kind == 2:
        np.savez(stream, **{str(pick(rng, ("x", "x", "z"))): _unfit(rng)})  # type: ignore[arg-type]
        content = stream.getvalue()
    else:
        content = _archive(rng)
    (folder / name).write_bytes(content)
    command = ("model.onnx", "--calib", name, "--emit", "onnx", "-o", "out.onnx")
    return Files("samples", command, "out.onnx")


def _unfit(rng: Rng) -> np.ndarray:
    shapes = ((), (0, 4), (8,), (8, 5), (4,), (3, 2, 4), (1, 1, 1, 4), (8, 0))
    dtypes = ("f4", "f2", "f8", "c8", "i8", "u1", "?", "S3", "U2", "M8[s]", "O", "f4,i4", ">f4")
    x = np.zeros(pick(rng, shapes), str(pick(rng, dtypes)))  # type: ignore[call-overload]
    if x.dtype.kind == "f":
        x = x + np.asarray(pick(rng, (0, 1e30, 1e-45, np.nan, np.inf, -np.inf, 1)), x.dtype)
    return np.asarray(x)


def _archive(rng: Rng) -> bytes:
    """A zip with headers that promise what is not there."""
    header = "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }"
    fields = (
        pick(rng, ("<f4", "<f8", "|O", "<U1000000000", "|V9", "nonsense", "<f4' + '")),
        pick(rng, ("False", "True", "None")),
        pick(rng, ("(8, 4)", "(-1, 4)", "(1000000000000, 4)", "8", "('a',)", "(" * 500)),
    )
    text = (header % fields).ljust(117) + "\n"
    member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    member += rng.bytes(int(pick(rng, (0, 7, 128, 4000))))  # type: ignore[call-overload]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        name = str(pick(rng, ("x.npy", "x", "../x.npy", "x.txt", "/x.npy", "")))
        archive.writestr(name or "nothing.npy", member)
        if rng.random() < 0.2:
            archive.writestr("x.npy/", b"")
    return stream.getvalue()


_YAML = """activations: uint8
weights: int8
residuals: int16
outputs: int24
table_scales: 8
rounding: nearest
method: mse
softmax: log2
softmax_bits: 4
softmax_base: 2.0
rules:
  - pattern: "*"
    method: percentile
  - pattern: last
    skip: true
"""
_TOKENS = (
    "{}", "[]", "null", "~", "true", "-1", "0", "1e400", ".nan", ".inf", "10" * 200, "''", "int",
    "uint8", "int1", "int0", "int99", "uint", "mse", "*a", "&a [*a]", "? ", "- -", "\t", "\0", "é",
    "!!python/object/apply:os.system [ls]", "!!binary aGk=", "2024-01-01", "[" * 3000,
    "{a: " * 2000, "0x7f", "0o17", "<<: *a", "|", ">", "%YAML 9.9", "---", "...", "!!set {a}",
    "12:30:45",
)  # fmt: skip


def configuration(rng: Rng, folder: Path, library: Path) -> Files:
    """YAML with values of other types, unknown keys, damaged bytes, references to itself."""
    _write_small(folder)
    _samples(folder)
    lines = _YAML.splitlines()
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(lines)))
        key, colon, _value = lines[at].partition(": ")
        token = str(pick(rng, _TOKENS))
        match int(rng.integers(5)):
            case 0:
                lines[at] = f"{key}{colon}{token}"
            case 1:
                lines[at] = token
            case 2:
                lines.insert(at, lines[at])
            case 3:
                lines[at] = lines[at].replace(key.strip(" -"), token)
            case _:
                del lines[at]
                lines = lines or [token]
    content = "\n".join(lines).encode()
    if rng.random() < 0.25:
        content = damaged_bytes(rng, content)
    if rng.random() < 0.03:
        layers = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(12)]
        content = "\n".join(layers).encode()
    (folder / "config.yaml").write_bytes(content)
    command = ("model.onnx", "--calib", "calib.npz", "--config", "config.yaml", "--emit", "onnx")
    return Files("YAML", (*command, "-o", "out.onnx"), "out.onnx")


def library(rng: Rng, folder: Path, sound: Path) -> Files:
    """A library with damaged bytes, or with metadata changed and sealed again."""
    data = sound.read_bytes()
    if rng.random() < 0.5:
        data = damaged_bytes(rng, data)
    else:
        data = _resealed(rng, data)
    (folder / "model.so").write_bytes(data)
    np.savez(folder / "in.npz", x=np.ones((1, 4), np.float32))
    match int(rng.integers(4)):
        case 0:
            return Files("library", ("inspect", "model.so"), None)
        case 1:
            return Files("library", ("bench", "model.so", "--runs", "1", "--no-limits"), None)
        case _:
            command = ("run", "model.so", "--input", "in.npz", "--output", "out.npz")
            return Files("library", command, "out.npz")


def _resealed(rng: Rng, data: bytes) -> bytes:

    length, _, _ = _TRAILER.unpack(data[-_TRAILER.size :])
    start = len(data) - _TRAILER.size - length
    fields = json.loads(data[start : start + length])
    _change(rng, fields)
    text = json.dumps(fields).encode() if rng.random() < 0.8 else damaged_bytes(rng, data[start:])
    whole = data[:start] + text
    return whole + _TRAILER.pack(len(text), hashlib.sha256(whole).digest(), MAGIC)


def _change(rng: Rng, fields: object) -> None:
    """A value of another type somewhere in nested mappings and lists.

    Plausible values (another size, say) are code that lies about itself, not damage.
    """
    values = (None, -1, 1.5, [], {}, [None], {"x": 1}, True, ["x"], -(2**70))
    while True:
        keys = list(fields) if isinstance(fields, dict) else list(range(len(fields)))  # type: ignore[arg-type,call-overload]
        if not keys:
            return
        key = keys[int(rng.integers(len(keys)))]
        inner = fields[key]  # type: ignore[index]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.8:
            fields = inner
            continue
        if isinstance(fields, dict) and rng.random() < 0.2:
            del fields[key]
        else:
            fields[key] = values[int(rng.integers(len(values)))]  # type: ignore[index]
        return


KINDS: tuple[tuple[Damage, float], ...] = (
    (model, 0.5), (absurd, 0.1), (samples, 0.15), (configuration, 0.1), (library, 0.15),
)  # fmt: skip
"""Kinds of damage and their shares."""


def damage(seed: int, folder: Path, sound: Path) -> Files:
    """The damaged files of a seed, written into an empty folder."""
    rng = np.random.default_rng(seed)
    kinds, shares = zip(*KINDS, strict=True)
    kind = kinds[int(rng.choice(len(kinds), p=shares))]
    return kind(rng, folder, sound)
