"""What the generated machine code contains: the proof that integer kernels are float-free."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_X86 = re.compile(
    r"v?(?:add|sub|mul|div|min|max|sqrt|rcp(?:14|28)?|rsqrt(?:14|28)?|round|rndscale|reduce|range|"
    r"fixupimm|getexp|getmant|scalef|cmp[a-z_]*|u?comi|dp|hadd|hsub|addsub|fn?m(?:add|sub)\w*)"
    r"[ps][sdh]"
    r"|v?cvt\w+"  # conversions, to and from
    r"|vdpbf16ps"
    r"|f[a-z0-9]+"  # x87
)
_AARCH64 = re.compile(
    r"f(?!mov)[a-z0-9]+"  # fadd, fmul, fcvtzs, frintm, …; fmov only moves
    r"|[su]cvtf"
    r"|bf(?:dot|mmla|mlalb|mlalt|cvt\w*)"
)
_MNEMONICS = {"x86_64": _X86, "aarch64": _AARCH64}

_FUNCTION = re.compile(r"\s*\.type\s+([^\s,]+),\s*[@%]function")
_LABEL = re.compile(r"([^\s:#/]+):")
_INSTRUCTION = re.compile(r"\s+([a-z][\w.]*)(?:\s+(.*))?$")
_SYMBOL = re.compile(r"[A-Za-z_.$][\w.$]*")
_CALLS = ("call", "callq", "bl", "jmp", "b")

_RUNTIME = re.compile(r"TVM\w+|__TVM\w+|mem(?:set|cpy|move)|__tvm\w+")
"""Functions that kernels may call: TVM's runtime and block moves."""


def float_instructions(assembly: str, kernels: Iterable[str], architecture: str) -> dict[str, int]:
    """Count floating-point arithmetic, comparisons and conversions in each kernel.

    Moves and bitwise operations do not count, even on registers that are called floating-point
    ones.  A call of a function that neither the module nor TVM's runtime defines, such as `expf`,
    counts as one.

    Args:
        assembly: GNU assembly of a module, as LLVM prints it.
        kernels: Symbols of the kernels; code that only they refer to, such as the bodies of their
            parallel loops, counts with them.
        architecture: "x86_64" or "aarch64".

    Returns:
        Kernel → count.

    Raises:
        KeyError: a kernel is not in the assembly, or the architecture is unknown.
    """
    functions = _functions(assembly)
    names = tuple(kernels)
    roots = frozenset(names)
    counts = {
        name: _count(body, functions, _MNEMONICS[architecture]) for name, body in functions.items()
    }
    references = {
        name: {s for _, text in body for s in _SYMBOL.findall(text) if s in functions}
        for name, body in functions.items()
    }
    totals = {}
    for name in names:
        seen, waiting = {name}, [name]
        while waiting:
            fresh = references[waiting.pop()] - seen - roots
            seen |= fresh
            waiting.extend(fresh)
        totals[name] = sum(counts[part] for part in seen)
    return totals


def _functions(assembly: str) -> dict[str, list[tuple[str, str]]]:
    """Function → its instructions as (mnemonic, operands)."""
    names = {m[1] for line in assembly.splitlines() if (m := _FUNCTION.match(line))}
    functions: dict[str, list[tuple[str, str]]] = {}
    body: list[tuple[str, str]] | None = None
    for line in assembly.splitlines():
        if (label := _LABEL.match(line)) and label[1] in names:
            body = functions.setdefault(label[1], [])
        elif body is not None and (found := _INSTRUCTION.match(line)):
            body.append((found[1], found[2] or ""))
    return functions


def _count(
    body: list[tuple[str, str]], functions: Mapping[str, object], mnemonics: re.Pattern[str]
) -> int:
    return sum(
        bool(mnemonics.fullmatch(mnemonic)) or _calls_stranger(mnemonic, operands, functions)
        for mnemonic, operands in body
    )


def _calls_stranger(mnemonic: str, operands: str, functions: Mapping[str, object]) -> bool:
    """Whether this is a call, tail calls included, of a function that may compute in float."""
    if mnemonic not in _CALLS or not (callee := re.match(r"([A-Za-z_][\w$]*)(?:@PLT)?$", operands)):
        return False  # a jump to a local label (.L…) or through a register
    return callee[1] not in functions and not _RUNTIME.fullmatch(callee[1])
