"""The kernel table of CPUs for what is no product: entries, pools, sums, requantization."""

from __future__ import annotations

from qcompiler.backends.tvm.kernels.cpu.elementwise import Requantized
from qcompiler.backends.tvm.kernels.cpu.entry import Entry

CPU = (Entry(), Requantized())
"""The rules, in order of preference."""
