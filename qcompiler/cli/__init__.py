"""qcompiler.cli."""
