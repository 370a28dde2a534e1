"""backends.tvm.kernels.cpu."""
