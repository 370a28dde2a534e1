"""The GPUs of this machine."""

from __future__ import annotations

import ctypes
import os

DRIVER = "QCOMPILER_CUDA_DRIVER"
"""Environment variable: path of the driver's library, if not libcuda.so.1."""

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR."""


def architectures() -> tuple[str, ...]:
    """Such as ("sm_90",), each once; none where there is no GPU or no driver."""
    try:
        driver = ctypes.CDLL(os.environ.get(DRIVER) or "libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    found = {_capability(driver, ordinal) for ordinal in range(count.value)}
    return tuple(f"sm_{major}{minor}" for major, minor in sorted(found))


def _capability(driver: ctypes.CDLL, ordinal: int) -> tuple[int, int]:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), ordinal)
    driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    return major.value, minor.value
