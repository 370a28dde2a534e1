"""The CPUs that come with qcompiler, as data."""

from __future__ import annotations

from qcompiler.backends.target import Target

X86 = "x86_64-linux-gnu"
ARM = "aarch64-linux-gnu"


def cpu_target(name: str, triple: str | None, mcpu: str, mattr: tuple[str, ...] = ()) -> Target:
    """A CPU with all kernels that its features allow.

    Args:
        name: What the user calls it.
        triple: LLVM's; None for that of the machine that compiles.
        mcpu: LLVM's name of the CPU; "native" for the machine that compiles.
        mattr: LLVM's features, such as "+avxvnni", beyond those of the CPU.
    """
    fields: dict[str, object] = {"kind": "llvm", "mcpu": mcpu}
    if triple is not None:
        fields["mtriple"] = triple
    if mattr:
        fields["mattr"] = list(mattr)
    return Target(
        name,
        fields,
        kernels=("qcompiler.backends.cpu.kernels.rules:CPU",),
        builder="qcompiler.backends.cpu.build",
        runner="qcompiler.backends.cpu.run",
    )


NATIVE = cpu_target("cpu", None, "native")

CPUS = (
    NATIVE,
    cpu_target("cpu:generic", X86, "x86-64"),
    cpu_target("cpu:haswell", X86, "haswell"),
    cpu_target("cpu:skylake-avx512", X86, "skylake-avx512"),
    cpu_target("cpu:cascadelake", X86, "cascadelake"),
    cpu_target("cpu:icelake-server", X86, "icelake-server"),
    cpu_target("cpu:alderlake", X86, "alderlake"),
    cpu_target("cpu:sapphirerapids", X86, "sapphirerapids"),
    cpu_target("cpu:znver3", X86, "znver3"),
    cpu_target("cpu:znver4", X86, "znver4"),
    cpu_target("cpu:znver5", X86, "znver5"),
    cpu_target("cpu:aarch64", ARM, "generic"),
    cpu_target("cpu:cortex-a72", ARM, "cortex-a72"),
    cpu_target("cpu:cortex-a76", ARM, "cortex-a76"),
    cpu_target("cpu:neoverse-n1", ARM, "neoverse-n1"),
    cpu_target("cpu:neoverse-v1", ARM, "neoverse-v1"),
)
