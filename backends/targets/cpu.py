"""The CPUs that come with qcompiler, as data."""

TRIPLES = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
}
"""Architecture → LLVM triple."""

CPUS = {
    "cpu": ("native", "native"),
    "cpu:generic": ("x86_64", "x86-64"),
    "cpu:haswell": ("x86_64", "haswell"),
    "cpu:skylake-avx512": ("x86_64", "skylake-avx512"),
    "cpu:cascadelake": ("x86_64", "cascadelake"),
    "cpu:icelake-server": ("x86_64", "icelake-server"),
    "cpu:alderlake": ("x86_64", "alderlake"),
    "cpu:sapphirerapids": ("x86_64", "sapphirerapids"),
    "cpu:znver3": ("x86_64", "znver3"),
    "cpu:znver4": ("x86_64", "znver4"),
    "cpu:znver5": ("x86_64", "znver5"),
    "cpu:aarch64": ("aarch64", "generic"),
    "cpu:cortex-a72": ("aarch64", "cortex-a72"),
    "cpu:cortex-a76": ("aarch64", "cortex-a76"),
    "cpu:neoverse-n1": ("aarch64", "neoverse-n1"),
    "cpu:neoverse-v1": ("aarch64", "neoverse-v1"),
}
"""Name → architecture and LLVM CPU; "native" is the machine that compiles."""

KERNELS = (
    "qcompiler.backends.tvm.kernels.depthwise:CPU",
    "qcompiler.backends.tvm.kernels.products:CPU",
    "qcompiler.backends.tvm.kernels.attention:CPU",
    "qcompiler.backends.tvm.kernels.normalization:CPU",
    "qcompiler.backends.tvm.kernels.codes:CPU",
)
"""Kernel tables of every CPU; an op that none of them serves takes the generic kernel."""
