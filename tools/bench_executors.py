"""What `bench.py` compares: executors, their files on disk, and their processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from qcompiler import host
from qcompiler.backends.cpu import machine
from qcompiler.backends.cpu.kernels.isa import best_isa
from qcompiler.backends.targets import TARGETS, target

HERE = Path(__file__).resolve().parent
OURS = "cpu"


@dataclass(frozen=True)
class Executor:
    """One way to run a model.

    Attributes:
        name: In tables and for `--executors`.
        runtime: Key of `bench_worker.RUNTIMES`.
        recipe: What `bench_prepare.py` makes; None where the model runs as it is.
        suffix: Of the file.
        note: For tables: the instruction set of ours.
    """

    name: str
    runtime: str
    recipe: str | None = None
    suffix: str = ".onnx"
    note: str = ""


COMPETITORS = (
    Executor("ort-f32", "onnxruntime"),
    Executor("ort-int8", "onnxruntime", "onnxruntime-int8"),
    Executor("ov-f32", "openvino-f32", "openvino-float", ".xml"),
    Executor("ov-bf16", "openvino-bf16", "openvino-bf16", ".xml"),
    Executor("ov-int8", "openvino", "openvino-int8", ".xml"),
    Executor("tvm-f32", "tvm", "tvm-float", ".so", "default pipeline"),
)
SLOW = (Executor("tvm-tuned", "tvm", "tvm-tuned", ".so", "MetaSchedule"),)
"""Only measured where asked for by name: tuning takes hours."""


def own_executors() -> list[Executor]:
    """This project with each kernel table's instruction set that this machine has: once each."""
    found: dict[str, Executor] = {}
    has, here = machine.host_features(), host.architecture()
    for name in TARGETS:
        if not name.startswith(OURS):
            continue
        chosen = target(name)
        if not str(chosen.tvm.get("mtriple", here)).startswith(here):
            continue
        resolved = machine.tvm_target(chosen)
        if all(has.get(feature, False) for feature in machine.code_features(resolved)):
            isa = best_isa(resolved).name
            found.setdefault(isa, Executor(name, "ours", name, ".so", isa))
    return list(found.values())


@dataclass(frozen=True)
class Artifact:
    """A file that an executor runs, or why there is none."""

    executor: Executor
    path: Path
    facts: dict[str, Any]

    @property
    def reason(self) -> str | None:
        """Why it cannot run."""
        return self.facts.get("reason")

    @property
    def mib(self) -> float:
        """Size on disk, weights beside an OpenVINO model included."""
        paths = {self.path, self.path.with_suffix(".bin")} if self.path.suffix == ".xml" else None
        return sum(p.stat().st_size for p in paths or {self.path}) / 2**20


def prepare(
    executor: Executor, model: Path, feeds: Path, folder: Path, threads: int, limit: float
) -> Artifact:
    """Make the file, unless the folder has it from the same model by the same versions."""
    if executor.recipe is None:
        return Artifact(executor, model, {})
    key = hashlib.sha256(_digest(model) + _code(executor).encode()).hexdigest()[:16]
    path = folder / f"{model.stem}-{executor.name.replace(':', '_')}-{key}{executor.suffix}"
    record = path.with_suffix(".json")
    if not record.exists():
        command = [sys.executable, HERE / "bench_prepare.py", executor.recipe, model, feeds, path]
        facts = _answer([*command, str(threads)], limit, path.with_suffix(".log"))
        record.write_text(json.dumps(facts))
    return Artifact(executor, path, json.loads(record.read_text()))


def _answer(command: list[Any], limit: float, log: Path) -> dict[str, Any]:
    """The last line that the process prints, or the reason why there is none."""
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        ) as process,
    ):
        try:
            answer, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return {"reason": f"not ready after {limit:.0f} s"}
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # tuning has processes of its own
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
        return {"reason": f"failed: {lines[-1][:200]}"}
    return json.loads(answer)


@cache
def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@cache
def _code(executor: Executor) -> str:
    """What makes the file, for the key of the cache: sources of this project, or versions."""
    sources = [HERE / "bench_prepare.py"]
    if executor.runtime == "ours":
        folders = [HERE.parent / name for name in ("qcompiler", "passes", "backends")]
        kinds = ("*.py", "*.c", "*.h")
        sources += sorted(p for folder in folders for kind in kinds for p in folder.rglob(kind))
    digest = hashlib.sha256(" ".join([executor.name, *versions()]).encode())
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def versions() -> tuple[str, ...]:
    """Name and version of each tool that is installed."""
    names = ("qcompiler", "apache-tvm", "onnxruntime", "openvino", "nncf", "numpy")
    found = []
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return tuple(found)


class Worker:
    """A process that has loaded an artifact and waits; see `bench_worker`.

    Attributes:
        artifact: What it runs.
        facts: Its memory and the digest of its outputs.

    Raises:
        RuntimeError: the process ended; says why.
    """

    def __init__(self, artifact: Artifact, feeds: Path, threads: int, log: Path) -> None:
        self.artifact = artifact
        command = [sys.executable, HERE / "bench_worker.py", artifact.executor.runtime]
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [*map(str, command), str(artifact.path), str(feeds), str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.facts: dict[str, Any] = self._read()

    def run(self, calls: int) -> list[float]:
        """The seconds of each of so many calls."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            lines = self._log.read_text(errors="replace").strip().splitlines() or ["no message"]
            raise RuntimeError(f"ended with {code}: {lines[-1][:200]}")
        return json.loads(line)
