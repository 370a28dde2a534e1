"""qcompiler.ops."""
