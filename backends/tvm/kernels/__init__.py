"""backends.tvm.kernels."""
