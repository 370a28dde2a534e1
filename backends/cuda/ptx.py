"""What the generated PTX contains: the proof that integer kernels are float-free.

PTX has one instruction for a division of integers, for which the assembler may use the GPU's float
units and corrects their result exactly: see NVIDIA's "PTX ISA", `div`.
"""

from __future__ import annotations

import re

_FUNCTION = re.compile(
    r"^\s*(?:\.visible\s+|\.weak\s+)*\.(?:entry|func)\s+(?:\([^)]*\)\s*)?([\w$]+)"
)
_INSTRUCTION = re.compile(r"^\s*(?:@!?%\w+\s+)?([a-z][\w]*(?:\.[\w:]+)*)[\s;]")
_FLOAT = re.compile(
    r"\.(?:[bt]?f(?:16|32|64)(?:x2)?|e4m3(?:x2)?|e5m2(?:x2)?|e2m1(?:x2)?|approx|ftz)\b"
)
_MOVES = ("ld", "ldu", "st", "mov", "selp", "shfl")
_CALLEE = re.compile(r"call(?:\.uni)?\s+(?:\([^)]*\)\s*,\s*)?([\w$]+)")
_BUILTIN = re.compile(r"vprintf|__assertfail|malloc|free")


def float_instructions(ptx: str) -> dict[str, int]:
    """Count floating-point arithmetic, comparisons and conversions in each function.

    Loads, stores and moves do not count, whatever they are called.

    Args:
        ptx: A module, as nvcc prints it.

    Returns:
        Function → count, what it calls included.
    """
    counts: dict[str, int] = {}
    calls: dict[str, set[str]] = {}
    name = ""
    for line in ptx.splitlines():
        if found := _FUNCTION.match(line):
            name = found[1]
            counts.setdefault(name, 0)
            calls.setdefault(name, set())
        elif name and (instruction := _INSTRUCTION.match(line)):
            opcode = instruction[1]
            if opcode.partition(".")[0] not in _MOVES and _FLOAT.search(opcode):
                counts[name] += 1
            if opcode.startswith("call") and (callee := _CALLEE.search(line)):
                calls[name].add(callee[1])
    return {name: _total(name, counts, calls) for name in counts}


def _total(name: str, counts: dict[str, int], calls: dict[str, set[str]]) -> int:
    """With what is called; a function that is not in the module may compute in float."""
    seen, waiting = {name}, [name]
    while waiting:
        fresh = calls.get(waiting.pop(), set()) - seen
        seen |= fresh
        waiting.extend(fresh)
    return sum(counts[part] if part in counts else not _BUILTIN.fullmatch(part) for part in seen)
