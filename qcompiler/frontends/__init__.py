"""qcompiler.frontends."""
