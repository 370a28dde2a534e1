"""qcompiler."""
