"""backends.tvm."""
