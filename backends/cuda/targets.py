"""The GPUs of NVIDIA that come with qcompiler, as data."""

from __future__ import annotations

from qcompiler.backends.target import Target

DEFAULT = ("sm_80", "sm_86", "sm_89", "sm_90")
"""What "cuda" compiles for where no GPU is installed: Ampere, Ada and Hopper."""

ARCHITECTURES = (
    "sm_70",
    "sm_75",
    "sm_80",
    "sm_86",
    "sm_87",
    "sm_89",
    "sm_90",
    "sm_100",
    "sm_103",
    "sm_110",
    "sm_120",
    "sm_121",
)
"""What "cuda:sm_90" may name; the CUDA compiler must know it."""


def capability(architecture: str) -> int:
    """90 for "sm_90" and "sm_90a"."""
    return int(architecture.removeprefix("sm_").rstrip("af"))


def gpu_target(name: str, *architectures: str) -> Target:
    """GPUs with all kernels that their generation has.

    Args:
        name: What the user calls them.
        architectures: What a library has code for; none stands for the GPUs of this machine.
    """
    return Target(
        name,
        {"kind": "cuda", "max_num_threads": 1024, "thread_warp_size": 32},
        kernels=("qcompiler.backends.cuda.kernels.rules:CUDA",),
        builder="qcompiler.backends.cuda.build",
        runner="qcompiler.backends.cuda.run",
        architectures=architectures,
    )


GPUS = (
    gpu_target("cuda"),
    *(gpu_target(f"cuda:{architecture}", architecture) for architecture in ARCHITECTURES),
)
