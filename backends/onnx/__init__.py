"""backends.onnx."""
