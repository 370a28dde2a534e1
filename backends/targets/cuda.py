"""The GPUs of NVIDIA that come with qcompiler, as data."""

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

KERNELS = ("qcompiler.backends.tvm.kernels.cuda.rules:CUDA",)
"""Kernel tables of every GPU; an op that none of them serves takes the generic kernel."""
