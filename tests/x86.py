"""The targets whose kernels tests compare with numpy, where this machine can run them."""

X86 = (
    "cpu:generic",
    "cpu:haswell",
    "cpu:skylake-avx512",
    "cpu:cascadelake",
    "cpu:icelake-server",
    "cpu:znver5",
)
"""One of each instruction set that the x86 kernels are generated for without AMX."""
