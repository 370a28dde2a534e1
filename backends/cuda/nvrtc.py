"""NVRTC, the CUDA compiler as a library: where no toolkit is installed."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcompiler.backends.cuda.compiler import Code
from qcompiler.errors import TargetError

_INTEGERS = "\n".join(
    f"using int{bits}_t = signed {name}; using uint{bits}_t = unsigned {name};"
    for bits, name in ((8, "char"), (16, "short"), (32, "int"), (64, "long long"))
)
_TRAITS = """
template <class T, T v> struct constant { static constexpr T value = v; };
using no = constant<bool, false>; using yes = constant<bool, true>;
template <class A, class B> struct is_same : no {};
template <class A> struct is_same<A, A> : yes {};
template <class A, class B> constexpr bool is_same_v = is_same<A, B>::value;
template <class T> struct is_floating_point
    : constant<bool, is_same_v<T, float> || is_same_v<T, double>> {};
template <class T> struct is_signed : constant<bool, (T(-1) < T(0))> {};
template <class T> struct is_unsigned : constant<bool, (T(0) < T(-1))> {};
template <class T> struct is_integral : constant<bool, !is_floating_point<T>::value> {};
template <bool b, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { using type = T; };
template <bool b, class A, class B> struct conditional { using type = A; };
template <class A, class B> struct conditional<false, A, B> { using type = B; };
"""
_HEADERS = {
    "cuda/std/cstdint": f"namespace cuda {{ namespace std {{ {_INTEGERS} }} }}",
    "cuda/std/type_traits": f"namespace cuda {{ namespace std {{ {_TRAITS} }} }}",
    "math_constants.h": "#define CUDART_INF_F __int_as_float(0x7f800000)\n"
    "#define CUDART_NAN_F __int_as_float(0x7fffffff)\n"
    "#define CUDART_INF __longlong_as_double(0x7ff0000000000000ll)\n",
}
"""What the sources include; the real headers come with a toolkit only."""


def find() -> Nvrtc | None:
    """NVRTC of the package `nvidia-cuda-nvrtc` (also `-cu12`), or of the system."""
    found = (Nvrtc(path, library) for path in _candidates() if (library := _opened(path)))
    return next(found, None)


def _opened(path: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(path)
    except OSError:
        return None


def _candidates() -> Iterator[str]:
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield from map(str, sorted(Path(folder).glob("*/lib/libnvrtc.so.*"), reverse=True))
    yield from ("libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12")


@dataclass(frozen=True)
class Nvrtc:
    """A `compiler.Compiler`.

    Attributes:
        path: Of the library.
        library: The library, opened.
    """

    path: str
    library: Any

    @property
    def version(self) -> str:
        """Such as "NVRTC 13.0"."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return f"NVRTC {major.value}.{minor.value}"

    def architectures(self) -> tuple[str, ...]:
        """What it generates code for."""
        number = ctypes.c_int()
        self.library.nvrtcGetNumSupportedArchs(ctypes.byref(number))
        found = (ctypes.c_int * number.value)()
        self.library.nvrtcGetSupportedArchs(found)
        return tuple(f"sm_{arch}" for arch in found)

    def compile(self, source: str, architecture: str) -> Code:
        """Compile a module to PTX and a cubin.

        Raises:
            TargetError: NVRTC refuses it.
        """
        program = ctypes.c_void_p()
        texts = (ctypes.c_char_p * len(_HEADERS))(*(x.encode() for x in _HEADERS.values()))
        names = (ctypes.c_char_p * len(_HEADERS))(*(x.encode() for x in _HEADERS))
        self._check(
            self.library.nvrtcCreateProgram(
                ctypes.byref(program), source.encode(), b"kernels.cu", len(_HEADERS), texts, names
            )
        )
        try:
            options = (f"--gpu-architecture={architecture}", "-std=c++17", "-fmad=false", "-w")
            array = (ctypes.c_char_p * len(options))(*(x.encode() for x in options))
            if self.library.nvrtcCompileProgram(program, len(options), array):
                log = self._get(program, "ProgramLog").decode(errors="replace")
                lines = [x for x in log.splitlines() if "error" in x] or ["no message"]
                raise TargetError(f"{self.path}: cannot compile the kernels: {lines[0]}")
            ptx = self._get(program, "PTX").rstrip(b"\0").decode()
            return Code(ptx, self._get(program, "CUBIN"))
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))

    def _get(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self.library, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _check(self, result: int) -> None:
        if result:
            self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
            reason = self.library.nvrtcGetErrorString(result).decode()
            raise TargetError(f"{self.path}: {reason}")
