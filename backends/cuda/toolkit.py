"""The CUDA compiler: nvcc and ptxas of a CUDA toolkit, or else NVRTC."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qcompiler.backends.cuda import nvrtc
from qcompiler.backends.cuda.compiler import Code, Compiler
from qcompiler.errors import TargetError

_ARCHITECTURE = re.compile(r"(?:compute|sm)_(\d+[af]?)")


@dataclass(frozen=True)
class Nvcc:
    """The compiler of a toolkit that is installed.

    Attributes:
        path: nvcc; ptxas is taken from beside it, where it is, or from the path.
    """

    path: str

    @property
    def version(self) -> str:
        """Such as "nvcc 13.0"."""
        found = re.search(r"release (\d+\.\d+)", _output([self.path, "--version"]))
        return f"nvcc {found[1] if found else '?'}"

    def architectures(self) -> tuple[str, ...]:
        """What it generates code for."""
        found = _ARCHITECTURE.findall(_output([self.path, "--list-gpu-arch"]))
        return tuple(f"sm_{number}" for number in found)

    def compile(self, source: str, architecture: str) -> Code:
        """Compile a module to PTX, and that to a cubin.

        Raises:
            TargetError: the compiler refuses it.
        """
        number = architecture.removeprefix("sm_")
        with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
            place = Path(folder)
            (place / "kernels.cu").write_text(source)
            options = [f"-arch=compute_{number}", "-std=c++17", "-fmad=false", "-w"]
            _output([self.path, "-ptx", *options, "kernels.cu", "-o", "kernels.ptx"], place)
            _output([self._ptxas, f"-arch=sm_{number}", "kernels.ptx", "-o", "out.cubin"], place)
            return Code((place / "kernels.ptx").read_text(), (place / "out.cubin").read_bytes())

    @property
    def _ptxas(self) -> str:
        beside = Path(self.path).with_name("ptxas")
        return str(beside) if beside.exists() else "ptxas"


def find_compiler() -> Compiler:
    """nvcc of $CUDA_HOME, of the path or of /usr/local/cuda; else NVRTC.

    Raises:
        TargetError: there is neither.
    """
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    for folder in ([f"{home}/bin"] if home else []) + [None, "/usr/local/cuda/bin"]:
        if found := shutil.which("nvcc", path=folder):
            return Nvcc(found)
    if (library := nvrtc.find()) is not None:
        return library
    raise TargetError(
        "no CUDA compiler: install a CUDA toolkit (nvcc on the path, or CUDA_HOME), or NVRTC "
        "(pip install nvidia-cuda-nvrtc)"
    )


@cache
def _cached_output(command: tuple[str, ...]) -> str:
    return _run(command, None)


def _output(command: list[str], folder: Path | None = None) -> str:
    return _cached_output(tuple(command)) if folder is None else _run(tuple(command), folder)


def _run(command: tuple[str, ...], folder: Path | None) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise TargetError(f"{command[0]}: cannot be run ({error.strerror})") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        reason = next((line for line in lines if "error" in line or "fatal" in line), lines[-1])
        raise TargetError(f"{command[0]}: cannot compile the kernels: {reason}")
    return done.stdout
